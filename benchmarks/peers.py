"""PyTorch versions of the benchmarked models, in idiomatic PyTorch.

`sides.py` compares Triform's models with these. `load` copies the initial weights of Triform's
model into the PyTorch version; parameters are named by their dotted paths in Triform's model. A
`row` is a row of a table in `sides.py`, with the sizes of a model.

Axes: B batch, T target length, S length of the cache, D width, N query heads, K key/value heads,
H head dimension, V vocabulary.
"""

import itertools
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ROTARY_BASE = 500_000.0


def rotate(x_BNTH, angles_TH):
    """Apply rotary position embeddings: rotate pairs of features, half a head apart, by
    `angles_TH`."""
    first, second = x_BNTH.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BNTH * angles_TH.cos() + turned * angles_TH.sin()).to(x_BNTH.dtype)


class Attention(nn.Module):
    """Causal attention by PyTorch's fused function; one projection computes query, key and
    value."""

    def __init__(self, row: dict):
        super().__init__()
        width, heads, biases = row["width"], row["heads"], row["kind"] == "gpt2"
        self.head_dim = width // heads
        keys = row.get("kv_heads", heads) * self.head_dim
        self.sizes, self.grouped = (width, keys, keys), keys < width
        self.projections = nn.Linear(width, sum(self.sizes), bias=biases)
        self.out = nn.Linear(width, width, bias=biases)

    def forward(self, x_BTD, angles_TH=None, cache=None, position=None):
        B, T, D = x_BTD.shape
        q_BNTH, k_BKSH, v_BKSH = (
            part.view(B, T, -1, self.head_dim).transpose(1, 2)
            for part in self.projections(x_BTD).split(self.sizes, dim=-1)
        )
        if angles_TH is not None:
            q_BNTH, k_BKSH = rotate(q_BNTH, angles_TH), rotate(k_BKSH, angles_TH)
        mask_TS = None
        if cache is not None:
            cache[0].index_copy_(2, position, k_BKSH)
            cache[1].index_copy_(2, position, v_BKSH)
            k_BKSH, v_BKSH = cache[0], cache[1]
            mask_TS = (torch.arange(k_BKSH.shape[2], device=x_BTD.device) <= position)[None]
        y_BNTH = functional.scaled_dot_product_attention(
            q_BNTH,
            k_BKSH,
            v_BKSH,
            attn_mask=mask_TS,
            is_causal=cache is None,
            enable_gqa=self.grouped,
        )
        return self.out(y_BNTH.transpose(1, 2).reshape(B, T, D))

    def load(self, ours, path):
        width, names = self.out.in_features, ("query", "key", "value")
        kernels = [ours[f"{path}.{name}.kernel"].reshape(width, -1) for name in names]
        fill(self.projections.weight, np.concatenate(kernels, axis=1).T)
        fill(self.out.weight, ours[f"{path}.out.kernel"].reshape(width, width).T)
        if self.out.bias is not None:
            biases = [ours[f"{path}.{name}.bias"].reshape(-1) for name in names]
            fill(self.projections.bias, np.concatenate(biases))
            fill(self.out.bias, ours[f"{path}.out.bias"])


class Recurrence(nn.Module):
    """`nn.LSTM` of one layer. Its gates have the same order as in Triform's LSTM; its second bias
    stays zero."""

    def __init__(self, row: dict):
        super().__init__()
        self.lstm = nn.LSTM(row["width"], row["width"], batch_first=True)
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
    """down(gelu(up(x))), or down(silu(gate(x)) * up(x)) for a Llama."""

    def __init__(self, row: dict):
        super().__init__()
        width, gated = row["width"], row["kind"] == "llama"
        hidden = {"gpt2": 4 * width, "lstm": width, "llama": row.get("hidden")}[row["kind"]]
        self.gate = nn.Linear(width, hidden, bias=False) if gated else None
        self.up = nn.Linear(width, hidden, bias=not gated)
        self.down = nn.Linear(hidden, width, bias=not gated)

    def forward(self, x_BTD):
        if self.gate is None:
            return self.down(functional.gelu(self.up(x_BTD)))
        return self.down(functional.silu(self.gate(x_BTD)) * self.up(x_BTD))


