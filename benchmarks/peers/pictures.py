"""Image classifiers: a small CNN, ResNet-18 for small images, and the vision transformer.

Convolutions run on channels-last arrays, which are faster on a CPU.

Axes: B batch, H height, W width, C channels, T patches, D width.
"""

import itertools
from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.layers import Attention, Block, FeedForward
from benchmarks.peers.loading import load

RESNET_STAGES = {18: (2, 2, 2, 2)}
"""Blocks of each stage, by depth."""


class Classifier(nn.Module):
    """The base class of image classifiers."""

    inputs = ("image",)

    @staticmethod
    def loss(logits_BC, batch):
        return functional.cross_entropy(logits_BC, batch["label"])


def channels_first(image_BHWC):
    """Return the image as floats 0..1, [B, C, H, W], in channels-last memory."""
    return image_BHWC.permute(0, 3, 1, 2).float() / 255


class CNN(Classifier):
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
        self.dropout = nn.Dropout(row.get("dropout", 0.0))
        self.classes = nn.Linear(row["width"], row["classes"])

    def forward(self, image_BHWC):
        x = channels_first(image_BHWC)
        for stage in self.stages:
            x = stage(x)
        x = x.permute(0, 2, 3, 1).flatten(1)
        return self.classes(self.dropout(functional.relu(self.dense(x))))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + branch(x)), with a branch of two 3 x 3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        convolution = partial(nn.Conv2d, bias=False)
        self.convolutions = nn.ModuleList(
            (
                convolution(inputs, outputs, 3, stride=stride, padding=1),
                convolution(outputs, outputs, 3, padding=1),
            )
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.shortcut = self.shortcut_norm = None
        if stride > 1 or inputs != outputs:
            self.shortcut = convolution(inputs, outputs, 1, stride=stride)
            self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = functional.relu(self.norms[0](self.convolutions[0](x)), inplace=True)
        y = self.norms[1](self.convolutions[1](y))
        if self.shortcut is not None:
            x = self.shortcut_norm(self.shortcut(x))
        return functional.relu(y + x, inplace=True)


class ResNet(Classifier):
    """ResNet with a stem of one 3 x 3 convolution, for small images."""

    def __init__(self, row: dict):
        super().__init__()
        width = row["width"]
        self.stem = nn.Conv2d(row["colours"], width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for stage, count in enumerate(RESNET_STAGES[row["depth"]]):
            for number in range(count):
                outputs, stride = width * 2**stage, 2 if stage and not number else 1
                blocks.append(BasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(row.get("dropout", 0.0))
        self.classes = nn.Linear(inputs, row["classes"])
        self.to(memory_format=torch.channels_last)

    def forward(self, image_BHWC):
        x = (channels_first(image_BHWC) - 0.5) / 0.5
        x = functional.relu(self.stem_norm(self.stem(x)), inplace=True)
        for block in self.blocks:
            x = block(x)
        return self.classes(self.dropout(x.mean(dim=(2, 3))))


class VisionTransformer(Classifier):
    """ViT with fixed positions (sines and cosines) and mean pooling."""

    def __init__(self, row: dict):
        super().__init__()
        width, patch, dropout = row["width"], row["patch"], row.get("dropout", 0.0)
        side = row["size"] // patch
        self.patches = nn.Conv2d(row["colours"], width, patch, stride=patch)
        self.register_buffer("positions_TD", sincos_positions(side, width))
        self.dropout = nn.Dropout(dropout)
        norm = partial(nn.LayerNorm, width, eps=1e-5)
        self.blocks = nn.ModuleList(
            Block(
                norm,
                Attention(width, row["heads"], biases=True, causal=False),
                FeedForward(width, 4 * width),
                dropout=dropout,
            )
            for _ in range(row["depth"])
        )
        self.norm = norm()
        self.classes = nn.Linear(width, row["classes"])

    def forward(self, image_BHWC):
        x = (channels_first(image_BHWC) - 0.5) / 0.5
        x_BTD = self.patches(x).flatten(2).transpose(1, 2) + self.positions_TD
        x_BTD = self.dropout(x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return self.classes(self.norm(x_BTD).mean(dim=1))

    def load(self, ours, path):
        load(self.patches, ours, "patches")
        load(self.blocks, ours, "backbone.layers")
        load(self.norm, ours, "backbone.norm")
        load(self.classes, ours, "classes")


def sincos_positions(side: int, width: int) -> torch.Tensor:
    """Return a vector of sines and cosines for each patch of a square, [T, D]: first of its column,
    then of its row."""
    frequencies = 10_000.0 ** -np.linspace(0, 1, width // 4)
    row, column = np.indices((side, side)).reshape(2, -1, 1) * frequencies
    waves = np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=1)
    return torch.tensor(waves, dtype=torch.float32)
