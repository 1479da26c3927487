"""Decoders: GPT-2, Llama, and LSTMs in place of attention.

Axes: B batch, T length, S length of the cache, D width, K key/value heads, H head dimension,
V vocabulary.
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.layers import Attention, Block, FeedForward, Recurrence, rotary_angles
from benchmarks.peers.loading import load

ROTARY_BASE = 500_000.0


def make_block(row: dict) -> Block:
    """Return a block of the row's kind."""
    width, dropout = row["width"], row.get("dropout", 0.0)
    if row["kind"] == "llama":
        return Block(
            partial(nn.RMSNorm, width, eps=1e-5),
            Attention(width, row["heads"], kv_heads=row["kv_heads"], causal=True),
            FeedForward(width, row["hidden"], functional.silu, gated=True, biases=False),
            dropout=dropout,
        )
    norm = partial(nn.LayerNorm, width, eps=1e-5)
    if row["kind"] == "lstm":
        return Block(norm, Recurrence(width), FeedForward(width, width), dropout=dropout)
    attention = Attention(width, row["heads"], biases=True, causal=True)
    return Block(norm, attention, FeedForward(width, 4 * width), dropout=dropout)


class Decoder(nn.Module):
    """A decoder like Triform's, with tied embeddings. Positions are learned (GPT-2), rotary (Llama)
    or absent (LSTM)."""

    inputs = ("tokens",)

    def __init__(self, row: dict):
        super().__init__()
        width = row["width"]
        self.tokens = nn.Embedding(row["vocabulary"], width)
        self.positions = nn.Embedding(row["length"], width) if row["kind"] == "gpt2" else None
        self.rotary = row["kind"] == "llama"
        self.dropout = nn.Dropout(row.get("dropout", 0.0))
        self.blocks = nn.ModuleList(make_block(row) for _ in range(row["depth"]))
        self.norm = (nn.RMSNorm if self.rotary else nn.LayerNorm)(width, eps=1e-5)

    def forward(self, tokens_BT):
        x_BTD, angles_TH = self.tokens(tokens_BT), None
        if self.positions is not None:
            x_BTD = x_BTD + self.positions.weight
        x_BTD = self.dropout(x_BTD)
        if self.rotary:
            angles_TH = self.angles(torch.arange(tokens_BT.shape[1], device=tokens_BT.device))
        for block in self.blocks:
            x_BTD = block(x_BTD, angles_TH)
        return functional.linear(self.norm(x_BTD), self.tokens.weight)

    @staticmethod
    def loss(logits_BTV, batch):
        return functional.cross_entropy(logits_BTV.flatten(0, 1), batch["targets"].flatten())

    def angles(self, positions_T):
        return rotary_angles(positions_T, self.blocks[0].mixer.head_dim, ROTARY_BASE)

    def caches(self, batch: int, length: int, device) -> list[torch.Tensor]:
        """Return an empty key/value cache for each layer, [2, B, K, S, H]."""
        mixer = self.blocks[0].mixer
        shape = (2, batch, mixer.sizes[1] // mixer.head_dim, length, mixer.head_dim)
        dtype = self.tokens.weight.dtype
        return [torch.zeros(shape, dtype=dtype, device=device) for _ in self.blocks]

    def advance(self, tokens_B, position, caches):
        """Return the logits [B, V] after one more token in each row; only for rotary positions."""
        position = position.view(1)
        x_BTD, angles_TH = self.tokens(tokens_B[:, None]), self.angles(position)
        for block, cache in zip(self.blocks, caches, strict=True):
            x_BTD = block(x_BTD, angles_TH, None, cache, position)
        return functional.linear(self.norm(x_BTD), self.tokens.weight)[:, 0]

    def load(self, ours, path):
        load(self.tokens, ours, "embedding.tokens")
        if self.positions is not None:
            load(self.positions, ours, "positions.table")
        load(self.blocks, ours, "backbone.layers")
        load(self.norm, ours, "backbone.norm")
