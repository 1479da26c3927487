"""The configuration section `optimizer`: the optimizers and their hyperparameters."""

from typing import Annotated, ClassVar, Literal

import pydantic
from annotated_types import Interval

from configs.schema.settings import (
    Fraction,
    NamePattern,
    NonNegativeInteger,
    NonNegativeNumber,
    PositiveNumber,
    Settings,
    field,
)

Schedule = Literal["constant", "cosine", "linear", "wsd", "inverse_square_root"]
Multiplier = Annotated[
    str, pydantic.StringConstraints(pattern=r"^[\w.*?\[\]!-]+=(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$")
]


class _Optimizer(Settings):
    """Base class of optimizers."""

    discriminator: ClassVar = "name"

    name: str = field("", "Name of the optimizer.", aliases=("optim", "opt"))
    learning_rate: PositiveNumber = field(
        1e-3, "Learning rate after the warm-up.", aliases=("lr", "base_lr", "max_lr")
    )
    schedule: Schedule = field(
        "cosine",
        "Schedule of the learning rate after the warm-up; wsd (warmup-stable-decay): constant, "
        "then linear decay.",
        aliases=("lr_schedule", "scheduler", "decay", "lr_scheduler_type"),
    )
    warmup_steps: NonNegativeInteger = field(
        100,
        "Steps in which the learning rate grows linearly from zero.",
        unit="steps",
        aliases=("warmup", "warmup_iters", "warmup_ratio", "num_warmup_steps"),
    )
    decay_fraction: Annotated[float, Interval(gt=0.0, le=1.0)] = field(
        0.2,
        "Share of all steps, at the end of the run, in which schedule wsd lowers the learning "
        "rate.",
        aliases=("cooldown", "decay_steps", "warmdown"),
    )
    final_learning_rate_ratio: Annotated[float, Interval(ge=0.0, le=1.0)] = field(
        0.1,
        "Learning rate of the last step, relative to learning_rate.",
        aliases=("min_lr", "final_lr", "end_lr"),
    )
    learning_rate_multipliers: tuple[Multiplier, ...] = field(
        (),
        "Learning rate factors by parameter name, such as "
        "embedding.*=0.5,backbone.layers.0.*=0.1. The last matching pattern counts.",
        accepts="PATTERN=FACTOR separated by commas, * in a pattern for anything, or ()",
        aliases=("lr_multipliers", "param_groups", "layerwise_lr"),
    )
    weight_decay: NonNegativeNumber = field(
        0.1,
        "Decoupled weight decay: each step multiplies matrices and kernels by 1 - learning rate x "
        "this.",
        aliases=("wd",),
    )
    no_decay: tuple[NamePattern, ...] = field(
        (),
        "Parameters without weight decay, such as embedding.*. Biases and scales never have any.",
        accepts="patterns separated by commas, * for anything, or ()",
        aliases=("weight_decay_exclude", "decay_mask", "no_weight_decay"),
    )
    gradient_clip_norm: PositiveNumber | None = field(
        1.0,
        "Largest global norm of the gradients. Larger gradients are scaled down to it. none: no "
        "limit.",
        aliases=("grad_clip", "clip_norm", "max_grad_norm", "gradient_clipping"),
    )
    state_dtype: Literal["auto", "float32", "bfloat16"] = field(
        "auto",
        "dtype in which moments are stored; they are computed in float32. auto: dtype of the "
        "weights.",
        aliases=("mu_dtype", "optimizer_dtype", "optim_bits"),
    )

    def unused_fields(self) -> dict[str, str]:
        reasons = {}
        if self.schedule in ("constant", "inverse_square_root"):
            reasons["final_learning_rate_ratio"] = f"optimizer.schedule is {self.schedule}"
        if self.schedule != "wsd":
            reasons["decay_fraction"] = f"optimizer.schedule is {self.schedule}"
        if not self.weight_decay:
            reasons["no_decay"] = "optimizer.weight_decay is 0"
        return reasons


