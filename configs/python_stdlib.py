"""A small Llama-shaped language model on the sources of Python's own standard library.

python train.py --config=configs/python_stdlib.py --workdir=runs/python_stdlib

The data is on every machine: the files that the running Python was installed with, of which
whole ones are held out for validation. Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.language_modeling(source="python_stdlib", tokenizer="bpe")
    config.data.tokenizer.vocabulary_size = 4096
    config.data.sequence_length = 256
    config.data.global_batch_size = 16
    config.data.validation_fraction = 0.05

    config.model.width = 256
    config.model.depth = 4
    config.model.num_heads = 4

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 20
    config.train.steps = 130
    config.train.evaluate_every_steps = 65
    config.checkpoint.every_steps = 65

    config.task.sample_prompts = ("import ", "def main(", "class ")
    config.checkpoint.best_metric = "bits_per_byte"
    return config
