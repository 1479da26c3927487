"""Meshes, the meaning of logical axes on them, and the feeding of batches."""

from parallel.axes import (
    Rules,
    activation_constraint,
    named_sharding,
    partition_spec,
    replicated,
)
from parallel.distributed import any_process, is_main_process, start, wait_for_all
from parallel.feeding import batch_crc32, local_rows, put_batch
from parallel.mesh import AXES, flat_mesh, make_mesh

__all__ = [
    "AXES",
    "Rules",
    "activation_constraint",
    "any_process",
    "batch_crc32",
    "flat_mesh",
    "is_main_process",
    "local_rows",
    "make_mesh",
    "named_sharding",
    "partition_spec",
    "put_batch",
    "replicated",
    "start",
    "wait_for_all",
]
