"""A small ConvNeXt on the 1,797 handwritten digits that come with scikit-learn.

python train.py --config=configs/digits_convnext.py --workdir=runs/digits_convnext

Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.image_classification(source="digits", architecture="convnext")
    config.data.global_batch_size = 64
    config.data.augmentation.crop = "padded"
    config.data.augmentation.crop_padding = 1

    config.model.patch_size = 1
    config.model.channels = (32, 64)
    config.model.depths = (2, 2)
    config.model.stochastic_depth = 0.1

    config.optimizer.learning_rate = 6e-3
    config.optimizer.warmup_steps = 50
    config.train.steps = 1000
    config.train.ema_decay = 0.99
    config.train.evaluate_every_steps = 200
    config.checkpoint.every_steps = 200
    config.checkpoint.best_metric = "accuracy"
    return config
