"""A small vision transformer on the 1,797 handwritten digits that come with scikit-learn.

python train.py --config=configs/digits_vit.py --workdir=runs/digits_vit

Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.image_classification(source="digits", architecture="vit")
    config.data.global_batch_size = 64
    config.data.augmentation.crop = "padded"
    config.data.augmentation.crop_padding = 1

    config.model.patch_size = 4
    config.model.width = 64
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.norm = "layer_norm"
    config.model.feed_forward = "gelu"
    config.model.use_bias = True
    config.model.pooling = "mean"
    config.model.dropout = 0.1

    config.optimizer = base.section("optimizer", "muon")
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 50
    config.train.steps = 1000
    config.train.ema_decay = 0.99
    config.train.evaluate_every_steps = 250
    config.checkpoint.every_steps = 500
    config.checkpoint.best_metric = "accuracy"
    return config
