r"""GPT-2 with 124 million parameters (Radford et al. 2019), with nanoGPT's training settings.

python train.py --config=configs/gpt2_124m.py --workdir=runs/gpt2 \
    --config.data.path='text/*.txt'

For accelerators: each update sees half a million tokens. If they do not fit, set
`train.gradient_accumulation` to split them into parts. Not trained by us.
"""

from configs import base


def get_config():
    config = base.language_modeling(source="text_files", tokenizer="bpe")
    config.data.tokenizer.vocabulary_size = 50304  # GPT-2's 50,257, rounded up to a multiple of 128
    config.data.sequence_length = 1024
    config.data.global_batch_size = 480
    config.data.validation_fraction = 0.0005

    config.model.width = 768
    config.model.depth = 12
    config.model.num_heads = 12
    config.model.positions = "learned"
    config.model.norm = "layer_norm"
    config.model.feed_forward = "gelu"
    config.model.use_bias = True
    config.model.tied_embeddings = True

    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 2000
    config.optimizer.beta2 = 0.95
    config.optimizer.weight_decay = 0.1
    config.train.steps = 600_000
    config.train.gradient_accumulation = 10
    config.train.evaluate_every_steps = 1000
    config.checkpoint.every_steps = 1000
    return config
