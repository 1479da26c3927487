"""The Conformer that transcribes recordings, with the CTC loss.

Axes: B batch, T frames, F mel bands, U positions (after subsampling), C channels, D width,
V vocabulary (its last entry is the CTC blank).
"""

from functools import partial

import torch
from torch import nn
from torch.nn import functional

from benchmarks.peers.layers import Attention, FeedForward, load_projections, rotary_angles
from benchmarks.peers.loading import fill, load

ROTARY_BASE = 10_000.0
SUBSAMPLING = (2, 1)
"""Time strides of the two convolutions, which merge two frames into a position."""


class Subsampling(nn.Module):
    """Two 3 x 3 convolutions over time and frequency with ReLUs, then a projection."""

    def __init__(self, mels: int, width: int, channels: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, channels, 3, stride=(stride, 2), padding=1)
            for inputs, stride in zip((1, channels), SUBSAMPLING, strict=True)
        )
        self.projection = nn.Linear(-(-mels // 4) * channels, width)

    def forward(self, frames_BTF, real_BT):
        """Map [B, T, F] to [B, U, D]; also return where no padding is, bool [B, U]."""
        x_BCTF = frames_BTF[:, None]
        for layer, stride in zip(self.convolutions, SUBSAMPLING, strict=True):
            x_BCTF = functional.relu(layer(x_BCTF * real_BT[:, None, :, None]))
            real_BT = real_BT[:, ::stride]
        return self.projection(x_BCTF.permute(0, 2, 3, 1).flatten(2)), real_BT


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm of [B, U, C], with statistics that exclude padding, in float32."""

    def forward(self, x_BUC, real_BU):
        x_BUC, weights_BU1 = x_BUC.float(), real_BU[:, :, None].float()
        count = weights_BU1.sum()
        mean_C = (weights_BU1 * x_BUC).sum(dim=(0, 1)) / count
        centred_BUC = x_BUC - mean_C
        variance_C = (weights_BU1 * centred_BUC.square()).sum(dim=(0, 1)) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * count / (count - 1), self.momentum)
        return centred_BUC * ((variance_C + self.eps).rsqrt() * self.weight) + self.bias


class ConvolutionModule(nn.Module):
    """out(swish(norm(depthwise(glu(x)))))."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.inward = nn.Linear(width, 2 * width)
        self.depthwise = nn.Conv1d(width, width, size, padding=size // 2, groups=width, bias=False)
        self.norm = MaskedBatchNorm(width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BUD, real_BU):
        x_BUD = functional.glu(self.inward(x_BUD), dim=-1) * real_BU[:, :, None]
        x_BUD = self.depthwise(x_BUD.transpose(1, 2)).transpose(1, 2)
        return self.out(functional.silu(self.norm(x_BUD, real_BU)))

    def load(self, ours, path):
        load_projections(self.inward, ours, path, ("value", "gate"))
        fill(self.depthwise.weight, ours[f"{path}.depthwise.kernel"].T[:, None])
        load(self.norm, ours, f"{path}.norm")
        load(self.out, ours, f"{path}.out")


class ConformerBlock(nn.Module):
    """Half a feed-forward part, attention, the convolution module and half a feed-forward part,
    each with a norm before it; then a norm."""

    def __init__(self, row: dict):
        super().__init__()
        width = row["width"]
        norm = partial(nn.LayerNorm, width, eps=1e-5)
        self.first_norm, self.attention_norm, self.convolution_norm = norm(), norm(), norm()
        self.second_norm, self.norm = norm(), norm()
        self.first, self.second = (FeedForward(width, 4 * width, functional.silu) for _ in range(2))
        self.attention = Attention(width, row["heads"], causal=False)
        self.convolution = ConvolutionModule(width, row["kernel"])
        self.dropout = nn.Dropout(row.get("dropout", 0.0))

    def forward(self, x_BUD, real_BU, angles_UH):
        x_BUD = x_BUD + 0.5 * self.dropout(self.first(self.first_norm(x_BUD)))
        attended_BUD = self.attention(self.attention_norm(x_BUD), angles_UH, real_BU[:, None, None])
        x_BUD = x_BUD + self.dropout(attended_BUD)
        convolved_BUD = self.convolution(self.convolution_norm(x_BUD), real_BU)
        x_BUD = x_BUD + self.dropout(convolved_BUD)
        x_BUD = x_BUD + 0.5 * self.dropout(self.second(self.second_norm(x_BUD)))
        return self.norm(x_BUD)


class Conformer(nn.Module):
    """A Conformer with rotary positions, and a head of labels and the blank."""

    inputs = ("frames", "segments")

    def __init__(self, row: dict):
        super().__init__()
        width = row["width"]
        self.head_dim = width // row["heads"]
        self.subsampling = Subsampling(row["mels"], width, row["subsampling_channels"])
        self.dropout = nn.Dropout(row.get("dropout", 0.0))
        self.blocks = nn.ModuleList(ConformerBlock(row) for _ in range(row["depth"]))
        self.head = nn.Linear(width, row["vocabulary"] + 1)

    def forward(self, frames_BTF, segments_BT):
        x_BUD, real_BU = self.subsampling(frames_BTF, segments_BT != 0)
        positions_U = torch.arange(x_BUD.shape[1], device=x_BUD.device)
        angles_UH = rotary_angles(positions_U, self.head_dim, ROTARY_BASE)
        x_BUD = self.dropout(x_BUD)
        for block in self.blocks:
            x_BUD = block(x_BUD, real_BU, angles_UH)
        return self.head(x_BUD)

    @staticmethod
    def loss(logits_BUV, batch):
        labels_B = batch["label_weights"].sum(dim=1).long()
        positions_B = batch["segments"][:, :: SUBSAMPLING[0]].sum(dim=1)
        nats = functional.ctc_loss(
            logits_BUV.log_softmax(dim=-1).transpose(0, 1),
            batch["labels"],
            positions_B,
            labels_B,
            blank=logits_BUV.shape[2] - 1,
            reduction="sum",
            zero_infinity=True,
        )
        return nats / labels_B.sum()
