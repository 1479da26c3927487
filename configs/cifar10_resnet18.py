r"""ResNet-18 on CIFAR-10, with the stem for small images.

tfds build cifar10 --file_format=array_record     (once, in an environment with TensorFlow)
python train.py --config=configs/cifar10_resnet18.py --workdir=runs/cifar10

200 epochs of SGD with padded crops and flips (He et al. 2016, section 4.2), and a cosine schedule.
Test accuracy in the literature: 95 to 96 %. For accelerators; not trained by us.
"""

from configs import base


def get_config():
    config = base.image_classification(source="tfds_pictures", architecture="resnet")
    config.data.name = "cifar10"
    config.data.global_batch_size = 128
    config.data.augmentation.crop = "padded"
    config.data.augmentation.flip_probability = 0.5

    config.model.depth = 18
    config.model.stem = "small"
    config.model.zero_init_residual = True

    config.optimizer = base.section("optimizer", "sgd")
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.optimizer.warmup_steps = 2000
    config.train.steps = 70_000
    config.train.evaluate_every_steps = 3500
    config.checkpoint.every_steps = 3500
    config.checkpoint.best_metric = "accuracy"
    return config
