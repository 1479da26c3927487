"""How gradients become updates."""

from typing import Annotated, ClassVar, Literal

from annotated_types import Interval

from configs.schema.settings import (
    Fraction,
    NonNegativeInteger,
    NonNegativeNumber,
    PositiveNumber,
    Settings,
    field,
)


class AdamW(Settings):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    discriminator: ClassVar = "name"

    name: Literal["adamw"] = field("adamw", "How gradients become updates.")
    learning_rate: PositiveNumber = field(
        1e-3,
        "Learning rate after the warm-up.",
        also_called=("lr", "base_lr", "max_lr"),
    )
    schedule: Literal["constant", "cosine"] = field(
        "cosine",
        "What the learning rate does after the warm-up, until the last step.",
        also_called=("lr_schedule", "scheduler", "decay"),
    )
    warmup_steps: NonNegativeInteger = field(
        100,
        "Steps in which the learning rate grows linearly from zero.",
        unit="steps",
        also_called=("warmup", "warmup_iters"),
    )
    final_learning_rate_ratio: Annotated[float, Interval(ge=0.0, le=1.0)] = field(
        0.1,
        "Learning rate of the last step as a share of learning_rate.",
        also_called=("min_lr", "final_lr", "end_lr"),
    )
    weight_decay: NonNegativeNumber = field(
        0.1,
        "Share of matrices and kernels, times the learning rate, that a step takes away.",
        also_called=("wd",),
    )
    beta1: Fraction = field(0.9, "Share of the mean of gradients that each step keeps.")
    beta2: Fraction = field(0.95, "Share of the mean of squared gradients that each step keeps.")
    epsilon: PositiveNumber = field(
        1e-8,
        "Added to the root of the mean squared gradient.",
        also_called=("eps", "adam_eps"),
    )
    gradient_clip_norm: PositiveNumber | None = field(
        1.0,
        "Global norm that larger gradients are scaled down to; none: never.",
        also_called=("grad_clip", "clip_norm", "max_grad_norm", "gradient_clipping"),
    )

    def needless(self) -> dict[str, str]:
        if self.schedule == "cosine":
            return {}
        return {"final_learning_rate_ratio": f"optimizer.schedule is {self.schedule}"}


Optimizer = AdamW
"""A second kind makes this `Annotated[AdamW | ..., pydantic.Discriminator("name")]`."""
