r"""Translation by a recurrent encoder-decoder with attention (Bahdanau et al. 2015,
arXiv:1409.0473), trained on pairs of sentences in two files.

python train.py --config=configs/translation_rnn.py --workdir=runs/translation_rnn \
    --config.data.path=multi30k_en_de
python evaluate.py --workdir=runs/translation_rnn
python generate.py --workdir=runs/translation_rnn --input=sentences.en

`data.path` is a folder with train.en, train.de, and perhaps validation and test files. On Multi30k:
32.6 BLEU on the test split after 21 minutes on 2 CPU cores with
`--config.train.matrix_products=onednn` (docs/results.md).
"""

from configs import base, translation_transformer


def get_config():
    config = translation_transformer.get_config()
    config.model = base.section("model", "rnn_encoder_decoder")
    config.model.width = 256
    config.model.recurrence = "gru"
    config.model.dropout = 0.3
    config.optimizer.learning_rate = 3e-3
    config.train.steps = 1500
    config.train.ema_decay = 0.995
    config.train.evaluate_every_steps = 750
    config.checkpoint.every_steps = 750
    return config
