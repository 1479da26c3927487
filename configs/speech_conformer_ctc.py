r"""A small Conformer that spells spoken words, on recordings with transcripts.

python train.py --config=configs/speech_conformer_ctc.py --workdir=runs/speech \
    --config.data.path=MANIFEST

The manifest has a row for each recording: its `path` and its `text` (docs/data.md). Then:
python generate.py --workdir=runs/speech --input=FILE. Measured on the Free Spoken Digit Dataset:
see docs/results.md.
"""

from configs import base


def get_config():
    config = base.speech_recognition(source="sound_transcripts", architecture="conformer")
    config.data.sample_rate = 8000
    config.data.num_mels = 40
    config.data.global_batch_size = 32

    config.model.width = 96
    config.model.depth = 3
    config.model.num_heads = 4
    config.model.convolution_size = 15
    config.model.subsampling = 2
    config.model.subsampling_channels = 16
    config.model.dropout = 0.1

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.train.steps = 1500
    config.train.evaluate_every_steps = 250
    config.checkpoint.every_steps = 500
    return config
