"""Whether everything works on this GPU as it does on the CPU.

python benchmarks/gpu_check.py [--toy]       (`make gpu-check PYTHON=python3`)

Needs no network and no data. Prints a line for each check; exit status 1 if one fails, 2 where
there is no GPU. --toy tries the checks themselves, small, on whatever device there is.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
if __name__ == "__main__":
    # Both, as losses are compared.
    os.environ["JAX_PLATFORMS"] = "cpu" if "--toy" in sys.argv else "cuda,cpu"
    # Checks run verbs in processes of their own, which need memory too.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"

import jax
import jax.numpy as jnp
import numpy as np

import configs
import model
import parallel
import training
from benchmarks.invented import batch, sizes_of
from model import Sight, attend
from model.layers import attend as attention
from training.attention import TOLERANCE as ATTENTION_TOLERANCE

ROOT = Path(__file__).parents[1]
STEPS = 20
RECIPES = ("python_stdlib", "shakespeare_char_lstm", "digits_cnn")
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest relative difference of a loss; for float32 products are made in full precision."""

STEADY = {
    "optimizer.learning_rate": "1e-3",
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": "0",
    "mesh.data": "1",
}
TOY = {
    "model.width": "32",
    "model.depth": "1",
    "data.sequence_length": "32",
    "data.global_batch_size": "2",
}


class Failed(Exception):
    """A check that did not hold, and why."""


def expect(condition: object, text: str) -> None:
    if not condition:
        raise Failed(text)


