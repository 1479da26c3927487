"""Exported programs of small models, and processes that can't import this code."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.reading.recipes import load_config
from configs.reading.saved import read_config
from interop.folder import Folder
from interop.formats import stablehlo
from interop.formats.source import Source
from parallel.mesh import flat_mesh
from tests.docs.documents import DOCUMENTS, ROOT, fences
from training.model_def import build_model_def
from training.restore import Restored, restore_model

GOLDEN = ROOT / "tests/golden/workdirs"

ISOLATED = """
import importlib.util, runpy, sys
sys.path += sys.argv.pop(1).split(";")
sys.argv.pop(0)
assert not any(importlib.util.find_spec(name) for name in ("interop", "model", "training"))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a script with the packages in some folders, and nothing else that is installed."""


class Programs:
    """The folder of an exported model."""

    def __init__(self, path: Path):
        self.path = path
        self.listing = json.loads((path / "programs.json").read_text())
        folder = Folder(path)
        self.weights = {name: folder.tensor(name) for name in folder.names}
        self.functions = self.listing["functions"]
        self._compiled: dict[tuple[str, int], Any] = {}

    def exported(self, name: str, which: int = -1) -> export.Exported:
        """Read one of the files of a function."""
        file = self.path / self.functions[name]["files"][which]["file"]
        return export.deserialize(bytearray(file.read_bytes()))

    def call(self, name: str, *inputs: Any, which: int = -1) -> dict[str, Any]:
        """Call a function by one of its files."""
        if (name, which) not in self._compiled:
            self._compiled[name, which] = jax.jit(self.exported(name, which).call)
        return self._compiled[name, which](self.weights, *inputs)

    def zeros(self, group: str, **sizes: int) -> dict[str, NDArray]:
        """Return the arrays of a group, of these sizes."""
        return {
            name: np.zeros([sizes.get(size, size) for size in array["shape"]], array["dtype"])
            for name, array in self.listing["groups"][group].items()
        }

    def shapes(self, specs: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return the dtypes and shapes of results, in JAX's order of leaves."""
        tree = {
            name: self.listing["groups"][one["group"]] if "group" in one else one
            for name, one in specs.items()
        }
        leaves = jax.tree.leaves(tree, is_leaf=lambda node: "shape" in node)
        return [(leaf["dtype"], ", ".join(map(str, leaf["shape"]))) for leaf in leaves]


def restored(name: str) -> Restored:
    """Restore the model of a golden workdir."""
    workdir = GOLDEN / name
    return restore_model(
        workdir,
        read_config(workdir),
        step="latest",
        weights=None,
        mesh=flat_mesh(jax.devices()[:1]),
        warn=lambda message: None,
    )


def untrained(recipe: str, spec: DataSpec, fields: Mapping[str, str]) -> Restored:
    """Return the model of a recipe with random weights; initialising it would take longer."""
    config = load_config(f"configs/{recipe}.py", fields, inputs=False)
    model_def = build_model_def(config, spec, flat_mesh(jax.devices()[:1]))
    generator = np.random.default_rng(0)

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        mean = 1.0 if str(path[-1].key) in ("scale", "var") else 0.0
        return jnp.asarray(mean + generator.uniform(-0.2, 0.2, leaf.shape), leaf.dtype)

    params, statistics = (
        jax.tree.map_with_path(drawn, tree)
        for tree in (model_def.abstract_params, model_def.abstract_statistics)
    )
    manifest = {"step": 0, "data": spec.to_manifest(), "metrics": {}}
    return Restored(0, manifest, model_def, params, statistics)


def written(
    model: Restored, out: Path, tokenizer: Path | None = None, **options: Any
) -> tuple[Programs, list[str]]:
    """Write a model as programs; return them, and the notes for the user."""
    options = {"dtype": None, "command": "", "platforms": "cpu"} | options
    notes = stablehlo.write(Source(model, tokenizer, **options), out)
    return Programs(out), list(notes)


def computed(model: Restored, call: Callable[..., Any], *inputs: Any) -> Any:
    """Return what `call(module, *inputs)` returns, compiled."""

    @jax.jit
    def compiled(params, statistics, *inputs):
        return call(model.model_def.bind(params, statistics), *inputs)

    return compiled(model.params, model.statistics, *inputs)


def script(name: str, folder: Path) -> Path:
    """Write a script of the documents into `folder`."""
    (text,) = {
        fence.text for document in DOCUMENTS for fence in fences(document) if fence.file == name
    }
    path = folder / name
    path.write_text(text)
    return path


def run_isolated(path: Path, *arguments: Any, more: Sequence[str] = ()) -> str:
    """Run a script without this code; return its standard output. more: packages that it needs."""
    packages = ("jax", "safetensors", "tokenizers", "flatbuffers", *more)
    files = {name: Path(str(importlib.import_module(name).__file__)) for name in packages}
    places = {str(file.parents[1 + name.count(".")]) for name, file in files.items()}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", ISOLATED, ";".join(places), path, *map(str, arguments)],
        cwd=path.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
