"""Trains on a GPU with the same commands as users: the parts `training` and `from_cpu` of
`gpu_run.py`.

`training` trains the GPU variant of `shakespeare_char` to a target loss. It kills a second run with
SIGKILL at a random step, resumes it, and compares it bit by bit with the first run. It then
evaluates the checkpoint on GPU and CPU, and generates text. `from_cpu` starts a run on CPU and
resumes it on the GPU. This process itself uses only the CPU: train.py, evaluate.py and generate.py
(called verbs here) run in their own processes.
"""

import json
import random
import re
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.findings import Failed, Findings, expect
from benchmarks.measuring import ROOT, overrides, start_verb
from reporting.metric_log import read_metrics
from training.arrays import restore_fields
from training.checkpoints import finished_steps
from training.manifest import ITEMS, verify

RECIPE = "configs/shakespeare_char.py"
STEPS, TOY_STEPS = 2000, 240
TARGET_LOSS = {"given": 1.5, "standard library": 1.2, "toy": 3.4}
"""Nats per character of held-out text. `given`: about what nanoGPT reaches on tiny Shakespeare.
`standard library`: the small variant reaches 1.289 on it in 1,200 steps on CPU."""

HELD_OUT = 110_000
"""Largest number of characters held out, about a tenth of tiny Shakespeare; of a shorter text, a
tenth is held out."""

TOLERANCE = {"float32": 1e-3, "auto": 1e-2}
"""Largest allowed relative difference of the held-out losses on GPU and CPU, by
`precision.compute_dtype`. On a GPU, float32 products use TensorFloat-32, and auto is bfloat16."""

TOY = {
    "model.width": "32",
    "model.depth": "1",
    "model.num_heads": "2",
    "data.sequence_length": "32",
    "data.global_batch_size": "4",
}
KILLS = 3
"""Number of attempts to kill a run, as it may end before the kill."""


def training(found: Findings) -> None:
    """Run the part `training`: train to a target loss, kill and resume, evaluate, and generate."""
    job = Job(found)
    found.check("train.py reaches the target loss", job.reaches_target)
    found.check("killed with -9 and resumed, it ends bit-equal", job.killed_and_resumed)
    found.check("evaluate.py on CPU finds the same loss", job.evaluated_on_cpu)
    found.check("generate.py writes text", job.generates)


def from_cpu(found: Findings) -> None:
    """Run the part `from_cpu`: resume a run on this device that was started on CPU."""
    found.check("train.py goes on from a checkpoint of the CPU", Job(found).resumes_from_cpu)


def gpu_variant() -> dict[str, str]:
    """Return the overrides of the recipe's command whose workdir ends with _gpu."""
    docstring = (ROOT / RECIPE).read_text(encoding="utf-8").split('"""')[1]
    command = re.search(r"^python train\.py .*--workdir=\S+_gpu\b(?:.*\\\n)*.*", docstring, re.M)
    assert command, f"{RECIPE} shows no command with a workdir that ends with _gpu"
    return dict(re.findall(r"--config\.([\w.]+)=(\S+)", command[0]))


