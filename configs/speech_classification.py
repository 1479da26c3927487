r"""A small Conformer that classifies recordings of single spoken words.

python train.py --config=configs/speech_classification.py --workdir=runs/words \
    --config.data.path=MANIFEST

The manifest has a row for each recording, with its `path` and `label` (docs/data.md). On the Free
Spoken Digit Dataset: test accuracy 0.997 after two and a half minutes on 2 CPU cores
(docs/results.md).
"""

from configs import base


def get_config():
    config = base.sound_classification(source="sound_labels", architecture="conformer")
    config.data.sample_rate = 8000
    config.data.num_mels = 40
    config.data.normalization = "recording"
    config.data.length_buckets = 2
    config.data.augmentation.shift_milliseconds = 50.0
    config.data.augmentation.speed = 0.1
    config.data.augmentation.noise_probability = 0.3
    config.data.augmentation.frequency_masks = 2
    config.data.augmentation.frequency_mask_bands = 8
    config.data.augmentation.time_masks = 2
    config.data.augmentation.time_mask_frames = 10
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
    config.train.steps = 2400
    config.train.ema_decay = 0.995
    config.train.evaluate_every_steps = 400
    config.checkpoint.every_steps = 800
    return config
