r"""ResNet-50 on ImageNet, as trained by Goyal et al. 2017 (arXiv:1706.02677), except for a cosine
schedule and label smoothing of 0.1.

tfds build imagenet2012 --file_format=array_record
    (once, in an environment with TensorFlow, and with files from image-net.org)
python train.py --config=configs/imagenet_resnet50.py --workdir=runs/imagenet_resnet50

90 epochs with batches of 1,024 images. SGD, with a learning rate of 0.1 per 256 images, five
epochs of warm-up, and no weight decay of norms and biases. Validation accuracy in the literature:
76.5 %. For accelerators; compiled for a slice of TPUs (docs/results.md), not trained by us.
"""

from configs import base

PICTURES, BATCH = 1_281_167, 1024


def get_config():
    config = base.image_classification(source="tfds_pictures", architecture="resnet")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.global_batch_size = BATCH
    config.data.workers = 32
    config.data.crop_ratio = 0.875
    config.data.augmentation.crop = "random_resized"
    config.data.augmentation.flip_probability = 0.5

    config.model.depth = 50
    config.model.zero_init_residual = True
    config.task.label_smoothing = 0.1

    config.optimizer = base.section("optimizer", "sgd")
    config.optimizer.learning_rate = 0.1 * BATCH / 256
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_steps = 5 * PICTURES // BATCH
    config.train.steps = 90 * PICTURES // BATCH
    config.train.evaluate_every_steps = PICTURES // BATCH
    config.checkpoint.every_steps = PICTURES // BATCH
    config.checkpoint.best_metric = "accuracy"
    return config
