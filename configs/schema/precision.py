"""The configuration section `precision`: dtypes."""

from typing import Literal

from configs.schema.settings import Settings, field

WEIGHTS_DTYPES = ("float32", "bfloat16", "int8")
"""The dtypes that the weights of a trained model can be converted to (`--weights_dtype`)."""


class Precision(Settings):
    """Data types (dtypes) of activations and parameters."""

    compute_dtype: Literal["auto", "bfloat16", "float32"] = field(
        "auto",
        "dtype of activations; auto: bfloat16 on accelerators, float32 on CPU.",
        aliases=("dtype", "precision", "mixed_precision", "bf16", "fp16", "amp", "half"),
    )
    products: Literal["float32", "bfloat16"] = field(
        "float32",
        "dtype to which the inputs of matrix products and convolutions of float32 arrays are "
        "rounded; sums and results are float32. bfloat16 is faster on many CPUs.",
        aliases=(
            "matmul_precision",
            "float32_matmul_precision",
            "default_matmul_precision",
            "tf32",
        ),
    )
    parameter_dtype: Literal["float32", "bfloat16"] = field(
        "float32",
        "dtype of weights, and of the optimizer state if optimizer.state_dtype is auto.",
        aliases=("param_dtype",),
    )
