"""Qwen3, the dense models (Qwen Team 2025, arXiv:2505.09388): `Qwen3ForCausalLM`.

It is Llama with norms of the queries and keys of each head; some layers may have a window.
"""

from dataclasses import replace

from interop.family import Family
from interop.fields import Ours, Theirs
from interop.llama import BLOCK, BLOCKS, NO_BIAS, TABLE, THEIRS, heads
from interop.qwen2 import WINDOWS
from interop.tables import norm

FAMILY = Family(
    "qwen3",
    replace(
        TABLE,
        rows=(
            *TABLE.rows,
            *norm(f"{BLOCK}.mixer.query_norm", f"{THEIRS}.self_attn.q_norm"),
            *norm(f"{BLOCK}.mixer.key_norm", f"{THEIRS}.self_attn.k_norm"),
        ),
    ),
    fields=(
        Ours({"architecture": "decoder", "qk_norm": True, **NO_BIAS}),
        Theirs({"attention_bias": [False]}),
        *BLOCKS,
        heads(kv_heads=32, head_dim=128),
        WINDOWS,
    ),
    classes={"next_tokens": "Qwen3ForCausalLM"},
)
