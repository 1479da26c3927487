r"""A residual network (ResNet-18) on your own images, in one folder per class.

python train.py --config=configs/image_folder_resnet.py --workdir=runs/pictures \
    --config.data.path=PICTURES

PICTURES contains `cat/1.jpg`, `dog/7.png`, ... (docs/data.md). If all images have the same size
of up to 64 pixels, they keep it; otherwise they are resized to 224 x 224. For a quick try, use
`--config.data.image_size=64`. The run ends after eight evaluations in a row without improvement.
Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.image_classification(source="image_folder", architecture="resnet")
    config.data.global_batch_size = 32
    config.data.augmentation.crop = "random_resized"
    config.data.augmentation.crop_smallest_area = 0.5
    config.data.augmentation.flip_probability = 0.5

    config.model.depth = 18
    config.task.label_smoothing = 0.1

    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.05
    config.train.steps = 2000
    config.train.evaluate_every_steps = 100
    config.train.stop_after_evaluations = 8
    config.checkpoint.every_steps = 200
    config.checkpoint.best_metric = "accuracy"
    return config
