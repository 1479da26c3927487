"""Bytes of the compiled train step with and without what saves memory.

python benchmarks/memory.py [--width=256 --depth=8 --length=256 --batch=8 --vocabulary=50257]
                            [--topology=v5e:2x2]

Nothing runs: the figures are the compiler's memory analysis, on one CPU device in float32, or one
chip of a slice of TPUs in bfloat16 (libtpu has to be there, a chip not). `state` is what stays
between steps (weights, moments), `temporaries` what a step needs beside it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # No chips here, and no server to ask for them.
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
from jax.experimental import topologies

from benchmarks.invented import batch, invented_spec
from configs.reading.recipes import load_config
from parallel.mesh import make_mesh
from training.program import build_program

VARIANTS: dict[str, dict[str, str]] = {
    "nothing": {},
    "loss in 8 chunks": {"task.loss_chunks": "8"},
    "loss in 32 chunks": {"task.loss_chunks": "32"},
    "remat named": {"model.remat": "named"},
    "remat dots": {"model.remat": "dots"},
    "remat full": {"model.remat": "full"},
    "scanned layers": {"model.scan_layers": "true"},
    "scanned layers, remat full": {"model.scan_layers": "true", "model.remat": "full"},
    "accumulation over 4": {"train.gradient_accumulation": "4"},
    "moments in bfloat16": {"optimizer.state_dtype": "bfloat16"},
    "lion": {"optimizer.name": "lion"},
    "adafactor without momentum": {"optimizer.name": "adafactor", "optimizer.beta1": "0"},
    "muon": {"optimizer.name": "muon"},
    "chunks 32, remat full, scanned, moments in bfloat16": {
        "task.loss_chunks": "32",
        "model.remat": "full",
        "model.scan_layers": "true",
        "optimizer.state_dtype": "bfloat16",
    },
}


def analysis(size: argparse.Namespace, fields: dict[str, str], devices: Sequence[Any] | None):
    """The compiler's memory analysis of the train step of a decoder on the first of `devices`."""
    base = {
        "model.width": str(size.width),
        "model.depth": str(size.depth),
        "model.num_heads": str(max(1, size.width // 64)),
        "data.sequence_length": str(size.length),
        "data.global_batch_size": str(size.batch),
        "task.loss_chunks": "1",
        "mesh.data": "1",
    }
    config = load_config("configs/python_stdlib.py", base | fields, inputs=False)
    spec = invented_spec(config, vocabulary_size=size.vocabulary)
    program = build_program(config, spec, make_mesh(config, devices))
    shape = program.batch_shape(batch(config, spec, 0, rows=1), size.batch)
    return program.train_step.lower(program.abstract_state, shape).compile().memory_analysis()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sizes = {"width": 256, "depth": 8, "length": 256, "batch": 8, "vocabulary": 50_257}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--topology", help="compile for a chip of this slice of TPUs")
    size, devices = parser.parse_args(), None
    if size.topology:
        topology = topologies.get_topology_desc(platform="tpu", topology_name=size.topology)
        devices = topology.devices
    print("| With | state, MiB | temporaries, MiB | both, MiB | without donated buffers |")
    print("|---|---|---|---|---|", flush=True)
    for name, fields in VARIANTS.items():
        try:
            memory = analysis(size, fields, devices)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            print(f"| {name} | | | more than the chip has | |", flush=True)
            continue
        state, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
        fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
        both = state + temporaries + fresh
        figures = (state, temporaries, both, both + memory.alias_size_in_bytes)
        cells = " | ".join(f"{figure / 2**20:,.0f}" for figure in figures)
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
