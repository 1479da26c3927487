"""Compares results on a GPU with results on CPU: the parts `attention` and `parity` of
`gpu_run.py`.

JAX must see both devices (JAX_PLATFORMS=cuda,cpu). With --toy, everything runs on CPU, to test
these checks themselves.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.findings import Findings, expect
from benchmarks.invented import batch, invented_spec, train_losses
from benchmarks.measuring import ROOT
from configs.reading.recipes import load_config
from configs.schema.config import Config
from model.layers import attend as attention_layer
from model.layers.attend import NATIVE_ATTENTION, AttentionMask, attend
from parallel.mesh import make_mesh
from training.attention import TOLERANCE as ATTENTION_TOLERANCE
from training.attention import working_attention
from training.program import TrainProgram, build_program

STEPS = 20
RECIPES = ("python_stdlib", "shakespeare_char_lstm", "digits_cnn")
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest allowed relative difference of a loss. For float32, matrix products use full
precision."""

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


def attention(found: Findings) -> None:
    """Run the part `attention`: compare the device's attention kernel with XLA's."""
    if found.toy and jax.devices()[0].platform == "cpu":
        NATIVE_ATTENTION["cpu"] = "splash"  # In interpret mode, to have a kernel to check.
    checks = Checks(toy=found.toy)
    found.check("every kind equals XLA's", checks.attention_kinds)
    found.check("what a step runs", checks.attention_dispatch)
    found.check("a kernel that fails", checks.attention_fallback)


def parity(found: Findings) -> None:
    """Run the part `parity`: compare the losses of training on this device and on CPU."""
    checks = Checks(toy=found.toy)
    for recipe in RECIPES:
        for dtype in list(TOLERANCE)[: 1 if found.toy else None]:
            name = f"{recipe} in {dtype}, {checks.steps} steps as on CPU"
            found.check(name, lambda recipe=recipe, dtype=dtype: checks.parity(recipe, dtype))


def placed(state, program: TrainProgram):
    """Copy a state from the host to the program's devices, with its shardings."""
    return jax.tree.map(
        lambda array, leaf: jax.device_put(array, leaf.sharding), state, program.abstract_state
    )


class Checks:
    """The checks of both parts. Each returns its result as text.

    toy: whether to use small models and few steps.
    """

    def __init__(self, *, toy: bool):
        self.toy = toy
        self.steps = 3 if toy else STEPS
        self.device = jax.devices()[0]
        self.native = NATIVE_ATTENTION.get(self.device.platform, "xla")

    # ---- Steps on two devices.

    def config(self, recipe: str, **fields: str) -> Config:
        small = {}
        if self.toy:
            small = dict(TOY) if recipe != "digits_cnn" else {"data.global_batch_size": "4"}
        overrides = STEADY | small | {name.replace("__", "."): v for name, v in fields.items()}
        return load_config(ROOT / f"configs/{recipe}.py", overrides, inputs=False)

    def program(self, config: Config, device: jax.Device, **options) -> TrainProgram:
        mesh = make_mesh(config, [device])
        return build_program(config, invented_spec(config), mesh, **options)

    def parity(self, recipe: str, dtype: str) -> str:
        config = self.config(recipe, precision__compute_dtype=dtype)
        on_cpu = self.program(config, jax.devices("cpu")[0])
        here = self.program(config, self.device)
        start = jax.device_get(on_cpu.initialize())
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            losses = [
                train_losses(program, placed(start, program), invented_spec(config), self.steps)
                for program in (on_cpu, here)
            ]
        worst = float(np.max(np.abs(np.divide(*losses[::-1]) - 1)))
        expect(worst <= TOLERANCE[dtype], f"losses differ by {worst:.1e}: {losses}")
        return f"losses differ by {worst:.1e} at most"

    # ---- Attention.

    def attention_kinds(self) -> str:
        if self.native == "xla":
            return "XLA's is the native one here"
        segments = jnp.repeat(jnp.array([[1, 2, 3, 0], [1, 1, 1, 2]], jnp.int32), 64, axis=1)
        masks = {
            "causal": AttentionMask(True, None),
            "window": AttentionMask(True, 100),
            "segments": AttentionMask(True, None, segments_BT=segments),
            "segments and window": AttentionMask(True, 50, segments_BT=segments),
        }
        if self.toy:
            masks = {name: masks[name] for name in ("causal",)}
        found = []
        for name, mask in masks.items():
            worst = self.attention_difference(mask)
            expect(worst <= ATTENTION_TOLERANCE, f"{name}: off by {worst:.1%}")
            found.append(f"{name} {worst:.1%}")
        return f"{self.native} differs by " + ", ".join(found)

    def attention_difference(self, mask: AttentionMask) -> float:
        """Return the largest difference of outputs and gradients from XLA's in float32, relative to
        the largest absolute value of each array."""
        keys = jax.random.split(jax.random.key(0), 4)
        shapes = [(2, 256, 8, 64), (2, 256, 2, 64), (2, 256, 2, 64), (2, 256, 8, 64)]
        *qkv, weights = map(jax.random.normal, keys, shapes)

        def value_and_gradients(implementation: str, dtype):
            def loss(q, k, v):
                out = attend(q, k, v, mask, implementation=implementation).astype(jnp.float32)
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

    def attention_config(self) -> Config:
        fields = {"data__sequence_length": "128", "precision__compute_dtype": "bfloat16"}
        return self.config("python_stdlib", **fields)

    def attention_dispatch(self) -> str:
        config, messages = self.attention_config(), []
        mesh = make_mesh(config, [self.device])
        found = working_attention(config, mesh, messages.append)
        expect(not messages, f"it said {messages}")
        program = self.program(config, self.device, attention=found)
        shape = program.batch_shape(
            batch(config, invented_spec(config), 0), config.data.global_batch_size
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

        config, messages = self.attention_config(), []
        mesh = make_mesh(config, [self.device])
        whole = getattr(attention_layer, f"_{self.native}")
        setattr(attention_layer, f"_{self.native}", broken)
        try:
            found = working_attention(config, mesh, messages.append)
            program = self.program(config, self.device, attention=found)
            losses = train_losses(program, program.initialize(), invented_spec(config), 2)
        finally:
            setattr(attention_layer, f"_{self.native}", whole)
        expect(found == "xla" and len(messages) == 1, f"{found}, {messages}")
        planted = "planted by gpu_check.py" in messages[0]
        expect(planted and np.isfinite(losses).all(), str(messages))
        return messages[0]
