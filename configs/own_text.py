r"""A small language model on your own text: a book, notes, source code.

python train.py --config=configs/own_text.py --workdir=runs/own_text --config.data.path=book.txt

`data.path` is a file, a folder or a pattern such as 'notes/*.md'. The byte-pair tokenizer is learnt
from the text. A tenth is held out for validation: the end of the text if it is one file, else some
of the files. After each evaluation, the run writes samples that continue lines of the held-out
text.

On tiny Shakespeare (1.1 MB): 2.205 bits per byte of the held-out text (gzip: 3.191), after
4 min 32 s of processor time on 2 cores of an AMD EPYC.
"""

from configs import base


def get_config():
    config = base.language_modeling(source="text_files", tokenizer="bpe")
    config.data.tokenizer.vocabulary_size = 2048
    config.data.sequence_length = 128
    config.data.global_batch_size = 16
    config.data.validation_fraction = 0.1

    config.model.width = 128
    config.model.depth = 4
    config.model.num_heads = 4
    config.model.dropout = 0.1

    config.optimizer = base.section("optimizer", "muon")
    config.optimizer.learning_rate = 3e-3
    config.train.steps = 600
    config.train.evaluate_every_steps = 200
    config.checkpoint.every_steps = 200

    config.task.sample_prompts = None
    config.checkpoint.best_metric = "bits_per_byte"
    return config
