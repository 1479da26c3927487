"""The sizes of a mesh on the devices there are."""

import pytest

from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.rules import resolve_mesh

TEXT, PICTURES = "tests/configs/text_recipe.py", "configs/digits_cnn.py"


def _sizes(devices: int, recipe: str = TEXT, **overrides: str) -> tuple[int, ...]:
    """data, fsdp, tensor, sequence."""
    fields = {name.replace("__", "."): text for name, text in overrides.items()}
    return tuple(resolve_mesh(load_config(recipe, fields), devices).values())


def test_minus_one_takes_whatever_devices_are_left():
    assert _sizes(8) == (8, 1, 1, 1)
    assert _sizes(1) == (1, 1, 1, 1)
    assert _sizes(8, mesh__fsdp="2", mesh__tensor="2") == (2, 2, 2, 1)
    assert _sizes(8, mesh__data="1", mesh__fsdp="-1") == (1, 8, 1, 1)
    assert _sizes(8, mesh__data="2", mesh__sequence="-1") == (2, 1, 1, 4)
    assert list(resolve_mesh(load_config(TEXT), 1)) == ["data", "fsdp", "tensor", "sequence"]


def test_a_mesh_may_be_smaller_than_the_devices():
    assert _sizes(8, mesh__data="2") == (2, 1, 1, 1)
    assert _sizes(7, mesh__tensor="4") == (1, 1, 4, 1)


def test_a_mesh_that_is_larger_than_the_devices_is_refused_with_both_numbers():
    with pytest.raises(UsageError, match=r"mesh\.data=16 needs at least 16 devices.* are 8"):
        _sizes(8, mesh__data="16")
    with pytest.raises(UsageError, match=r"mesh\.tensor=4 needs at least 4 devices.* are 2"):
        _sizes(2, mesh__tensor="4")


def test_what_the_devices_decide_is_checked_once_they_are_known():
    with pytest.raises(UsageError, match=r"on 3 devices, data\.global_batch_size=16.*15 or 18"):
        _sizes(3)
    with pytest.raises(UsageError, match=r"on 8 devices, model\.num_heads=4.*mesh\.tensor=8"):
        _sizes(8, mesh__data="1", mesh__tensor="-1")
    with pytest.raises(UsageError, match=r"on 3 devices, data\.sequence_length=256.*255 or 258"):
        _sizes(3, mesh__data="1", mesh__sequence="-1")
    with pytest.raises(UsageError, match=r"model\.pattern=R \(recurrence\)"):
        _sizes(4, mesh__data="1", mesh__sequence="-1", model__pattern="R")
    with pytest.raises(UsageError, match=r"model\.architecture=cnn"):
        _sizes(4, PICTURES, mesh__data="1", mesh__sequence="-1")


def test_the_batch_is_divided_by_the_axes_of_its_rule():
    assert _sizes(3, mesh__data="1", mesh__fsdp="3", mesh__rules__batch="data") == (1, 3, 1, 1)


def test_recurrence_has_no_heads_to_divide():
    assert _sizes(8, mesh__data="1", mesh__tensor="8", model__pattern="R") == (1, 1, 8, 1)
