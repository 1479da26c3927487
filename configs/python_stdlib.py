"""A small Llama-style language model on the source code of Python's standard library.

python train.py --config=configs/python_stdlib.py --workdir=runs/python_stdlib

Needs no download: the data is the source files of the running Python. Some of the files are held
out for validation. Measured: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.language_modeling(source="python_stdlib", tokenizer="bpe")
    config.data.tokenizer.vocabulary_size = 4096
    config.data.sequence_length = 128
    config.data.global_batch_size = 16
    config.data.validation_fraction = 0.05

    config.model.width = 192
    config.model.depth = 4
    config.model.num_heads = 4

    config.precision.products = "bfloat16"
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 40
    config.train.steps = 350
    config.train.evaluate_every_steps = 175
    config.checkpoint.every_steps = 175

    config.task.sample_prompts = ("import ", "def main(", "class ")
    config.checkpoint.best_metric = "bits_per_byte"
    return config
