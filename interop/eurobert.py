"""EuroBERT (Boizard et al. 2025, arXiv:2503.05500): `EuroBertForMaskedLM`.

It is Llama without the causal mask. Its classifiers have a dense layer that ours lack.
"""

from interop.family import Family
from interop.fields import Ours, Theirs
from interop.llama import BLOCKS, NO_BIAS, TABLE, heads

FAMILY = Family(
    "eurobert",
    TABLE,
    fields=(
        Ours({"architecture": "encoder", "pattern": "A", "attention_window": None}),
        Ours({"qk_norm": False, **NO_BIAS}),
        Ours({"token_types": 0, "embedding_norm": False, "head_transform": False}),
        Theirs({"attention_bias": [False], "mlp_bias": [False]}),
        *BLOCKS,
        heads(),
    ),
    classes={"missing_tokens": "EuroBertForMaskedLM"},
)
