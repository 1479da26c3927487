"""Parameters as matrices: which of their dimensions are rows and which are columns."""

from optax.contrib import MuonDimensionNumbers

_NO_MATRIX = {"vocabulary", "classes", "positions", "norm"}
"""Axes of tables, heads and gains: not of the hidden matrices that Muon is for."""


def matrix_of(axes: tuple[str | None, ...]) -> MuonDimensionNumbers | None:
    """Which dimensions of a parameter are the rows (inputs) and columns of a hidden matrix; None
    for tables, heads, gains and biases."""
    return None if _NO_MATRIX & set(axes) else sides_of(axes)


def sides_of(axes: tuple[str | None, ...]) -> MuonDimensionNumbers | None:
    """Which dimensions are the rows and columns of a matrix, be it a table or a head; None where
    there are no two sides.

    Heads and their numbers are one side of a matrix. The window of a convolution belongs to its
    inputs; any other dimension without a name, as `layers`, counts matrices beside each other.
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
