"""A recipe that stays as it is, for tests that count on its numbers."""

from configs import base


def get_config():
    config = base.language_modeling(source="python_stdlib", tokenizer="bpe")
    config.data.tokenizer.vocabulary_size = 4096
    config.data.sequence_length = 256
    config.data.global_batch_size = 16
    config.model.width = 256
    config.model.depth = 4
    config.model.num_heads = 4
    config.optimizer.learning_rate = 2e-3
    config.train.steps = 600
    config.task.sample_prompts = ("import ", "def main(", "class ")
    config.checkpoint.best_metric = "bits_per_byte"
    return config
