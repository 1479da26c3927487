"""The recipes' models in PyTorch, as its users write them: what `train_step.py` measures against.

A model takes its initial weights from ours, by the path of each parameter.

Axes: B batch, T length, D width, N heads, H head dimension.
"""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    """Causal multi-head attention with biases, by PyTorch's fused function."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.projections = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD):
        B, T, D = x_BTD.shape
        parts = self.projections(x_BTD).split(D, dim=2)
        q, k, v = (part.view(B, T, self.heads, D // self.heads).transpose(1, 2) for part in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(B, T, D))

    def load(self, ours, path):
        names, width = ("query", "key", "value"), self.out.in_features
        kernels = [ours[f"{path}.{name}.kernel"].reshape(width, width).T for name in names]
        biases = [ours[f"{path}.{name}.bias"].reshape(width) for name in names]
        fill(self.projections.weight, torch.cat([*map(torch.tensor, kernels)]))
        fill(self.projections.bias, torch.cat([*map(torch.tensor, biases)]))
        fill(self.out.weight, ours[f"{path}.out.kernel"].reshape(width, width).T)
        fill(self.out.bias, ours[f"{path}.out.bias"])


class Recurrence(nn.Module):
    """`nn.LSTM` of one layer; its gates are in our order, its second bias stays zero."""

    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.lstm.bias_hh_l0.requires_grad_(False)

    def forward(self, x_BTD):
        return self.lstm(x_BTD)[0]

    def load(self, ours, path):
        width = self.lstm.input_size
        fill(self.lstm.weight_ih_l0, ours[f"{path}.input_kernel"].reshape(width, -1).T)
        fill(self.lstm.weight_hh_l0, ours[f"{path}.recurrent_kernel"].reshape(width, -1).T)
        fill(self.lstm.bias_ih_l0, ours[f"{path}.bias"].reshape(-1))
        fill(self.lstm.bias_hh_l0, torch.zeros(4 * width))


class Block(nn.Module):
    """x + mixer(norm(x)), then x + down(gelu(up(norm(x))))."""

    def __init__(self, mixer: nn.Module, width: int, hidden: int):
        super().__init__()
        self.mixer_norm, self.mixer = nn.LayerNorm(width), mixer
        self.feed_forward_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x_BTD):
        x_BTD = x_BTD + self.mixer(self.mixer_norm(x_BTD))
        return x_BTD + self.down(functional.gelu(self.up(self.feed_forward_norm(x_BTD))))

    def load(self, ours, path):
        self.mixer.load(ours, f"{path}.mixer")
        for name in ("mixer_norm", "feed_forward_norm"):
            load_norm(getattr(self, name), ours, f"{path}.{name}")
        for name in ("up", "down"):
            load_linear(getattr(self, name), ours, f"{path}.feed_forward.{name}")


class Decoder(nn.Module):
    """Our decoder with layer norm, GELU, biases and a tied head; positions for attention."""

    def __init__(self, row: dict):
        super().__init__()
        width, recurrent = row["width"], row["model"] == "lstm"
        self.tokens = nn.Embedding(row["vocabulary"], width)
        self.positions = None if recurrent else nn.Embedding(row["length"], width)
        self.blocks = nn.ModuleList(
            Block(
                Recurrence(width) if recurrent else Attention(width, row["heads"]),
                width,
                width if recurrent else 4 * width,
            )
            for _ in range(row["depth"])
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BT):
        x_BTD = self.tokens(tokens_BT)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions.weight
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return functional.linear(self.norm(x_BTD), self.tokens.weight)

    def load(self, ours):
        fill(self.tokens.weight, ours["embedding.tokens.embedding"])
        if self.positions is not None:
            fill(self.positions.weight, ours["positions.table.embedding"])
        for number, block in enumerate(self.blocks):
            block.load(ours, f"backbone.layers.{number}")
        load_norm(self.norm, ours, "backbone.norm")


class CNN(nn.Module):
    """Our small CNN: convolution, batch norm, rectifier and pooling; then two dense layers."""

    def __init__(self, row: dict):
        super().__init__()
        channels, side = (1, *row["channels"]), row["size"] // 2 ** len(row["channels"])
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
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

    def load(self, ours):
        for number, stage in enumerate(self.stages):
            kernel = ours[f"stages.{number}.convolution.kernel"]
            fill(stage[0].weight, kernel.transpose(3, 2, 0, 1))
            stage[1].eps = 1e-5
            load_norm(stage[1], ours, f"stages.{number}.norm")
        load_linear(self.dense, ours, "dense")
        load_linear(self.classes, ours, "classes")


def fill(parameter: nn.Parameter, values) -> None:
    """Copies an array of the same shape into a parameter."""
    values = torch.tensor(np.asarray(values))
    assert parameter.shape == values.shape, (parameter.shape, values.shape)
    with torch.no_grad():
        parameter.copy_(values)


def load_norm(norm: nn.Module, ours, path: str) -> None:
    fill(norm.weight, ours[f"{path}.scale"])
    fill(norm.bias, ours[f"{path}.bias"])


def load_linear(linear: nn.Linear, ours, path: str) -> None:
    fill(linear.weight, ours[f"{path}.kernel"].T)
    fill(linear.bias, ours[f"{path}.bias"])


MODELS = {"decoder": Decoder, "lstm": Decoder, "cnn": CNN}
