"""A small model that transcribes telephone numbers from noisy push-button tones (DTMF).

python train.py --config=configs/tones_ctc.py --workdir=runs/tones

Then: python generate.py --workdir=runs/tones --input=FILE. Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.speech_recognition(source="tones", architecture="sound_encoder")
    config.data.global_batch_size = 32

    config.model.width = 64
    config.model.depth = 2
    config.model.pattern = "R"
    config.model.recurrence = "gru"
    config.model.subsampling = 4
    config.model.subsampling_channels = 16

    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 50
    config.train.steps = 600
    config.train.evaluate_every_steps = 150
    config.checkpoint.every_steps = 300
    return config
