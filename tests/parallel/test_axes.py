"""Logical axes become mesh axes by one table, and nothing is sharded that does not divide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from configs.errors import UsageError
from configs.schema.mesh import AXES
from model.layers.sharding import activation_sharding, constrain
from parallel.axes import activation_placement, partition_spec
from parallel.feeding import local_rows, put_batch

RULES = {
    "batch": ("data", "fsdp"),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "norm": (),
}


@pytest.fixture
def mesh():
    devices = np.asarray(jax.devices()).reshape(2, 2, 2, 1)
    return jax.sharding.Mesh(devices, AXES)


@pytest.mark.parametrize(
    ("axes", "shape", "spec"),
    [
        (("embed", "mlp"), (8, 6), PartitionSpec("fsdp", "tensor")),
        (("batch", None), (8, 3), PartitionSpec(("data", "fsdp"))),
        (("embed", "mlp"), (7, 6), PartitionSpec(None, "tensor")),
        (("norm",), (8,), PartitionSpec()),
        ((None, "embed"), (3, 4), PartitionSpec(None, "fsdp")),
    ],
)
def test_axes_become_the_mesh_axes_of_their_rules(mesh, axes, shape, spec):
    assert partition_spec(axes, shape, mesh=mesh, rules=RULES) == spec


def test_two_dimensions_on_one_mesh_axis_name_both_logical_axes(mesh):
    with pytest.raises(UsageError, match=r"'mlp' and 'heads'.*mesh axis 'tensor'"):
        partition_spec(("mlp", "heads"), (4, 4), mesh=mesh, rules=RULES)


def test_an_axis_without_a_rule_lists_those_that_have_one(mesh):
    with pytest.raises(ValueError, match=r"'width' has no rule.*'batch', 'embed'"):
        partition_spec(("width",), (4,), mesh=mesh, rules=RULES)


def test_a_rank_that_differs_is_refused(mesh):
    with pytest.raises(ValueError, match="name 1 dimensions"):
        partition_spec(("embed",), (4, 4), mesh=mesh, rules=RULES)


def test_activations_are_laid_out_by_their_names(mesh):
    with activation_sharding(activation_placement(mesh, RULES)):
        out = jax.jit(lambda x: constrain(x, "batch", "mlp"))(jnp.ones((8, 4)))
    assert out.sharding.spec == PartitionSpec(("data", "fsdp"), "tensor")


def test_one_process_holds_every_row_and_they_come_back_in_order(mesh):
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    assert local_rows(sharding, 16) == slice(0, 16)
    rows = np.arange(32).reshape(16, 2)
    batch = put_batch({"tokens": rows}, sharding, 16)
    assert batch["tokens"].sharding == sharding
    np.testing.assert_array_equal(batch["tokens"], rows)
