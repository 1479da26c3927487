"""A small convolutional network on the 1,797 handwritten digits that come with scikit-learn.

python train.py --config=configs/digits_cnn.py --workdir=runs/digits

Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.image_classification(source="digits", architecture="cnn")
    config.data.global_batch_size = 64

    config.model.channels = (32, 64)
    config.model.width = 128
    config.model.dropout = 0.3

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 50
    config.train.steps = 600
    config.train.evaluate_every_steps = 100
    config.checkpoint.every_steps = 200
    config.checkpoint.best_metric = "accuracy"
    return config
