r"""A character-level model with two layers of gated linear recurrence for each layer of windowed
attention, as in Griffin (De et al. 2024, arXiv:2402.19427).

python train.py --config=configs/text_hybrid.py --workdir=runs/hybrid --config.data.path=input.txt

It has about as many parameters as `shakespeare_char`, and trains on as many tokens. Measured: see
docs/results.md.
"""

from configs import shakespeare_char


def get_config():
    config = shakespeare_char.get_config()
    config.model.pattern = "RRA"
    config.model.depth = 6
    config.model.width = 112
    config.model.recurrence = "rg_lru"
    config.model.attention_window = 32
    # An RG-LRU of width D has 5 D^2 weights, a feed-forward 3 D F: a smaller F compensates.
    config.model.feed_forward_width = 200
    return config
