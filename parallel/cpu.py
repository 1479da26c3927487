"""What this machine's CPU has instructions for. The form of products depends on it."""

import numpy as np

_FEATURES: dict[str, bool] = np._core._multiarray_umath.__cpu_features__  # type: ignore[attr-defined]


def has_avx512() -> bool:
    """Return whether the CPU has AVX-512, without which oneDNN has no products in bfloat16."""
    return _FEATURES.get("AVX512_SKX", False)


def has_bfloat16() -> bool:
    """Return whether the CPU multiplies bfloat16 numbers: AVX512-BF16, as CPUs with AMX do too.

    NumPy before 2.4 does not know it: False.
    """
    return _FEATURES.get("AVX512BF16", False)
