r"""A decoder with the shape of Llama 3.2 1B, trained from scratch.

python train.py --config=configs/llama_1b.py --workdir=runs/llama_1b \
    --config.data.path='text/*.txt' --config.data.tokenizer.path=tokenizer.json

A smaller version of `llama_8b`: a million tokens per update, windows of 4,096 tokens. Not trained
by us. The memory of its step on 16 TPU v5e: see docs/results.md.
"""

from configs import llama_8b


def get_config():
    config = llama_8b.get_config()
    config.data.sequence_length = 4096
    config.data.global_batch_size = 256

    config.model.width = 2048
    config.model.depth = 16
    config.model.num_heads = 32
    config.model.feed_forward_width = 8192
    config.model.tied_embeddings = True

    config.train.steps = 24_000
    return config
