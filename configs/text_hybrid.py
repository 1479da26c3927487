r"""Gated linear recurrence and windowed attention, two layers to one, a character a token.

The pattern is Griffin's (De et al. 2024, arXiv:2402.19427).

python train.py --config=configs/text_hybrid.py --workdir=runs/hybrid --config.data.path=input.txt

As many tokens and about as many parameters as `shakespeare_char`. Measured: see docs/results.md.
"""

from configs import shakespeare_char


def get_config():
    config = shakespeare_char.get_config()
    config.model.pattern = "RRA"
    config.model.depth = 6
    config.model.width = 112
    config.model.recurrence = "rg_lru"
    config.model.attention_window = 32
    # RG-LRU of width D has 5 D^2 weights, with the feed-forward part's 3 D F: F pays.
    config.model.feed_forward_width = 200
    return config
