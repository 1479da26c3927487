r"""A small Conformer that tells which of some words is spoken, on labelled recordings.

python train.py --config=configs/speech_classification.py --workdir=runs/words \
    --config.data.path=MANIFEST

The manifest has a row for each recording: its `path` and its `label` (docs/data.md). Measured on
the Free Spoken Digit Dataset: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.sound_classification(source="sound_labels", architecture="conformer")
    config.data.sample_rate = 8000
    config.data.num_mels = 40
    config.data.global_batch_size = 32

    config.model.width = 96
    config.model.depth = 2
    config.model.num_heads = 4
    config.model.convolution_size = 15
    config.model.subsampling = 4
    config.model.subsampling_channels = 16
    config.model.dropout = 0.2
    config.task.label_smoothing = 0.1

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.train.steps = 1200
    config.train.evaluate_every_steps = 200
    config.checkpoint.every_steps = 400
    return config
