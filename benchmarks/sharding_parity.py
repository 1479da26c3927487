"""Losses of twenty steps of each recipe's model, at full size, on meshes of eight devices.

python benchmarks/sharding_parity.py [RECIPE ...]

Prints the largest relative difference from one device's losses, AdamW, learning rate 1e-3,
float32, the same invented batches everywhere. Minutes on two CPU cores, on eight virtual devices.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np

from benchmarks.invented import batch, invented_spec
from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.config import Config
from parallel.feeding import put_batch
from parallel.mesh import AXES, make_mesh
from training.program import build_program

RECIPES = ("python_stdlib", "shakespeare_char", "shakespeare_char_lstm", "digits_cnn")
MESHES = (
    {"data": 8},
    {"fsdp": 8},
    {"tensor": 4, "data": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"sequence": 4, "data": 2},
)
STEPS = 20


def load(recipe: str, mesh: dict[str, int]) -> Config:
    """The recipe on a mesh, with a batch that eight devices divide."""
    fields = {f"mesh.{axis}": str(mesh.get(axis, 1)) for axis in AXES}
    fields |= {
        "optimizer.name": "adamw",
        "optimizer.learning_rate": "1e-3",
        "precision.compute_dtype": "float32",
        "data.global_batch_size": "16",
    }
    return load_config(f"configs/{recipe}.py", fields, inputs=False)


def losses(recipe: str, mesh: dict[str, int]) -> list[float]:
    """The loss of each step."""
    config = load(recipe, mesh)
    vocabulary_size = getattr(getattr(config.data, "tokenizer", None), "vocabulary_size", 67)
    spec = invented_spec(config, vocabulary_size=vocabulary_size)
    program = build_program(config, spec, make_mesh(config))
    state, measured = program.initialize(), []
    for step in range(STEPS):
        placed = put_batch(
            batch(config, spec, step),
            program.batch_sharding,
            config.data.global_batch_size,
        )
        state, metrics = program.train_step(state, placed)
        measured.append(float(jax.device_get(metrics["loss"])))
    return measured


def main(recipes: list[str]) -> None:
    """Prints the table."""
    print("| recipe | " + " | ".join(",".join(f"{a}={n}" for a, n in m.items()) for m in MESHES))
    for recipe in recipes or RECIPES:
        alone, cells = losses(recipe, {}), []
        for mesh in MESHES:
            try:
                together = losses(recipe, mesh)
            except UsageError:
                cells.append("refused")
                continue
            difference = np.max(np.abs(np.divide(together, alone) - 1))
            cells.append(f"{difference:.1e}")
        print(f"| `{recipe}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