class _Adam(_Optimizer):
    """Base class of optimizers that scale updates by a running mean of squared gradients."""

    beta1: Fraction = field(0.9, "Decay rate of the running mean of gradients.")
    beta2: Fraction = field(0.95, "Decay rate of the running mean of squared gradients.")
    epsilon: PositiveNumber = field(
        1e-8, "Added to the root of the mean squared gradient.", aliases=("eps", "adam_eps")
    )


class AdamW(_Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    name: Literal["adamw"] = "adamw"


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum and decoupled weight decay."""

    name: Literal["sgd"] = "sgd"
    learning_rate: PositiveNumber = 0.1
    weight_decay: NonNegativeNumber = 1e-4
    momentum: Fraction = field(0.9, "Decay rate of the running sum of gradients.")
    nesterov: bool = field(True, "Whether to use Nesterov momentum.")

    def unused_fields(self) -> dict[str, str]:
        if self.momentum:
            return super().unused_fields()
        lone = dict.fromkeys(("nesterov", "state_dtype"), "optimizer.momentum is 0")
        return super().unused_fields() | lone


class Lion(_Optimizer):
    """Lion: updates are the sign of the momentum (Chen et al. 2023, arXiv:2302.06675).

    Its state is half as large as Adam's.

    Use a third to a tenth of Adam's learning rate, and three to ten times its weight decay.
    """

    name: Literal["lion"] = "lion"
    learning_rate: PositiveNumber = 2e-4
    weight_decay: NonNegativeNumber = 0.5
    beta1: Fraction = field(
        0.9, "Weight of the running mean in the update direction. The gradient has weight 1 - this."
    )
    beta2: Fraction = field(0.99, "Decay rate of the running mean of gradients.")


class Adafactor(_Optimizer):
    """Adafactor: Adam that stores only row and column means of the squared gradients (Shazeer and
    Stern 2018, arXiv:1804.04235), in the variant of Zhai et al. 2022, arXiv:2106.04560."""

    name: Literal["adafactor"] = "adafactor"
    beta1: Fraction = field(
        0.9, "Decay rate of the running mean of updates; 0: no running mean, which saves memory."
    )
    decay_exponent: Annotated[float, Interval(gt=0.0, lt=1.0)] = field(
        0.8, "The decay rate of squared gradients is 1 - step^-this, at most 0.999."
    )

    def unused_fields(self) -> dict[str, str]:
        reasons = super().unused_fields()
        return reasons if self.beta1 else reasons | {"state_dtype": "optimizer.beta1 is 0"}


class Muon(_Adam):
    """Muon: orthogonalised momentum for hidden matrices (Jordan 2024), AdamW for embeddings, heads,
    biases and scales.

    Both use the same learning rate and weight decay, because Muon's updates are scaled to the size
    of AdamW's (Liu et al. 2025, arXiv:2502.16982).
    """

    name: Literal["muon"] = "muon"
    momentum: Fraction = field(0.95, "Decay rate of the running mean of the gradients of matrices.")


class ScheduleFreeAdamW(_Adam):
    """Schedule-free AdamW: averages the weights instead of lowering the learning rate (Defazio et
    al. 2024, arXiv:2405.15682).

    Updates change one set of weights; the average of these weights over the steps is evaluated and
    saved. Gradients are computed at an interpolation between both.
    """

    name: Literal["schedule_free"] = "schedule_free"
    learning_rate: PositiveNumber = 2.5e-3
    schedule: Schedule = "constant"
    beta1: Annotated[float, Interval(gt=0.0, lt=1.0)] = field(
        meaning="Interpolation weight of the point where gradients are computed. 1: the average; "
        "0: the weights that the updates change."
    )
    beta2: Fraction = 0.99


Optimizer = Annotated[
    AdamW | SGD | Lion | Adafactor | Muon | ScheduleFreeAdamW, pydantic.Discriminator("name")
]
