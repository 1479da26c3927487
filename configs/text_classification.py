r"""A small bidirectional encoder that classifies texts.

python train.py --config=configs/text_classification.py --workdir=runs/labels \
    --config.data.path=texts.csv

The table has a column `text` and a column `label` (docs/data.md). Recurrence or convolution can
replace attention: `--config.model.pattern=R`, `C`, or a combination. Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.text_classification(tokenizer="bpe", architecture="encoder")
    config.data.tokenizer.vocabulary_size = 4096
    config.data.sequence_length = 128
    config.data.global_batch_size = 32

    config.model.width = 128
    config.model.depth = 2
    config.model.num_heads = 4
    config.model.dropout = 0.3
    config.task.label_smoothing = 0.1

    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 50
    config.optimizer.weight_decay = 0.1
    config.train.steps = 1000
    config.train.evaluate_every_steps = 100
    config.train.stop_after_evaluations = 4
    config.checkpoint.every_steps = 200
    config.checkpoint.best_metric = "accuracy"
    return config
