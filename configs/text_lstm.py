r"""A word-level language model with two LSTM layers (Zaremba et al. 2014, arXiv:1409.2329).

python train.py --config=configs/text_lstm.py --workdir=runs/text_lstm \
    --config.data.path=input.txt

Measured, and compared with PyTorch's LSTM: see docs/results.md.
"""

from configs import base


def get_config():
    config = base.language_modeling(source="text_files", tokenizer="words", architecture="rnn")
    config.data.tokenizer.vocabulary_size = 10_000
    config.data.sequence_length = 35
    config.data.global_batch_size = 20

    config.model.width = 200
    config.model.depth = 2
    config.model.recurrence = "lstm"
    config.model.tied_embeddings = True
    config.model.dropout = 0.3

    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 100
    config.train.steps = 1500
    config.train.evaluate_every_steps = 250
    config.checkpoint.every_steps = 500
    config.task.sample_prompts = ("ROMEO:",)
    return config
