"""A small bidirectional encoder that fills in masked tokens of Python source code.

python train.py --config=configs/masked_language_model.py --workdir=runs/masked

Then: python generate.py --workdir=runs/masked --prompt="import [MASK]". Measured: see
docs/results.md.
"""

from configs import base


def get_config():
    config = base.language_modeling(
        source="python_stdlib",
        tokenizer="bpe",
        architecture="encoder",
        task="masked_language_modeling",
    )
    config.data.tokenizer.vocabulary_size = 4096
    config.data.sequence_length = 128
    config.data.global_batch_size = 16
    config.data.validation_fraction = 0.05

    config.model.width = 192
    config.model.depth = 4
    config.model.num_heads = 4

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.train.steps = 1500
    config.train.evaluate_every_steps = 250
    config.checkpoint.every_steps = 500
    return config
