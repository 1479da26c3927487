"""Compares the losses of each recipe's full-size model on one device and on meshes of eight.

python benchmarks/sharding_parity.py [RECIPE ...]

For each mesh, prints the largest relative difference from the losses on one device, in twenty
steps: AdamW, learning rate 1e-3, float32, the same synthetic batches. It takes minutes on two CPU
cores; the eight devices are virtual.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.invented import invented_spec, train_losses
from benchmarks.measuring import print_head, print_row
from configs.errors import UsageError
from configs.reading.recipes import load_config
from configs.schema.config import Config
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
    """Return the configuration of a recipe with this benchmark's optimizer, dtype and batch size.

    mesh: the size of each mesh axis; axes that are missing have size 1.
    """
    fields = {f"mesh.{axis}": str(mesh.get(axis, 1)) for axis in AXES}
    fields |= {
        "optimizer.name": "adamw",
        "optimizer.learning_rate": "1e-3",
        "precision.compute_dtype": "float32",
        "precision.products": "float32",
        "data.global_batch_size": "16",
    }
    return load_config(f"configs/{recipe}.py", fields, inputs=False)


def losses(recipe: str, mesh: dict[str, int]) -> list[float]:
    """Train a recipe's model on a mesh; return the loss of each step."""
    config = load(recipe, mesh)
    vocabulary_size = getattr(getattr(config.data, "tokenizer", None), "vocabulary_size", 67)
    spec = invented_spec(config, vocabulary_size=vocabulary_size)
    program = build_program(config, spec, make_mesh(config))
    return train_losses(program, program.initialize(), spec, STEPS)


def main(recipes: list[str]) -> None:
    """Measure the recipes and print the table."""
    meshes = [",".join(f"{axis}={size}" for axis, size in mesh.items()) for mesh in MESHES]
    print_head(["recipe", *meshes])
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
        print_row([f"`{recipe}`", *cells])


if __name__ == "__main__":
    main(sys.argv[1:])
