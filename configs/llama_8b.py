r"""A decoder with the shape of Llama 3 8B (Grattafiori et al. 2024, arXiv:2407.21783), trained from
scratch.

python train.py --config=configs/llama_8b.py --workdir=runs/llama_8b \
    --config.data.path='text/*.txt' --config.data.tokenizer.path=tokenizer.json

`tokenizer.json` is the tokenizer of Llama 3, with 128,256 tokens, or your own. Shape, learning rate
and batch size are from the paper, other optimizer settings from Llama 2 (arXiv:2307.09288). Trains
on 20 tokens per parameter (Hoffmann et al. 2022). Not trained by us: `make tpu-check` compiles its
step for 64 TPU v5p and prints the memory that each chip needs.
"""

from configs import base


def get_config():
    config = base.language_modeling(source="text_files", tokenizer="file")
    config.data.sequence_length = 8192
    config.data.global_batch_size = 512
    config.data.validation_fraction = 0.001
    config.data.cross_document_attention = False

    config.model.width = 4096
    config.model.depth = 32
    config.model.num_heads = 32
    config.model.num_kv_heads = 8
    config.model.feed_forward_width = 14336
    config.model.rotary_base = 500_000.0
    config.model.scan_layers = True
    config.model.remat = "full"

    config.optimizer.learning_rate = 3e-4
    config.optimizer.warmup_steps = 2000
    config.optimizer.weight_decay = 0.1
    config.train.steps = 38_000
    config.train.evaluate_every_steps = 1000
    config.checkpoint.every_steps = 500

    config.mesh.data = 1
    config.mesh.fsdp = -1
    return config
