r"""`shakespeare_char` with LSTMs instead of attention, and about as many parameters.

python train.py --config=configs/shakespeare_char_lstm.py --workdir=runs/shakespeare_lstm \
    --config.data.path=input.txt

Measured: see docs/results.md.
"""

from configs import shakespeare_char


def get_config():
    config = shakespeare_char.get_config()
    config.model.pattern = "R"
    config.model.positions = "none"
    # An LSTM of width D has 8 D^2 weights, attention 4 D^2: a smaller feed-forward compensates.
    config.model.feed_forward_width = 176
    return config
