"""Layers of the PyTorch models: attention, recurrence, feed-forward parts, residual blocks.

Axes: B batch, T target length, S length of the source or cache, D width, N query heads, K key/value
heads, H head dimension, h half of it.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.loading import fill


def rotary_angles(positions_T, head_dim: int, base: float):
    """Return the angles of rotary position embeddings, [T, H]."""
    half = head_dim // 2
    index_h = torch.arange(half, dtype=torch.float32, device=positions_T.device)
    angles_Th = positions_T[:, None].float() * base ** (-index_h / half)
    return torch.cat((angles_Th, angles_Th), dim=-1)


def rotate(x_BNTH, angles_TH):
    """Apply rotary position embeddings: rotate pairs of features, half a head apart, by
    `angles_TH`."""
    first, second = x_BNTH.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BNTH * angles_TH.cos() + turned * angles_TH.sin()).to(x_BNTH.dtype)


class Attention(nn.Module):
    """Self-attention by PyTorch's fused function; one projection computes query, key and value."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        causal: bool,
        kv_heads: int | None = None,
        biases: bool = False,
    ):
        super().__init__()
        self.head_dim, self.causal = width // heads, causal
        keys = (kv_heads or heads) * self.head_dim
        self.sizes, self.grouped = (width, keys, keys), keys < width
        self.projections = nn.Linear(width, sum(self.sizes), bias=biases)
        self.out = nn.Linear(width, width, bias=biases)

    def forward(self, x_BTD, angles_TH=None, mask_B11S=None, cache=None, position=None):
        """Map [B, T, D] to [B, T, D]. `mask_B11S` (bool) is False at padding."""
        B, T, D = x_BTD.shape
        q_BNTH, k_BKSH, v_BKSH = (
            part.view(B, T, -1, self.head_dim).transpose(1, 2)
            for part in self.projections(x_BTD).split(self.sizes, dim=-1)
        )
        if angles_TH is not None:
            q_BNTH, k_BKSH = rotate(q_BNTH, angles_TH), rotate(k_BKSH, angles_TH)
        mask = mask_B11S
        if cache is not None:
            cache[0].index_copy_(2, position, k_BKSH)
            cache[1].index_copy_(2, position, v_BKSH)
            k_BKSH, v_BKSH = cache[0], cache[1]
            mask = (torch.arange(k_BKSH.shape[2], device=x_BTD.device) <= position)[None]
        y_BNTH = functional.scaled_dot_product_attention(
            q_BNTH,
            k_BKSH,
            v_BKSH,
            attn_mask=mask,
            is_causal=self.causal and cache is None,
            enable_gqa=self.grouped,
        )
        return self.out(y_BNTH.transpose(1, 2).reshape(B, T, D))

    def load(self, ours, path):
        load_projections(self.projections, ours, path, ("query", "key", "value"))
        load_out(self.out, ours, path)


class CrossAttention(nn.Module):
    """Attention from targets to a source, without biases; one projection computes key and value."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.head_dim = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x_BTD, source_BSD, mask_B11S):
        """Map targets [B, T, D] to [B, T, D]; `mask_B11S` (bool) is False at padding."""

        def heads(y_BTD):
            return y_BTD.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

        keys_BSD, values_BSD = self.keys_values(source_BSD).chunk(2, dim=-1)
        y_BNTH = functional.scaled_dot_product_attention(
            heads(self.query(x_BTD)), heads(keys_BSD), heads(values_BSD), attn_mask=mask_B11S
        )
        return self.out(y_BNTH.transpose(1, 2).flatten(2))

    def load(self, ours, path):
        load_projections(self.query, ours, path, ("query",))
        load_projections(self.keys_values, ours, path, ("key", "value"))
        load_out(self.out, ours, path)


def load_projections(module: nn.Linear, ours, path: str, names: tuple[str, ...]) -> None:
    """Copy several of Triform's projections from the width into one linear layer."""
    kernels = [ours[f"{path}.{name}.kernel"].reshape(module.in_features, -1) for name in names]
    fill(module.weight, np.concatenate(kernels, axis=1).T)
    if module.bias is not None:
        biases = [ours[f"{path}.{name}.bias"].reshape(-1) for name in names]
        fill(module.bias, np.concatenate(biases))


def load_out(module: nn.Linear, ours, path: str) -> None:
    """Copy Triform's projection from heads back to the width."""
    fill(module.weight, ours[f"{path}.out.kernel"].reshape(module.in_features, -1).T)
    if module.bias is not None:
        fill(module.bias, ours[f"{path}.out.bias"])


class Recurrence(nn.Module):
    """`nn.LSTM` of one layer. Its gates have the same order as in Triform's LSTM; its second bias
    stays zero."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.lstm.bias_hh_l0.requires_grad_(False)

    def forward(self, x_BTD, angles_TH=None):
        return self.lstm(x_BTD)[0]

    def load(self, ours, path):
        width = self.lstm.input_size
        fill(self.lstm.weight_ih_l0, ours[f"{path}.input_kernel"].reshape(width, -1).T)
        fill(self.lstm.weight_hh_l0, ours[f"{path}.recurrent_kernel"].reshape(width, -1).T)
        fill(self.lstm.bias_ih_l0, ours[f"{path}.bias"].reshape(-1))
        fill(self.lstm.bias_hh_l0, np.zeros(4 * width, np.float32))


class FeedForward(nn.Module):
    """down(activation(up(x))); if `gated`, down(activation(gate(x)) * up(x))."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: Callable = functional.gelu,
        *,
        gated: bool = False,
        biases: bool = True,
    ):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=biases) if gated else None
        self.up = nn.Linear(width, hidden, bias=biases)
        self.down = nn.Linear(hidden, width, bias=biases)
        self.activation = activation

    def forward(self, x_BTD):
        if self.gate is None:
            return self.down(self.activation(self.up(x_BTD)))
        return self.down(self.activation(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + cross(norm(x), source) if there is `cross`, then
    x + feed_forward(norm(x)), with dropout of each part's output."""

    def __init__(
        self,
        norm: Callable[[], nn.Module],
        mixer: nn.Module,
        feed_forward: nn.Module,
        *,
        cross: nn.Module | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.mixer_norm, self.feed_forward_norm = norm(), norm()
        self.cross_norm = None if cross is None else norm()
        self.mixer, self.cross, self.feed_forward = mixer, cross, feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD, *where, source=()):
        """Map [B, T, D] to [B, T, D]. `where`: the mixer's other arguments. `source`: those of
        `cross`."""
        x_BTD = x_BTD + self.dropout(self.mixer(self.mixer_norm(x_BTD), *where))
        if self.cross is not None:
            x_BTD = x_BTD + self.dropout(self.cross(self.cross_norm(x_BTD), *source))
        return x_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BTD)))
