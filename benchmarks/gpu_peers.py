"""A Llama in PyTorch, as its users write it: what `bench_gpu.py` measures against.

Axes: B batch, T target length, S length of the cache, D width, N query heads, K key/value heads,
H head dimension.
"""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers import fill

ROTARY_BASE = 500_000.0


def rotate(x_BNTH, angles_TH):
    """Pairs of numbers half a head apart, turned by their angles."""
    first, second = x_BNTH.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BNTH * angles_TH.cos() + turned * angles_TH.sin()).to(x_BNTH.dtype)


class Block(nn.Module):
    """Grouped-query attention and SwiGLU, each after an RMS norm."""

    def __init__(self, row: dict):
        super().__init__()
        width, hidden = row["width"], row["hidden"]
        self.heads, self.kv_heads = row["heads"], row["kv_heads"]
        self.head_dim = width // self.heads
        keys = self.kv_heads * self.head_dim
        self.mixer_norm = nn.RMSNorm(width, eps=1e-5)
        self.feed_forward_norm = nn.RMSNorm(width, eps=1e-5)
        self.query, self.out = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.key, self.value = (nn.Linear(width, keys, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD, angles_TH, cache=None, position=None):
        B, T, D = x_BTD.shape
        normed_BTD = self.mixer_norm(x_BTD)

        def heads(linear, count):
            return linear(normed_BTD).view(B, T, count, self.head_dim).transpose(1, 2)

        q_BNTH = rotate(heads(self.query, self.heads), angles_TH)
        k_BKSH = rotate(heads(self.key, self.kv_heads), angles_TH)
        v_BKSH = heads(self.value, self.kv_heads)
        mask_TS = None
        if cache is not None:
            cache[0].index_copy_(2, position.view(1), k_BKSH)
            cache[1].index_copy_(2, position.view(1), v_BKSH)
            k_BKSH, v_BKSH = cache[0], cache[1]
            mask_TS = (torch.arange(k_BKSH.shape[2], device=x_BTD.device) <= position)[None]
        y_BNTH = functional.scaled_dot_product_attention(
            q_BNTH, k_BKSH, v_BKSH, attn_mask=mask_TS, is_causal=cache is None, enable_gqa=True
        )
        x_BTD = x_BTD + self.out(y_BNTH.transpose(1, 2).reshape(B, T, D))
        normed_BTD = self.feed_forward_norm(x_BTD)
        return x_BTD + self.down(functional.silu(self.gate(normed_BTD)) * self.up(normed_BTD))

    def load(self, ours, path):
        for name in ("mixer_norm", "feed_forward_norm"):
            fill(getattr(self, name).weight, ours[f"{path}.{name}.scale"])
        width = self.out.out_features
        for name in ("query", "key", "value"):
            kernel = ours[f"{path}.mixer.{name}.kernel"].reshape(width, -1)
            fill(getattr(self, name).weight, kernel.T)
        fill(self.out.weight, ours[f"{path}.mixer.out.kernel"].reshape(width, width).T)
        for name in ("gate", "up", "down"):
            fill(getattr(self, name).weight, ours[f"{path}.feed_forward.{name}.kernel"].T)


class Llama(nn.Module):
    """Rotary positions, grouped heads, SwiGLU, RMS norms, a tied head, no biases."""

    def __init__(self, row: dict):
        super().__init__()
        self.tokens = nn.Embedding(row["vocabulary"], row["width"])
        self.blocks = nn.ModuleList(Block(row) for _ in range(row["depth"]))
        self.norm = nn.RMSNorm(row["width"], eps=1e-5)
        self.half = row["width"] // row["heads"] // 2

    def forward(self, tokens_BT):
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        x_BTD, angles_TH = self.tokens(tokens_BT), self.angles(positions_T)
        for block in self.blocks:
            x_BTD = block(x_BTD, angles_TH)
        return functional.linear(self.norm(x_BTD), self.tokens.weight)

    def angles(self, positions_T):
        index_h = torch.arange(self.half, dtype=torch.float32, device=positions_T.device)
        angles_Th = positions_T[:, None].float() * ROTARY_BASE ** (-index_h / self.half)
        return torch.cat((angles_Th, angles_Th), dim=-1)

    def caches(self, batch: int, length: int, device) -> list[torch.Tensor]:
        """A layer's keys and values, [2, B, K, S, H], empty."""
        first = self.blocks[0]
        shape = (2, batch, first.kv_heads, length, first.head_dim)
        dtype = self.tokens.weight.dtype
        return [torch.zeros(shape, dtype=dtype, device=device) for _ in self.blocks]

    def advance(self, tokens_B, position, caches):
        """The logits after one more token of each row, [B, V]."""
        x_BTD, angles_TH = self.tokens(tokens_B[:, None]), self.angles(position.view(1))
        for block, cache in zip(self.blocks, caches, strict=True):
            x_BTD = block(x_BTD, angles_TH, cache, position)
        return functional.linear(self.norm(x_BTD), self.tokens.weight)[:, 0]

    def load(self, ours):
        fill(self.tokens.weight, ours["embedding.tokens.embedding"])
        for number, block in enumerate(self.blocks):
            block.load(ours, f"backbone.layers.{number}")
        fill(self.norm.weight, ours["backbone.norm.scale"])
