"""How arrays are divided on the disk, and read by many hosts: as Orbax really stores them."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from parallel.mesh import flat_mesh
from training import spreading
from training.chunks import _divided, chunk_bytes, save_args, written_shape

ARRAYS = {
    "square": ((512, 768), ()),
    "split": ((512, 768), (None, "fsdp")),
    "rows": ((1024, 384), ("fsdp",)),
    "vocabulary": ((50257, 24), ()),  # 29 x 1733
    "prime": ((50261, 24), ()),
    "prime_on_each": ((8 * 5003, 32), ("fsdp",)),
    "vector": ((4096,), ()),
    "scalar": ((), ()),
}


@pytest.fixture(scope="module")
def arrays() -> dict[str, jax.Array]:
    mesh = flat_mesh(jax.devices())
    return {
        name: jax.device_put(np.zeros(shape, np.float32), NamedSharding(mesh, PartitionSpec(*spec)))
        for name, (shape, spec) in ARRAYS.items()
    }


def test_the_chunks_on_the_disk_are_neither_tiny_nor_huge(arrays, tmp_path):
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(tmp_path / "item", args=ocp.args.StandardSave(arrays, save_args(arrays)))
    chunks = spreading._chunk_shapes(tmp_path / "item")
    assert chunks.keys() == arrays.keys()
    for name, array in arrays.items():
        limit, shape = chunk_bytes(array), written_shape(array)
        expected = shape if limit is None else _divided(shape, array.shape, limit // 4)
        assert tuple(chunks[name]) == tuple(max(1, size) for size in expected), name
        assert limit is None or limit / 4 <= 4 * np.prod(chunks[name]) <= limit, name
    assert tuple(chunks["square"]) == (16, 768)  # of 64 rows, which each of the 8 devices writes
    assert tuple(chunks["prime"]) == (50261, 1)


def test_an_array_is_read_in_the_dimension_with_the_most_chunks():
    whole = NamedSharding(flat_mesh(jax.devices()), PartitionSpec())
    everywhere = whole.mesh.axis_names

    def split(shape, chunk):
        return spreading._split(whole, shape, chunk).spec

    assert split((512, 768), (64, 768)) == PartitionSpec(everywhere)
    assert split((512, 768), (256, 96)) == PartitionSpec(None, everywhere)
    assert split((512, 768), (512, 768)) == PartitionSpec()  # one chunk: nothing to share
    assert split((9, 768), (1, 384)) == PartitionSpec(None, everywhere)  # 9 rows, 8 devices
    assert split((9, 7), (1, 1)) == PartitionSpec()


def test_what_was_read_in_parts_becomes_the_same_bits():
    whole = NamedSharding(flat_mesh(jax.devices()), PartitionSpec())
    parts = NamedSharding(whole.mesh, PartitionSpec(None, whole.mesh.axis_names))
    bits = np.random.default_rng(0).integers(0, 2**32, (64, 64), np.uint32)
    bits[0, :3] = 0x80000000, 0x7FC12345, 0xFF800001  # -0.0, and NaNs with a payload
    array = jax.device_put(bits.view(np.float32), parts)
    gathered = spreading.gather(array, whole)
    assert gathered.sharding == whole and array.is_deleted()
    for shard in gathered.addressable_shards:
        assert np.array_equal(np.asarray(shard.data).view(np.uint32), bits)
    assert spreading.gather(gathered, whole) is gathered
