r"""ViT-S/16 on ImageNet, as trained by Beyer et al. 2022 (arXiv:2205.01580).

tfds build imagenet2012 --file_format=array_record
    (once, in an environment with TensorFlow, and with files from image-net.org)
python train.py --config=configs/imagenet_vit_s16.py --workdir=runs/imagenet_vit

90 epochs with batches of 1,024 images. Fixed position encodings, mean pooling instead of a class
token, light RandAugment and mixup. Validation accuracy in the literature: 76.5 %. For accelerators;
compiled for a slice of TPUs (docs/results.md), not trained by us.
"""

from configs import base

PICTURES, BATCH = 1_281_167, 1024


def get_config():
    config = base.image_classification(source="tfds_pictures", architecture="vit")
    config.data.name = "imagenet2012"
    config.data.image_size = 224
    config.data.global_batch_size = BATCH
    config.data.workers = 32
    config.data.crop_ratio = 0.875
    config.data.augmentation.crop = "random_resized"
    config.data.augmentation.crop_smallest_area = 0.05
    config.data.augmentation.flip_probability = 0.5
    config.data.augmentation.randaugment_layers = 2
    config.data.augmentation.randaugment_magnitude = 10.0

    config.model.patch_size = 16
    config.model.width = 384
    config.model.depth = 12
    config.model.num_heads = 6
    config.model.positions = "sincos"
    config.model.pooling = "mean"
    config.model.norm = "layer_norm"
    config.model.feed_forward = "gelu"
    config.model.use_bias = True

    config.task.mixup = 0.2

    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.1
    config.optimizer.gradient_clip_norm = 1.0
    config.optimizer.warmup_steps = 10_000
    config.train.steps = 90 * PICTURES // BATCH
    config.train.evaluate_every_steps = PICTURES // BATCH
    config.checkpoint.every_steps = PICTURES // BATCH
    config.checkpoint.best_metric = "accuracy"
    return config