def make_norm(row: dict) -> nn.Module:
    """Return RMS norm for a Llama, else layer norm."""
    return (nn.RMSNorm if row["kind"] == "llama" else nn.LayerNorm)(row["width"], eps=1e-5)


class Block(nn.Module):
    """x + mixer(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, row: dict):
        super().__init__()
        self.mixer_norm, self.feed_forward_norm = make_norm(row), make_norm(row)
        self.mixer = (Recurrence if row["kind"] == "lstm" else Attention)(row)
        self.feed_forward = FeedForward(row)

    def forward(self, x_BTD, *where):
        x_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD), *where)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class Decoder(nn.Module):
    """A decoder like Triform's, with tied embeddings. Positions are learned (GPT-2), rotary (Llama)
    or absent (LSTM)."""

    def __init__(self, row: dict):
        super().__init__()
        self.tokens = nn.Embedding(row["vocabulary"], row["width"])
        learned = row["kind"] == "gpt2"
        self.positions = nn.Embedding(row["length"], row["width"]) if learned else None
        self.rotary = row["kind"] == "llama"
        self.blocks = nn.ModuleList(Block(row) for _ in range(row["depth"]))
        self.norm = make_norm(row)

    def forward(self, tokens_BT):
        x_BTD, angles_TH = self.tokens(tokens_BT), None
        if self.positions is not None:
            x_BTD = x_BTD + self.positions.weight
        if self.rotary:
            angles_TH = self.angles(torch.arange(tokens_BT.shape[1], device=tokens_BT.device))
        for block in self.blocks:
            x_BTD = block(x_BTD, angles_TH)
        return functional.linear(self.norm(x_BTD), self.tokens.weight)

    def angles(self, positions_T):
        half = self.blocks[0].mixer.head_dim // 2
        index_h = torch.arange(half, dtype=torch.float32, device=positions_T.device)
        angles_Th = positions_T[:, None].float() * ROTARY_BASE ** (-index_h / half)
        return torch.cat((angles_Th, angles_Th), dim=-1)

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
            x_BTD = block(x_BTD, angles_TH, cache, position)
        return functional.linear(self.norm(x_BTD), self.tokens.weight)[:, 0]

    def load(self, ours, path):
        load(self.tokens, ours, "embedding.tokens")
        if self.positions is not None:
            load(self.positions, ours, "positions.table")
        load(self.blocks, ours, "backbone.layers")
        load(self.norm, ours, "backbone.norm")


class CNN(nn.Module):
    """A small CNN like Triform's: stages of convolution, batch norm, ReLU and pooling, then two
    dense layers."""

    def __init__(self, row: dict):
        super().__init__()
        channels, side = (1, *row["channels"]), row["size"] // 2 ** len(row["channels"])
        self.stages = nn.ModuleList(
            nn.Sequential(
                OrderedDict(
                    convolution=nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                    norm=nn.BatchNorm2d(outputs),
                    rectifier=nn.ReLU(),
                    pooling=nn.MaxPool2d(2),
                )
            )
            for inputs, outputs in itertools.pairwise(channels)
        )
        self.dense = nn.Linear(side * side * channels[-1], row["width"])
        self.classes = nn.Linear(row["width"], row["classes"])

    def forward(self, image_BHWC):
        x = image_BHWC.permute(0, 3, 1, 2).float() / 255
        for stage in self.stages:
            x = stage(x)
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.classes(functional.relu(self.dense(x)))


OUR_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight", "bias": "bias"}


def load(module: nn.Module, ours, path: str = "") -> None:
    """Copy Triform's parameters under `path` into a module and its children."""
    if hasattr(module, "load"):
        module.load(ours, path)
        return
    for name, child in module.named_children():
        load(child, ours, f"{path}.{name}".lstrip("."))
    for our_name, name in OUR_NAMES.items():
        if (values := ours.get(f"{path}.{our_name}")) is not None:
            kernel = our_name == "kernel"
            order = (3, 2, 0, 1) if values.ndim == 4 else (1, 0)
            fill(getattr(module, name), values.transpose(order) if kernel else values)


def fill(parameter: nn.Parameter, values: np.ndarray) -> None:
    """Copy an array into a parameter of the same shape."""
    values = torch.tensor(values)
    assert parameter.shape == values.shape, (parameter.shape, values.shape)
    with torch.no_grad():
        parameter.copy_(values)
