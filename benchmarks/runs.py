"""Runs of train.py that are done once: a file of JSON lines remembers what each came to."""

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from configs.reading.recipes import load_config

ROOT = Path(__file__).parents[1]
NOTHING_ON_THE_WAY = {
    "train.evaluate_every_steps": "1000000",
    "checkpoint.every_steps": "1000000",
    "task.sample_prompts": "()",
}
"""Overrides of runs of which only the end is wanted."""


def results(
    recipe: str, runs: Sequence[Mapping[str, str]], file: Path, *, jobs: int = 1
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Trains `recipe` under each of `runs` (overrides, path to text) that `file` does not know.

    Yields the place of a run in `runs` and its line of the file: its `config`, `parameters`,
    `seconds`, and the `metrics` of the validation split after the last step. `jobs` at a time run
    beside each other and share the cores. A run is known by its whole configuration: where the
    recipe has changed since, it is done again.
    """
    wanted = [_configuration(recipe, overrides) for overrides in runs]
    known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    missing = []
    for place, config in enumerate(wanted):
        found = next((line for line in known if line["config"] == config), None)
        if found is None:
            missing.append(place)
        else:
            yield place, found
    file.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        places = {pool.submit(_train, recipe, runs[place], jobs): place for place in missing}
        for done in as_completed(places):
            with file.open("a") as opened:
                opened.write(json.dumps(done.result()) + "\n")
            yield places[done], done.result()


def _configuration(recipe: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    config = load_config(ROOT / f"configs/{recipe}.py", overrides)
    return json.loads(config.model_dump_json())


def _train(recipe: str, overrides: Mapping[str, str], jobs: int) -> dict[str, Any]:
    """The line of a run, from the manifest of its last checkpoint. The workdir is removed."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "train.py", f"--config=configs/{recipe}.py"]
        command += [f"--workdir={workdir}"]
        command += [f"--config.{field}={text}" for field, text in overrides.items()]
        threads = max(1, (os.cpu_count() or 1) // jobs)
        ended = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"NPROC": str(threads)},  # what XLA takes for the number of cores
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)}\n{ended.stderr}")
        (manifest,) = Path(workdir).glob("checkpoints/*/manifest.json")
        told = json.loads(manifest.read_text())
    leaves = {name: leaf for name, leaf in told["leaves"].items() if name.startswith("params.")}
    return {
        "metrics": told["metrics"],
        "parameters": sum(math.prod(leaf["shape"]) for leaf in leaves.values()),
        "seconds": told["history"]["seconds"],
        "config": told["config"],
    }
