r"""A small encoder-decoder that turns dates in words into ISO dates, character by character.

python train.py --config=configs/dates_seq2seq.py --workdir=runs/dates
python generate.py --workdir=runs/dates --prompt="the third of May, 1987"
"""

from configs import base


def get_config():
    config = base.sequence_to_sequence(source="dates", tokenizer="characters")
    config.data.global_batch_size = 32
    config.data.length_buckets = 1

    config.model.width = 64
    config.model.depth = 2
    config.model.num_heads = 4

    config.optimizer = base.section("optimizer", "muon")
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 50
    config.train.steps = 1200
    config.train.evaluate_every_steps = 600
    config.checkpoint.every_steps = 600
    config.checkpoint.best_metric = "exact_match"
    config.task.beam_size = 1
    return config
