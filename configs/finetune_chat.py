r"""Fine-tunes a small language model with LoRA, so that it answers questions.

python train.py --config=configs/finetune_chat.py --workdir=runs/chat \
    --config.train.initialize_from=runs/python_stdlib

`make train` trains `runs/python_stdlib`. Any other run of a decoder works too: the new run inherits
its model and tokenizer. The conversations are a small generated set. To use your own, give
`--config.data.path=chat.jsonl` (docs/fine_tuning.md).
Then: python generate.py --workdir=runs/chat --prompt="What comes after Monday?"

The output head is trained in full, because a base model that was trained for three minutes is too
uncertain to answer. If the base model was trained for long, or its embeddings are tied (it then has
no head of its own), use `'--config.train.lora.train_also=()'`.
Measured: see docs/results.md.
"""

from configs import base, python_stdlib


def get_config():
    config = base.language_modeling(source="conversations", tokenizer="file")
    config.data.sequence_length = 128
    config.data.global_batch_size = 16

    config.model = python_stdlib.get_config().model
    config.train.lora.rank = 16
    config.train.lora.alpha = 32.0
    config.train.lora.train_also = ("embedding.head.*",)

    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 20
    config.optimizer.weight_decay = 0.0
    config.train.steps = 300
    config.train.evaluate_every_steps = 100
    config.checkpoint.every_steps = 100

    config.task.sample_prompts = ("What comes after Monday?", "What is the opposite of hot?")
    config.task.sample_tokens = 40
    config.task.sample_temperature = 0.0
    return config
