"""Training on this GPU as users do it: the parts `training` and `from_cpu` of `gpu_run.py`.

`training` runs the GPU variant of `shakespeare_char` to a target loss; kills it with SIGKILL at a
random moment, lets it go on, and compares it bit by bit with the run that nothing broke; evaluates
the checkpoint on the GPU and on CPU, and writes text with it. This process has the CPU alone: the
verbs are processes of their own.
"""

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.findings import Failed, Findings, expect
from training.checkpoints import ITEMS, finished_steps, restore_fields
from training.manifest import verify

ROOT = Path(__file__).parents[1]
RECIPE = "configs/shakespeare_char.py"
STEPS, TOY_STEPS = 2000, 240
TARGET_LOSS = {"given": 1.5, "standard library": 1.2, "toy": 3.4}
"""Nats per character of held-out text. `given`: what nanoGPT reaches on tiny Shakespeare, nearly.
`standard library`: the small variant reaches 1.289 on it in 1,200 steps on CPU."""

HELD_OUT = 110_000
"""Characters held out, at most a tenth: as many as of tiny Shakespeare."""

TOLERANCE = {"float32": 1e-3, "auto": 1e-2}
"""Largest relative difference of the held-out loss from that on CPU, by `precision.compute_dtype`:
a GPU's float32 products are made of TensorFloat-32, and auto is bfloat16 there."""

TOY = {
    "model.width": "32",
    "model.depth": "1",
    "model.num_heads": "2",
    "data.sequence_length": "32",
    "data.global_batch_size": "4",
}
KILLS = 3
"""Tries at a kill: a run may be over before it."""


def training(found: Findings) -> None:
    """The part `training`."""
    job = Job(found)
    found.check("train.py reaches the target loss", job.reaches_target)
    found.check("killed with -9 and resumed, it ends bit-equal", job.killed_and_resumed)
    found.check("evaluate.py on CPU finds the same loss", job.evaluated_on_cpu)
    found.check("generate.py writes text", job.generates)


def from_cpu(found: Findings) -> None:
    """The part `from_cpu`."""
    found.check("train.py goes on from a checkpoint of the CPU", Job(found).resumes_from_cpu)


def gpu_variant() -> dict[str, str]:
    """The overrides of the command for a GPU in the recipe's docstring."""
    docstring = (ROOT / RECIPE).read_text(encoding="utf-8").split('"""')[1]
    command = docstring.partition("For a GPU")[2]
    return dict(re.findall(r"--config\.([\w.]+)=(\S+)", command))


