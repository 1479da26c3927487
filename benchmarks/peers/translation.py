"""The encoder-decoder for translation.

Axes: B batch, S source length, T target length, D width, H head dimension, V vocabulary.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.layers import (
    Attention,
    Block,
    CrossAttention,
    FeedForward,
    rotary_angles,
)
from benchmarks.peers.loading import load

ROTARY_BASE = 10_000.0
PADDING = 0
"""The target at padding. No token of an invented text has this number."""


class EncoderDecoder(nn.Module):
    """A Transformer from source to target tokens, with one embedding table for both, which is the
    head too; RMS norms, rotary positions and gated feed-forward parts, without biases."""

    inputs = ("source", "source_segments", "tokens")

    def __init__(self, row: dict):
        super().__init__()
        width, heads, dropout = row["width"], row["heads"], row.get("dropout", 0.0)
        self.head_dim = width // heads
        self.tokens = nn.Embedding(row["vocabulary"], width)
        self.dropout = nn.Dropout(dropout)
        norm = partial(nn.RMSNorm, width, eps=1e-5)

        def block(*, causal: bool) -> Block:
            return Block(
                norm,
                Attention(width, heads, causal=causal),
                FeedForward(width, row["hidden"], functional.silu, gated=True, biases=False),
                cross=CrossAttention(width, heads) if causal else None,
                dropout=dropout,
            )

        self.encoder = nn.ModuleList(block(causal=False) for _ in range(row["depth"]))
        self.decoder = nn.ModuleList(block(causal=True) for _ in range(row["depth"]))
        self.encoder_norm, self.decoder_norm = norm(), norm()

    def forward(self, source_BS, segments_BS, tokens_BT):
        mask_B11S = (segments_BS != 0)[:, None, None]
        x_BSD, angles_SH = self.embed(source_BS)
        for block in self.encoder:
            x_BSD = block(x_BSD, angles_SH, mask_B11S)
        source = (self.encoder_norm(x_BSD), mask_B11S)
        x_BTD, angles_TH = self.embed(tokens_BT)
        for block in self.decoder:
            x_BTD = block(x_BTD, angles_TH, source=source)
        return functional.linear(self.decoder_norm(x_BTD), self.tokens.weight)

    def embed(self, tokens_BT):
        """Return the vectors of tokens, and the angles of their positions."""
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        angles_TH = rotary_angles(positions_T, self.head_dim, ROTARY_BASE)
        return self.dropout(self.tokens(tokens_BT)), angles_TH

    @staticmethod
    def loss(logits_BTV, batch):
        logits, targets = logits_BTV.flatten(0, 1), batch["targets"].flatten()
        return functional.cross_entropy(logits, targets, ignore_index=PADDING)

    def load(self, ours, path):
        load(self.tokens, ours, "embedding.tokens")
        for side in ("encoder", "decoder"):
            load(getattr(self, side), ours, f"{side}.layers")
            load(getattr(self, f"{side}_norm"), ours, f"{side}.norm")
