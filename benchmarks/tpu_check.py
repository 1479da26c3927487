"""Compiles train steps for TPU slices ahead of time, with libtpu, on a machine without TPUs.

python benchmarks/tpu_check.py [RECIPE ...]        (`make tpu-check` installs libtpu)

Prints a table of the memory per chip, as the compiler computes it: of the state and the batch, and
of what the step needs in addition. The exit status is 1 if a step does not compile or needs more
memory than a chip has, and 2 without libtpu.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # There is no TPU metadata server here.
sys.path.insert(0, str(Path(__file__).parents[1]))

from jax.experimental import topologies

from benchmarks.invented import batch, invented_spec
from benchmarks.measuring import print_head, print_row
from configs.reading.recipes import load_config
from parallel.mesh import make_mesh
from training.program import build_program

GIB = 2**30
MEMORY = {"TPU v5": 95, "TPU v5 lite": 16}
"""GiB of memory per chip, by `device_kind` (cloud.google.com/tpu/docs/v5p, v5e)."""


@dataclass(frozen=True)
class Row:
    """A recipe on a slice of TPUs, with the properties of its data that determine the model."""

    recipe: str
    topology: str
    vocabulary_size: int = 67
    num_classes: int = 10
    image_shape: tuple[int, int, int] = (8, 8, 1)
    fields: Mapping[str, str] = field(default_factory=dict)


ROWS = (
    Row("llama_8b", "v5p:4x4x4", 128_256),
    Row("llama_1b", "v5e:4x4", 128_256),
    Row("shakespeare_char_lstm", "v5e:2x2"),
    Row("digits_cnn", "v5e:2x2"),
    Row("imagenet_resnet50", "v5e:4x4", num_classes=1000, image_shape=(224, 224, 3)),
    Row("imagenet_vit_s16", "v5e:4x4", num_classes=1000, image_shape=(224, 224, 3)),
)
HEAD = (
    "recipe", "slice", "parameters", "batch", "attention", "state", "step", "GiB a chip",
    "compiled in",
)  # fmt: skip


def columns(row: Row, devices: Sequence[Any]) -> list[str]:
    """Compile a row for `devices`, which need not exist; return the cells of its table row."""
    began = time.monotonic()
    config = load_config(f"configs/{row.recipe}.py", dict(row.fields), inputs=False)
    spec = invented_spec(
        config,
        vocabulary_size=row.vocabulary_size,
        num_classes=row.num_classes,
        image_shape=row.image_shape,
    )
    program = build_program(config, spec, make_mesh(config, devices))
    global_batch_size = config.data.global_batch_size
    shape = program.batch_shape(batch(config, spec, 0, rows=1), global_batch_size)
    lowered = program.train_step.lower(program.abstract_state, shape)
    splash = "tpu_custom_call" in lowered.as_text()
    memory = lowered.compile().memory_analysis()
    # Not `temp_size_in_bytes`, which differs between versions of libtpu that have the same peak.
    held, peak = memory.argument_size_in_bytes, memory.peak_memory_in_bytes
    mesh = ", ".join(f"{axis}={size}" for axis, size in program.mesh.shape.items() if size > 1)
    length = getattr(config.data, "sequence_length", None)
    room = MEMORY.get(devices[0].device_kind)
    return [
        f"`{row.recipe}`",
        f"{row.topology}, {mesh}",
        f"{program.model_def.parameter_count / 1e6:,.1f} M",
        f"{global_batch_size} × {length:,}" if length else str(global_batch_size),
        "splash" if splash else "XLA" if "A" in getattr(config.model, "pattern", "") else "none",
        f"{held / GIB:.3g}",
        f"{(peak - held) / GIB:.3g}",
        f"{peak / GIB:.2f}" + (f" of {room}" if room else ""),
        f"{time.monotonic() - began:.0f} s",
    ]


def main(recipes: Sequence[str]) -> int:
    """Compile the rows and print the table. Return the exit status."""
    if find_spec("libtpu") is None:
        print("tpu_check.py: libtpu is missing: pip install -e '.[tpu]'", file=sys.stderr)
        return 2
    print_head(HEAD)
    failed = []
    for row in ROWS:
        if recipes and row.recipe not in recipes:
            continue
        try:
            slice_ = topologies.get_topology_desc(platform="tpu", topology_name=row.topology)
            print_row(columns(row, slice_.devices))
        except Exception as error:  # The compiler may raise anything; the other rows still run.
            failed.append(row.recipe)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            print_row(
                [f"`{row.recipe}`", row.topology, f"failed: {reason}", *[""] * (len(HEAD) - 3)]
            )
    if failed:
        print(f"tpu_check.py: {', '.join(failed)} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