def standard_library(characters: int | None) -> str:
    """The ASCII modules of the running Python's standard library, one after the other."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    contents = (file.read_bytes() for file in files)
    return "".join(one.decode() for one in contents if one.isascii())[:characters]


class Job:
    """The runs of these parts, in one folder with one cache."""

    def __init__(self, found: Findings):
        self.found, self.toy, self.folder = found, found.toy, found.folder
        self.platform = "cpu" if self.toy else "cuda"
        self.steps = TOY_STEPS if self.toy else STEPS
        if found.text is not None:
            self.text, self.kind = Path(found.text).absolute(), "given"
        else:
            self.text, self.kind = self.folder / "text.txt", "standard library"
            self.text.write_text(standard_library(30_000 if self.toy else None))
        target = TARGET_LOSS["toy" if self.toy else self.kind]
        self.target = target if found.target_loss is None else found.target_loss
        self.whole = self.folder / "whole"

    # ---- The verbs.

    def start(self, verb: str, *arguments: str, platform: str | None = None) -> subprocess.Popen:
        own = {
            "JAX_PLATFORMS": platform or self.platform,
            "TRIFORM_CACHE": str(self.folder / "cache"),
        }
        return subprocess.Popen(
            [sys.executable, str(ROOT / verb), *arguments],
            cwd=ROOT,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, verb: str, *arguments: str, platform: str | None = None) -> str:
        """What the verb writes on standard output; what else it says goes to this part's log."""
        process = self.start(verb, *arguments, platform=platform)
        return self.ended(verb, process, 0)

    def ended(self, verb: str, process: subprocess.Popen, *expected: int) -> str:
        """Waits for the verb, expects one of these exit statuses, and returns what it wrote."""
        written, said = process.communicate()
        print(said, file=sys.stderr, flush=True)
        last = said.strip().rpartition("\n")[2]
        status = process.returncode
        expect(status in expected, f"{verb} ended with status {status}: {last}")
        return written

    def command(self, workdir: Path, **fields: Any) -> list[str]:
        """The arguments of train.py; `fields` are overrides with `__` for the dot."""
        characters = len(self.text.read_text(encoding="utf-8", errors="replace"))
        overrides = {
            "data.path": self.text,
            "data.validation_fraction": min(0.1, HELD_OUT / characters),
            "mesh.data": 1,
            "task.sample_prompts": "()",
        } | {name.replace("__", "."): value for name, value in fields.items()}
        flags = [f"--config.{name}={value}" for name, value in overrides.items()]
        return [f"--config={RECIPE}", f"--workdir={workdir}", *flags]

    def main_command(self, workdir: Path) -> list[str]:
        fields = gpu_variant() | (TOY if self.toy else {}) | {
            "data.path": self.text,
            "train.steps": self.steps,
            "train.deterministic": "true",
            "train.log_every_steps": 1 if self.toy else 10,
            "train.evaluate_every_steps": self.steps // 8,
            "checkpoint.every_steps": self.steps // 10,
        }  # fmt: skip
        return self.command(workdir, **fields)

    # ---- The checks.

    def reaches_target(self) -> str:
        began = time.monotonic()
        self.run("train.py", *self.main_command(self.whole))
        seconds = time.monotonic() - began
        lines = metric_lines(self.whole)
        losses = {
            s: line["validation/loss"] for s, line in lines.items() if "validation/loss" in line
        }
        reached = next((step for step, loss in losses.items() if loss <= self.target), None)
        steady = [line for line in lines.values() if "tokens_per_second" in line]
        steady = steady[len(steady) // 2 :]
        figures = {
            name: statistics.median(line[name] for line in steady)
            for name in ("tokens_per_second", "mfu")
            if all(name in line for line in steady)
        }
        best = min(losses.values())
        self.found.note(
            text=f"{self.kind} ({self.text.stat().st_size:,} bytes)",
            steps=self.steps,
            command_seconds=round(seconds, 1),
            target_loss=self.target,
            target_reached_at_step=reached,
            validation_losses=losses,
            **figures,
        )
        told = f"best {best:.3f} of {self.steps} steps ({seconds:.0f} s)"
        expect(reached is not None, f"{told}, not {self.target}")
        if "tokens_per_second" in figures:
            told += f", {figures['tokens_per_second']:,.0f} tokens/s"
        if "mfu" in figures:
            told += f", MFU {figures['mfu']:.1%}"
        return f"loss {losses[reached]:.3f} at step {reached} (target {self.target}); {told}"

    def killed_and_resumed(self) -> str:
        parted, logged, saved = self.kill()
        self.run("train.py", *self.main_command(parted))
        differences = differences_of(self.whole, parted, self.steps)
        self.found.note(killed_at_step=logged, resumed_from_step=saved, differences=differences)
        expect(not differences, f"killed at step {logged}: {'; '.join(differences[:5])}")
        return f"killed at step {logged}, went on from step {saved}; losses and state are equal"

    def kill(self) -> tuple[Path, int, int]:
        """A killed run: its workdir, the last step it logged, and the one it can go on from."""
        for number in range(KILLS):
            parted = self.folder / f"parted-{number}"
            aim = random.uniform(0.25, 0.6) * self.steps
            process = self.start("train.py", *self.main_command(parted))
            while process.poll() is None:
                begun = max(metric_lines(parted), default=0) >= aim
                if begun and finished_steps(parted / "checkpoints"):
                    process.kill()
                    break
                time.sleep(0.01)
            self.ended("train.py", process, 0, -signal.SIGKILL)
            if process.returncode:
                saved = finished_steps(parted / "checkpoints")[-1]
                return parted, max(metric_lines(parted)), saved
        raise Failed(f"{KILLS} runs were over before the kill")

    def evaluated_on_cpu(self) -> str:
        here, on_cpu = self.losses_here_and_on_cpu(self.whole)
        self.found.note(evaluated=here, evaluated_on_cpu=on_cpu)
        off = abs(here / on_cpu - 1)
        expect(off <= TOLERANCE["auto"], f"{here} here and {on_cpu} on CPU: off by {off:.1e}")
        return f"loss {here:.5f} here and {on_cpu:.5f} on CPU: off by {off:.1e}"

    def losses_here_and_on_cpu(self, workdir: Path) -> list[float]:
        """The held-out loss of the last checkpoint, by evaluate.py on both."""
        told = [
            self.run("evaluate.py", f"--workdir={workdir}", platform=platform)
            for platform in (self.platform, "cpu")
        ]
        return [json.loads(lines.splitlines()[-1])["loss"] for lines in told]

    def generates(self) -> str:
        prompt = self.text.read_text(encoding="utf-8", errors="replace")[:8]
        asked = (f"--prompt={prompt}", "--max_tokens=64", "--temperature=0", "--json")
        told = json.loads(self.run("generate.py", f"--workdir={self.whole}", *asked))
        expect(told["tokens"] > 0 and told["text"], str(told))
        self.found.note(generated=told["text"])
        return f"{told['tokens']} tokens, {told['text'][:40]!r}"

    def resumes_from_cpu(self) -> str:
        half = 3 if self.toy else 20
        fields = (TOY if self.toy else {}) | {
            "optimizer.learning_rate": 1e-3,
            "optimizer.schedule": "constant",
            "optimizer.warmup_steps": 0,
            "precision.compute_dtype": "float32",
            "train.log_every_steps": 1,
        }

        def losses(name: str, steps: int, platform: str) -> dict[int, float]:
            workdir = self.folder / name
            command = self.command(workdir, **fields, train__steps=steps)
            self.run("train.py", *command, platform=platform)
            return training_losses(workdir)

        alone = losses("alone", 2 * half, self.platform)
        losses("moved", half, "cpu")
        moved = losses("moved", 2 * half, self.platform)
        expect(list(moved) == list(range(1, 2 * half + 1)), f"steps {list(moved)}")
        worst = max(abs(moved[step] / loss - 1) for step, loss in alone.items())
        here, on_cpu = self.losses_here_and_on_cpu(self.folder / "moved")
        off = abs(here / on_cpu - 1)
        self.found.note(difference=worst, evaluated=here, evaluated_on_cpu=on_cpu)
        expect(worst <= 1e-2, f"losses differ by {worst:.1e}")
        expect(off <= TOLERANCE["float32"], f"evaluated: {here} here and {on_cpu} on CPU")
        return (
            f"losses differ by {worst:.1e} at most from those of the GPU alone, evaluated {off:.1e}"
        )


# ---- What a run leaves.


def metric_lines(workdir: Path) -> dict[int, dict[str, Any]]:
    """The whole lines of metrics.jsonl by step, those of a step as one."""
    lines: dict[int, dict[str, Any]] = {}
    try:
        written = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return lines
    for line in map(json.loads, written.rpartition("\n")[0].splitlines()):
        lines[line["step"]] = lines.get(line["step"], {}) | line
    return lines


def training_losses(workdir: Path) -> dict[int, float]:
    return {s: line["loss"] for s, line in metric_lines(workdir).items() if "loss" in line}


def differences_of(whole: Path, other: Path, step: int) -> list[str]:
    """What is not bit-equal of two runs: losses, and the arrays saved at `step`."""
    one, two = (
        {
            f"{name} of step {number}": value
            for number, line in metric_lines(workdir).items()
            for name, value in line.items()
            if name in ("loss", "validation/loss")
        }
        for workdir in (whole, other)
    )
    found = [
        f"{name}: {one.get(name)} and {two.get(name)}"
        for name in one | two
        if one.get(name) != two.get(name)
    ]
    arrays: list[Mapping[str, np.ndarray]] = [arrays_of(one, step) for one in (whole, other)]
    for name in sorted(arrays[0].keys() | arrays[1].keys()):
        one, two = (np.asarray(each[name]) if name in each else None for each in arrays)
        if one is None or two is None:
            found.append(f"{name} is in one of them alone")
        elif one.dtype != two.dtype or one.tobytes() != two.tobytes():
            found.append(f"{name}: {np.sum(one != two):,} of {one.size:,} numbers differ")
    return found


def arrays_of(workdir: Path, step: int) -> dict[str, jax.Array]:
    """Every array of a saved step's state by name, on the first device."""
    folder = workdir / "checkpoints"
    manifest = verify(folder / str(step))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    found = {}
    for item, fields in ITEMS.items():
        target = {
            name: jax.ShapeDtypeStruct(leaf["shape"], leaf["dtype"], sharding=here)
            for name, leaf in manifest["leaves"].items()
            if name.split(".")[0] in fields
        }
        found |= restore_fields(folder, step, manifest, item, target)
    return found
