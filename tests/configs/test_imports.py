"""A configuration is checked, and an example decoded, before JAX starts and without it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow", "tensorflow_datasets"}


@pytest.mark.parametrize("room", ["configs", "data/codecs"])
def test_no_module_of_the_room_loads_jax_or_grain(room):
    paths = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / room).rglob("*.py"))]
    modules = [".".join(path.parts).removesuffix(".__init__") for path in paths]
    assert len(modules) > 5
    code = f"import sys, {', '.join(modules)}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"
