r"""A character-level decoder with the size of nanoGPT's `shakespeare_char` for CPUs.

python train.py --config=configs/shakespeare_char.py --workdir=runs/shakespeare \
    --config.data.path=input.txt

`input.txt` is "tiny Shakespeare" (1.1 MB), or any other text. The last tenth of the text is held
out. Measured: see docs/results.md.

The following command trains a model of the size of nanoGPT's `shakespeare_char` for GPUs, with
which nanoGPT reaches a validation loss of 1.4697. Not run by us:

python train.py --config=configs/shakespeare_char.py --workdir=runs/shakespeare_gpu \
    --config.data.path=input.txt --config.data.sequence_length=256 \
    --config.data.global_batch_size=64 --config.model.depth=6 --config.model.width=384 \
    --config.model.num_heads=6 --config.model.dropout=0.2 \
    --config.optimizer.learning_rate=1e-3 --config.train.steps=5000
"""

from configs import base


def get_config():
    config = base.language_modeling(source="text_files", tokenizer="characters")
    config.data.sequence_length = 64
    config.data.global_batch_size = 12
    config.data.validation_fraction = 0.1

    config.model.width = 128
    config.model.depth = 4
    config.model.num_heads = 4

    config.optimizer = base.section("optimizer", "muon")
    config.optimizer.learning_rate = 3e-3
    config.optimizer.beta2 = 0.99
    config.train.steps = 2000

    config.task.sample_prompts = ("\n", "ROMEO:", "To be")
    return config