class Checks:
    """The checks, in their order; each returns what it found. `toy`: small ones."""

    def __init__(self, folder: Path, *, toy: bool):
        self.folder, self.toy = folder, toy
        self.steps = 3 if toy else STEPS
        self.device = jax.devices()[0]
        self.native = model.NATIVE_ATTENTION.get(self.device.platform, "xla")
        self.text = folder / "text.txt"
        lines = (f"{n} times {n % 7} is {n * (n % 7)}.\n" for n in range(400 if toy else 4000))
        self.text.write_text("".join(lines), encoding="utf-8")

    def all(self) -> Iterator[tuple[str, Callable[[], str]]]:
        for recipe in RECIPES:
            for dtype in TOLERANCE:
                yield (
                    f"{recipe} in {dtype}, {self.steps} steps as on CPU",
                    lambda recipe=recipe, dtype=dtype: self.parity(recipe, dtype),
                )
        yield "attention: every kind equals XLA's", self.attention_kinds
        yield "attention: what a step runs", self.attention_dispatch
        yield "attention: a kernel that fails", self.attention_fallback
        yield "train.py, and on from its checkpoint", self.train_and_resume
        yield "train.py on from a checkpoint of the CPU", self.resume_from_cpu
        yield "evaluate.py and generate.py", self.answers

    # ---- One step on two devices.

    def config(self, recipe: str, **fields: str) -> configs.Config:
        small = {}
        if self.toy:
            small = dict(TOY) if recipe != "digits_cnn" else {"data.global_batch_size": "4"}
        overrides = STEADY | small | {name.replace("__", "."): v for name, v in fields.items()}
        return configs.load_config(ROOT / f"configs/{recipe}.py", overrides, inputs=False)

    def program(self, config: configs.Config, device: jax.Device, **options) -> training.Program:
        mesh = parallel.make_mesh(config, [device])
        return training.build_program(config, sizes_of(config), mesh, **options)

    def losses(self, program: training.Program, state, steps: int) -> list[float]:
        config, found = program.config, []
        for step in range(steps):
            data = batch(config, sizes_of(config), step)
            placed = parallel.put_batch(data, program.batch_sharding, config.data.global_batch_size)
            state, metrics = program.train_step(state, placed)
            found.append(float(metrics["loss"]))
        return found

    def parity(self, recipe: str, dtype: str) -> str:
        config = self.config(recipe, precision__compute_dtype=dtype)
        on_cpu = self.program(config, jax.devices("cpu")[0])
        here = self.program(config, self.device)
        start = jax.device_get(on_cpu.initialize())
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            courses = [
                self.losses(
                    program,
                    jax.tree.map(
                        lambda x, leaf: jax.device_put(x, leaf.sharding),
                        start,
                        program.abstract_state,
                    ),
                    self.steps,
                )
                for program in (on_cpu, here)
            ]
        worst = float(np.max(np.abs(np.divide(*courses[::-1]) - 1)))
        expect(worst <= TOLERANCE[dtype], f"losses differ by {worst:.1e}: {courses}")
        return f"losses differ by {worst:.1e} at most"

    # ---- Attention.

    def attention_kinds(self) -> str:
        if self.native == "xla":
            return "XLA's is the native one here"
        segments = jnp.repeat(jnp.array([[1, 2, 3, 0], [1, 1, 1, 2]], jnp.int32), 64, axis=1)
        sights = {
            "causal": Sight(True, None),
            "window": Sight(True, 100),
            "segments": Sight(True, None, segments_BT=segments),
            "segments and window": Sight(True, 50, segments_BT=segments),
            "prefill": Sight(True, None, first_B=jnp.array([0, 64], jnp.int32)),
        }
        found = []
        for name, sight in sights.items():
            targets = 128 if sight.first_B is not None else 256
            worst = self.attention_difference(sight, targets)
            expect(worst <= ATTENTION_TOLERANCE, f"{name}: off by {worst:.1%}")
            found.append(f"{name} {worst:.1%}")
        return f"{self.native} differs by " + ", ".join(found)

    def attention_difference(self, sight: Sight, targets: int) -> float:
        """Value and gradients against XLA's in float32, as a share of their largest number."""
        keys = jax.random.split(jax.random.key(0), 4)
        shapes = [(2, targets, 8, 64), (2, 256, 2, 64), (2, 256, 2, 64), (2, targets, 8, 64)]
        *qkv, weights = map(jax.random.normal, keys, shapes)

        def value_and_gradients(implementation: str, dtype):
            def loss(q, k, v):
                out = attend(q, k, v, sight, implementation=implementation).astype(jnp.float32)
                return jnp.sum(out * weights), out

            arrays = [x.astype(jnp.bfloat16).astype(dtype) for x in qkv]
            gradients, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(*arrays)
            return [np.asarray(x, np.float32) for x in (out, *gradients)]

        with jax.default_matmul_precision("highest"):
            exact = value_and_gradients("xla", jnp.float32)
        ours = value_and_gradients(self.native, jnp.bfloat16)
        return max(
            float(np.abs(one - other).max() / np.abs(other).max())
            for one, other in zip(ours, exact, strict=True)
        )

    def attention_config(self) -> configs.Config:
        fields = {"data__sequence_length": "128", "precision__compute_dtype": "bfloat16"}
        return self.config("python_stdlib", **fields)

    def attention_dispatch(self) -> str:
        config, told = self.attention_config(), []
        mesh = parallel.make_mesh(config, [self.device])
        found = training.working_attention(config, mesh, told.append)
        expect(not told, f"told: {told}")
        program = self.program(config, self.device, attention=found)
        shape = program.batch_shape(
            batch(config, sizes_of(config), 0), config.data.global_batch_size
        )
        text = program.train_step.lower(program.abstract_state, shape).as_text()
        calls = text.count("__cudnn$fmha")
        expect(self.native != "cudnn" or calls, f"{found}, and no call of cuDNN in the step")
        return f"model.attention={found}: {self.native}, {calls} calls of cuDNN in the step"

    def attention_fallback(self) -> str:
        if self.native == "xla":
            return "XLA's is the native one here"

        def broken(*arguments):
            raise RuntimeError("planted by gpu_check.py")

        config, told = self.attention_config(), []
        mesh = parallel.make_mesh(config, [self.device])
        whole = getattr(attention, f"_{self.native}")
        setattr(attention, f"_{self.native}", broken)
        try:
            found = training.working_attention(config, mesh, told.append)
            program = self.program(config, self.device, attention=found)
            losses = self.losses(program, program.initialize(), 2)
        finally:
            setattr(attention, f"_{self.native}", whole)
        expect(found == "xla" and len(told) == 1, f"{found}, told {told}")
        expect("planted by gpu_check.py" in told[0] and np.isfinite(losses).all(), str(told))
        return told[0]

    # ---- The verbs, as users run them.

    def run(self, verb: str, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, str(ROOT / verb), *arguments],
            cwd=ROOT,
            env=os.environ | {"TRIFORM_CACHE": str(self.folder / "cache")} | environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        expect(done.returncode == 0, f"{verb} ended with {done.returncode}: {done.stderr[-1500:]}")
        return done.stdout

    def train(
        self, name: str, steps: int, *, dtype: str = "float32", **environment: str
    ) -> dict[int, float]:
        """The losses of a run of so many steps in all, by step."""
        fields = STEADY | {
            "data.path": str(self.text),
            "train.steps": str(steps),
            "train.log_every_steps": "1",
            "task.sample_tokens": "16",
            "precision.compute_dtype": dtype,
        }
        if self.toy:
            fields |= TOY
        overrides = [f"--config.{field}={value}" for field, value in fields.items()]
        workdir = self.folder / name
        recipe = "--config=configs/shakespeare_char.py"
        self.run("train.py", recipe, f"--workdir={workdir}", *overrides, **environment)
        lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    def train_and_resume(self) -> str:
        half, whole = self.steps, 2 * self.steps
        self.train("here", half)
        self.resumed = self.train("here", whole)
        expect(list(self.resumed) == list(range(1, whole + 1)), f"steps {list(self.resumed)}")
        first, last = self.resumed[1], self.resumed[whole]
        expect(self.toy or last < 0.9 * first, f"the loss went from {first:.3f} to {last:.3f}")
        if not self.toy:
            losses = self.train("in_bfloat16", whole, dtype="bfloat16")
            expect(abs(losses[whole] / last - 1) < 0.05, f"in bfloat16 {losses[whole]:.3f}")
        return f"loss {first:.3f} at step 1, {last:.3f} at step {whole}"

    def resume_from_cpu(self) -> str:
        self.train("from_cpu", self.steps, JAX_PLATFORMS="cpu")
        moved = self.train("from_cpu", 2 * self.steps)
        worst = max(abs(moved[step] / loss - 1) for step, loss in self.resumed.items())
        expect(worst <= 1e-2, f"losses differ by {worst:.1e}")
        return f"losses differ by {worst:.1e} at most from those of the GPU alone"

    def answers(self) -> str:
        workdir = f"--workdir={self.folder / 'here'}"
        metrics = json.loads(self.run("evaluate.py", workdir).splitlines()[-1])
        expect(np.isfinite(metrics["loss"]), str(metrics))
        asked = (workdir, "--prompt=12 times", "--max_tokens=24", "--temperature=0", "--json")
        told = json.loads(self.run("generate.py", *asked))
        expect(told["tokens"] > 0 and told["text"], str(told))
        return f"loss {metrics['loss']:.3f}; '12 times' goes on {told['text']!r}"


def main(arguments: list[str]) -> int:
    """Runs the checks. Returns the exit status."""
    toy = "--toy" in arguments
    try:
        device = jax.devices()[0]
        reason = None if toy or device.platform == "gpu" else f"only {device.device_kind}"
    except RuntimeError as error:  # JAX was asked for CUDA.
        reason = str(error).splitlines()[0]
    if reason:
        print(
            f"gpu_check.py: JAX finds no GPU here ({reason}); --toy tries the checks on CPU",
            file=sys.stderr,
        )
        return 2
    if toy and device.platform == "cpu":
        model.NATIVE_ATTENTION["cpu"] = "splash"  # Interpreted, so that there is one to check.
    print(f"{device.device_kind}, jax {jax.__version__}", flush=True)
    failed, began = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(ROOT):
        for name, check in Checks(Path(folder), toy=toy).all():
            start = time.monotonic()
            try:
                verdict = f"ok      {name}: {check()}"
            except Exception as error:  # The other checks still have something to say.
                failed += 1
                verdict = f"FAILED  {name}: {type(error).__name__}: {error}"
            print(f"{verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    print(f"{failed} failed, {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
