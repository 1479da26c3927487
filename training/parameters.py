"""Parameters by name and logical axes: which are trained, and which are matrices."""

from collections.abc import Sequence

from optax.contrib import MuonDimensionNumbers

from configs.errors import UsageError
from configs.schema.config import Config
from training.trees import LogicalAxes, matching

LORA = "lora"
"""Name of the subtree of the parameters that has the pairs of `training.lora`."""

_NO_MATRIX = {"vocabulary", "classes", "positions", "norm"}
"""Axes of embedding tables, heads and norm scales. Muon is only for hidden matrices."""


def frozen_names(config: Config, names: Sequence[str]) -> set[str]:
    """Return the names of the parameters that are frozen, i.e. not trained.

    Raises `UsageError` if all would be frozen.
    """
    train = config.train
    if train.lora.rank is not None:
        own = [name for name in names if not name.startswith(f"{LORA}.")]
        also = [
            matching(own, pattern, "train.lora.train_also") for pattern in train.lora.train_also
        ]
        return set(own).difference(*also)
    frozen = set().union(*(matching(names, p, "train.freeze") for p in train.freeze))
    if len(frozen) == len(names):
        raise UsageError(f"train.freeze={','.join(train.freeze)} leaves nothing to train")
    return frozen


def matrix_of(axes: LogicalAxes) -> MuonDimensionNumbers | None:
    """Return which dimensions of a hidden matrix are rows (inputs) and which are columns, for Muon.
    Return None for embedding tables, heads, norm scales and biases.

    axes: the logical axes of the parameter.
    """
    return None if _NO_MATRIX & set(axes) else sides_of(axes)


def sides_of(axes: LogicalAxes) -> MuonDimensionNumbers | None:
    """Return which dimensions of a matrix are rows and which are columns; None for a parameter that
    is not a matrix. Embedding tables and heads are matrices too.

    `heads` and `head_dim` together are one side. The window of a convolution belongs to the rows.
    `layers` and other dimensions without a name are batch dimensions of a stack of matrices.
    """
    window = [i for i, axis in enumerate(axes) if axis is None and "channels_in" in axes]
    sides: list[list[int]] = []
    for i, axis in enumerate(axes):
        if axis in (None, "layers"):
            continue
        if axis == "head_dim" and sides:
            sides[-1].append(i)
        else:
            sides.append([i])
    if len(sides) != 2:
        return None
    return MuonDimensionNumbers((*window, *sides[0]), tuple(sides[1]))
