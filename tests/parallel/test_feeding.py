"""How a batch comes from the host to the devices."""

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from configs.schema.mesh import AXES
from parallel.feeding import put_batch


def test_on_one_cpu_large_arrays_are_there_before_the_step_and_small_ones_stay_on_the_host():
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    rows = {"frames": np.ones((8, 100, 80), np.float32), "labels": np.arange(8)}
    placed = put_batch(rows, sharding, 8)
    assert placed.keys() == rows.keys() and placed["labels"] is rows["labels"]
    assert isinstance(placed["frames"], jax.Array) and placed["frames"].sharding == sharding
    np.testing.assert_array_equal(placed["frames"], rows["frames"])
    compiled = jax.jit(lambda batch: batch["frames"].sum()).lower(placed).compile()
    assert compiled(placed) == 64_000