def standard_library(characters: int | None) -> str:
    """Return the ASCII modules of Python's standard library as one text of at most `characters`."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    contents = (file.read_bytes() for file in files)
    return "".join(one.decode() for one in contents if one.isascii())[:characters]


class Job:
    """Runs the programs of these parts, in one folder with one cache."""

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

    # ---- The programs.

    def start(self, verb: str, *arguments: str, platform: str | None = None) -> subprocess.Popen:
        """Start train.py, evaluate.py or generate.py. platform: its JAX_PLATFORMS; None for the
        device under test."""
        own = {"JAX_PLATFORMS": platform or self.platform, "TRIFORM_CACHE": self.folder / "cache"}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return start_verb(verb, *arguments, environment=own, **streams)

    def run(self, verb: str, *arguments: str, platform: str | None = None) -> str:
        """Run a program to its end; return its standard output."""
        return self.ended(verb, self.start(verb, *arguments, platform=platform), 0)

    def ended(self, verb: str, process: subprocess.Popen, *expected: int) -> str:
        """Wait for a program and check that its exit status is expected; return its standard
        output.

        Its standard error goes to the log of this part.
        """
        output, errors = process.communicate()
        print(errors, file=sys.stderr, flush=True)
        last = errors.strip().rpartition("\n")[2]
        status = process.returncode
        expect(status in expected, f"{verb} ended with status {status}: {last}")
        return output

    def command(self, workdir: Path, **fields: Any) -> list[str]:
        """Return the arguments of train.py. fields: overrides, with `__` in place of each dot."""
        characters = len(self.text.read_text(encoding="utf-8", errors="replace"))
        own = {
            "data.path": self.text,
            "data.validation_fraction": min(0.1, HELD_OUT / characters),
            "mesh.data": 1,
            "task.sample_prompts": "()",
        } | {name.replace("__", "."): value for name, value in fields.items()}
        return [f"--config={RECIPE}", f"--workdir={workdir}", *overrides(own)]

    def main_command(self, workdir: Path) -> list[str]:
        """Return the arguments of the run to the target loss."""
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
        text = f"best {best:.3f} of {self.steps} steps ({seconds:.0f} s)"
        expect(reached is not None, f"{text}, not {self.target}")
        if "tokens_per_second" in figures:
            text += f", {figures['tokens_per_second']:,.0f} tokens/s"
        if "mfu" in figures:
            text += f", MFU {figures['mfu']:.1%}"
        return f"loss {losses[reached]:.3f} at step {reached} (target {self.target}); {text}"

    def killed_and_resumed(self) -> str:
        parted, logged, saved = self.kill()
        self.run("train.py", *self.main_command(parted))
        differences = differences_of(self.whole, parted, self.steps)
        self.found.note(killed_at_step=logged, resumed_from_step=saved, differences=differences)
        expect(not differences, f"killed at step {logged}: {'; '.join(differences[:5])}")
        return f"killed at step {logged}, went on from step {saved}; losses and state are equal"

    def kill(self) -> tuple[Path, int, int]:
        """Start a run and kill it. Return its workdir, its last logged step and its last saved
        step."""
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
        """Return the held-out losses of the last checkpoint, evaluated on the GPU and on the
        CPU."""
        outputs = [
            self.run("evaluate.py", f"--workdir={workdir}", platform=platform)
            for platform in (self.platform, "cpu")
        ]
        return [json.loads(output.splitlines()[-1])["loss"] for output in outputs]

    def generates(self) -> str:
        prompt = self.text.read_text(encoding="utf-8", errors="replace")[:8]
        flags = (f"--prompt={prompt}", "--max_tokens=64", "--temperature=0", "--json")
        answer = json.loads(self.run("generate.py", f"--workdir={self.whole}", *flags))
        expect(answer["tokens"] > 0 and answer["text"], str(answer))
        self.found.note(generated=answer["text"])
        return f"{answer['tokens']} tokens, {answer['text'][:40]!r}"

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


# ---- Results of a run.


def metric_lines(workdir: Path) -> dict[int, dict[str, Any]]:
    """Return the lines of metrics.jsonl by step; lines of the same step are merged."""
    lines: dict[int, dict[str, Any]] = {}
    for line in read_metrics(workdir):
        lines[line["step"]] = lines.get(line["step"], {}) | line
    return lines


def training_losses(workdir: Path) -> dict[int, float]:
    """Return the training loss of each logged step."""
    return {s: line["loss"] for s, line in metric_lines(workdir).items() if "loss" in line}


def differences_of(whole: Path, other: Path, step: int) -> list[str]:
    """Compare two runs bit by bit: their losses, and the arrays saved at `step`. Return a text for
    each difference."""
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
    arrays, others = (arrays_of(workdir, step) for workdir in (whole, other))
    found += [f"{name} is in one of them alone" for name in sorted(arrays.keys() ^ others.keys())]
    for name in sorted(arrays.keys() & others.keys()):
        one, two = np.asarray(arrays[name]), np.asarray(others[name])
        if one.dtype != two.dtype or one.tobytes() != two.tobytes():
            found.append(f"{name}: {np.sum(one != two):,} of {one.size:,} numbers differ")
    return found


def arrays_of(workdir: Path, step: int) -> dict[str, jax.Array]:
    """Return all arrays of the state saved at `step`, by name, on the first device."""
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
