"""Training and decoding speed on this GPU, beside PyTorch's with the same mathematics: a row is a
part of `gpu_run.py`.

The PyTorch columns need a torch with CUDA. Both sides begin with the same float32 weights and
compute in bfloat16, PyTorch by autocast (decoding: bfloat16 weights), with one AdamW and one batch;
PyTorch is the faster of eager and compiled, with its fused attention and optimizer. A side is a
process of its own; where memory allows they take turns.

`mfu` is as in `training/flops.py`; `floor_share` is the time that reading the weights and the
cache once takes at the memory's full bandwidth, over the time a decoded token took; `peak_bytes`
is the most memory that a side's arrays had at once.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.findings import Findings, expect

ROOT = Path(__file__).parents[1]

LLAMA_1B = {
    "kind": "llama", "width": 2048, "depth": 16, "heads": 32, "kv_heads": 8, "hidden": 8192,
    "vocabulary": 128_256,
}  # fmt: skip
ROWS: dict[str, dict[str, Any]] = {
    "gpt2_124m": {
        "kind": "gpt2", "width": 768, "depth": 12, "heads": 12, "vocabulary": 50_304,
        "length": 1024, "batch": 16, "together": True,
    },
    "llama_1b": LLAMA_1B | {"length": 4096, "batch": 2, "together": False},
    "lstm_2x650": {
        "kind": "lstm", "width": 650, "depth": 2, "vocabulary": 10_000, "length": 35, "batch": 128,
        "together": True,
    },
    "decode_1b_batch_1": LLAMA_1B | {
        "decode": 128, "length": 1024, "batch": 1, "together": False,
    },
    "decode_1b_batch_32": LLAMA_1B | {
        "decode": 128, "length": 1024, "batch": 32, "together": False,
    },
}  # fmt: skip
TOY_LLAMA = {
    "kind": "llama", "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "hidden": 64,
    "vocabulary": 67, "length": 16, "batch": 2, "together": False,
    "dtype": "float32",
}  # fmt: skip
TOY_ROWS: dict[str, dict[str, Any]] = {
    "gpt2_124m": {
        "kind": "gpt2", "width": 32, "depth": 2, "heads": 2, "vocabulary": 67, "length": 16,
        "batch": 2, "together": True, "dtype": "float32",
    },
    "llama_1b": TOY_LLAMA,
    "decode_1b_batch_1": TOY_LLAMA | {"decode": 4, "length": 8},
}  # fmt: skip
SIDES = ("triform", "eager", "compiled")
LEARNING_RATE = 1e-4
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest relative difference of the sides' first losses."""

TURNS, SECONDS_A_TURN = 4, 2.5


# ---- Our side.


def load(row: dict[str, Any]):
    """The configuration of a row, and the specification of its data."""
    from benchmarks.invented import invented_spec
    from configs.reading.recipes import load_config

    recipe = {"gpt2": "gpt2_124m", "llama": "llama_1b", "lstm": "gpt2_124m"}[row["kind"]]
    fields = {
        "data.sequence_length": row["length"],
        "data.global_batch_size": row["batch"],
        "data.cross_document_attention": "true",
        "model.width": row["width"],
        "model.depth": row["depth"],
        "model.scan_layers": "false",
        "model.remat": "none",
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        "optimizer.weight_decay": 0,
        "train.gradient_accumulation": 1,
        "precision.compute_dtype": row.get("dtype", "bfloat16"),
        "mesh.data": 1,
        "mesh.fsdp": 1,
    }
    if row["kind"] == "lstm":
        fields |= {"model.pattern": "R", "model.positions": "none"}
        fields |= {"model.feed_forward_width": row["width"]}
    else:
        fields |= {"model.num_heads": row["heads"]}
    if row["kind"] == "llama":
        fields |= {"model.num_kv_heads": row["kv_heads"], "model.feed_forward_width": row["hidden"]}
    if "decode" in row:
        fields |= {"precision.parameter_dtype": row.get("dtype", "bfloat16")}
    overrides = {name: str(value) for name, value in fields.items()}
    config = load_config(ROOT / f"configs/{recipe}.py", overrides, inputs=False)
    return config, invented_spec(config, vocabulary_size=row["vocabulary"])


def triform_side(row: dict[str, Any], folder: Path) -> tuple[Callable[[int], Any], dict[str, Any]]:
    """A function of how many steps to their results; facts of the row. Writes the weights."""
    from parallel.environment import set_environment
    from parallel.mesh import make_mesh

    config, spec = load(row)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    set_environment(config)
    import jax
    import jax.numpy as jnp

    from benchmarks.invented import batch
    from training import flops
    from training.attention import working_attention
    from training.program import build_program

    mesh = make_mesh(config, jax.devices()[:1])
    notices: list[str] = []
    attention = working_attention(config, mesh, notices.append)
    program = build_program(config, spec, mesh, attention=attention)
    state = program.initialize()
    weights = {
        ".".join(str(part.key) for part in path): np.asarray(leaf.astype(jnp.float32))
        for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    np.savez(folder / "weights.npz", **weights)
    device = mesh.devices.flat[0]
    peak = flops.peak(device.device_kind)
    facts = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "attention": attention,
        "parameters": program.model_def.parameter_count,
        "flops_per_token": program.flops_per_example / row["length"],
        "peak_flops": peak and peak.flops,
        "peak_bandwidth": peak and peak.bandwidth,
        "notices": notices,
    }
    if "decode" in row:
        params, statistics = state.params, state.statistics
        del state
        return triform_decoder(row, program, params, statistics), facts
    batches = [jax.device_put(batch(config, spec, i), program.batch_sharding) for i in range(4)]
    step = program.train_step.lower(state, batches[0]).compile()
    count = 0

    def run(steps: int) -> list[float]:
        nonlocal state, count
        losses = []
        for _ in range(steps):
            state, metrics = step(state, batches[count % 4])
            losses.append(metrics["loss"])
            count += 1
        return [float(loss) for loss in jax.device_get(losses)]

    return run, facts


def triform_decoder(row, program, params, statistics) -> Callable[[int], Any]:
    """Greedy decoding from an empty cache of `length` positions, `decode` tokens a call."""
    import jax
    import jax.numpy as jnp

    def decode(params, state, tokens_B):
        model = program.model_def.bind(params, statistics)

        def advance(carry, _):
            state, tokens_B = carry
            logits_BTV, state = model(tokens_B[:, None], state=state)
            tokens_B = jnp.argmax(logits_BTV[:, 0], axis=-1).astype(jnp.int32)
            return (state, tokens_B), tokens_B

        (state, _), written_TB = jax.lax.scan(advance, (state, tokens_B), length=row["decode"])
        return state, written_TB

    def fresh(params):
        return program.model_def.bind(params, statistics).initial_state(row["batch"], row["length"])

    fresh, decode = jax.jit(fresh), jax.jit(decode, donate_argnums=1)

    def run(calls: int) -> list[int]:
        for _ in range(calls):
            _, written_TB = decode(params, fresh(params), jnp.zeros(row["batch"], jnp.int32))
        return np.asarray(written_TB)[:, 0].tolist()

    return run


# ---- PyTorch's.


def torch_side(
    row: dict[str, Any], folder: Path, *, compiled: bool
) -> tuple[Callable[[int], Any], dict[str, Any]]:
    """As `triform_side`, from the weights that it wrote."""
    import torch
    from torch.nn import functional

    from benchmarks.gpu_peers import Llama
    from benchmarks.invented import batch
    from benchmarks.peers import Decoder

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = True
    row = row | {"model": "lstm" if row["kind"] == "lstm" else "decoder"}
    with device:
        model = (Llama if row["kind"] == "llama" else Decoder)(row)
    with np.load(folder / "weights.npz") as weights:
        model.load(weights)
    dtype = getattr(torch, row.get("dtype", "bfloat16"))
    facts = {"torch": torch.__version__}
    if "decode" in row:
        return torch_decoder(row, model.to(dtype).eval(), device, compiled), facts
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learnt, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=cuda
    )
    config, spec = load(row)
    batches = [
        [
            torch.tensor(data[name], dtype=torch.long, device=device)
            for name in ("tokens", "targets")
        ]
        for data in (batch(config, spec, i) for i in range(4))
    ]

    def loss_of(tokens, targets):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(tokens)
        return functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten())

    compute, count = torch.compile(loss_of) if compiled else loss_of, 0

    def run(steps: int) -> list[float]:
        nonlocal count
        losses = []
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = compute(*batches[count % 4])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            losses.append(loss.detach())
            count += 1
        return [float(loss) for loss in torch.stack(losses).tolist()]

    return run, facts


def torch_decoder(row, model, device, compiled: bool) -> Callable[[int], Any]:
    """As `triform_decoder`: one step is compiled, with CUDA graphs where there is CUDA."""
    import torch

    def advance(tokens_B, position, caches):
        return model.advance(tokens_B, position, caches).argmax(dim=-1)

    if compiled:
        mode = "reduce-overhead" if device.type == "cuda" else "default"
        advance = torch.compile(advance, mode=mode, fullgraph=True)
    caches = model.caches(row["batch"], row["length"], device)
    for cache in caches:  # A CUDA graph may then write into them.
        torch._dynamo.mark_static_address(cache)

    @torch.no_grad()
    def run(calls: int) -> list[int]:
        for _ in range(calls):
            for cache in caches:
                cache.zero_()
            tokens_B = torch.zeros(row["batch"], dtype=torch.long, device=device)
            written = []
            for position in torch.arange(row["decode"], device=device):
                tokens_B = advance(tokens_B, position, caches).clone()
                written.append(tokens_B)
        return torch.stack(written)[:, 0].tolist()

    return run


# ---- Turns.


def live(pipe, side: str, row: dict[str, Any], folder: Path) -> None:
    """A side's process: gets how many steps, sends seconds and results."""
    try:
        if side == "triform":
            run, facts = triform_side(row, folder)
        else:
            run, facts = torch_side(row, folder, compiled=side == "compiled")
        pipe.send(("facts", facts))
        while (steps := pipe.recv()) is not None:
            began = time.perf_counter()
            results = run(steps)
            seconds = time.perf_counter() - began
            pipe.send(("results", (seconds, results, peak_bytes(side))))
    except Exception as error:
        traceback.print_exc()
        pipe.send(("failed", f"{type(error).__name__}: {error}".splitlines()[0][:300]))


def peak_bytes(side: str) -> int | None:
    """The most memory that arrays had on this process's GPU; None on CPU."""
    if side == "triform":
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


class Side:
    """A side of a row, alive in its process; `failed` says why it is not."""

    def __init__(self, name: str, row: dict[str, Any], folder: Path):
        context = multiprocessing.get_context("spawn")
        self.failed: str | None = None
        self.seconds: list[float] = []
        self.peak_bytes: int | None = None
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=live, args=(other, name, row, folder), daemon=True)
        self._process.start()
        other.close()
        self.facts = self._receive() or {}
        warm = self.run(3)  # Compiles, and shows that both sides compute the same.
        self.first = warm[1] if warm else []
        pace = self.run(1)
        self.steps = max(1, int(SECONDS_A_TURN / pace[0])) if pace else 1

    def run(self, steps: int) -> tuple[float, list[float]] | None:
        """Seconds and results of so many steps; None of a side that failed."""
        if self.failed:
            return None
        self._pipe.send(steps)
        if (done := self._receive()) is None:
            return None
        seconds, results, self.peak_bytes = done
        return seconds, results

    def turn(self, seconds: float) -> None:
        steps = 1 if seconds == 0 else self.steps
        if (done := self.run(steps)) is not None:
            self.seconds.append(done[0] / steps)

    def _receive(self) -> Any:
        try:
            kind, found = self._pipe.recv()
        except EOFError:
            kind, found = "failed", "its process ended"
        if kind == "failed":
            self.failed = found
            return None
        return found

    def end(self) -> None:
        if not self.failed:
            self._pipe.send(None)
        self._process.join(20)
        if self._process.is_alive():
            self._process.terminate()


def measure(row: dict[str, Any], names: tuple[str, ...], *, toy: bool) -> dict[str, Side]:
    """The sides of a row after all of their turns."""
    turns, seconds = (1, 0.0) if toy else (TURNS, SECONDS_A_TURN)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if row["together"]:
            sides = {name: Side(name, row, folder) for name in names}
            for turn in range(turns):
                for name in names if turn % 2 else names[::-1]:
                    sides[name].turn(seconds)
            for side in sides.values():
                side.end()
            return sides
        sides = {}
        for name in names:
            sides[name] = side = Side(name, row, folder)
            for _ in range(turns):
                side.turn(seconds)
            side.end()
        return sides


def figures(row: dict[str, Any], sides: dict[str, Side]) -> dict[str, Any]:
    """What a row comes to."""
    ours = sides["triform"]
    tokens = row["batch"] * row.get("decode", row["length"])
    found: dict[str, Any] = {"batch": row["batch"], "length": row["length"], **ours.facts}
    rates = {}
    for name, side in sides.items():
        if side.failed:
            found[f"{name}_failed"] = side.failed
        else:
            rates[name] = tokens / statistics.median(side.seconds)
            found[f"{name}_tokens_per_second"] = round(rates[name], 1)
            if side.peak_bytes is not None:
                found[f"{name}_peak_bytes"] = side.peak_bytes
    peers = {name: rate for name, rate in rates.items() if name != "triform"}
    best = max(peers, key=peers.get, default=None)
    found["torch"] = next((s.facts["torch"] for s in sides.values() if "torch" in s.facts), None)
    found["best_torch"], found["ratio"] = best, None
    if best and "triform" in rates:
        found["ratio"] = round(rates["triform"] / peers[best], 3)
        first = zip(ours.first[:3], sides[best].first[:3], strict=True)
        found["first_results"] = [[round(one, 6), round(other, 6)] for one, other in first]
    for name, rate in rates.items():
        if "decode" in row and ours.facts.get("peak_bandwidth"):
            read = 2 * (ours.facts["parameters"] + cache_numbers(row))
            floor = read / ours.facts["peak_bandwidth"]
            found[f"{name}_floor_share"] = round(floor * rate / row["batch"], 3)
        elif "decode" not in row and ours.facts.get("peak_flops"):
            mfu = rate * ours.facts["flops_per_token"] / ours.facts["peak_flops"]
            found[f"{name}_mfu"] = round(mfu, 4)
    return found


def cache_numbers(row: dict[str, Any]) -> int:
    """Of keys and values, that a step reads."""
    head_dim = row["width"] // row["heads"]
    return 2 * row["depth"] * row["batch"] * row["length"] * row["kv_heads"] * head_dim


def told(found: dict[str, Any]) -> Iterator[str]:
    """A row for people: a line for each side, and the ratio."""
    for side in SIDES:
        if f"{side}_tokens_per_second" in found:
            parts = [f"{side} {found[f'{side}_tokens_per_second']:,.0f} tokens/s"]
            if f"{side}_mfu" in found:
                parts.append(f"MFU {found[f'{side}_mfu']:.1%}")
            if f"{side}_floor_share" in found:
                parts.append(f"{found[f'{side}_floor_share']:.1%} of the floor")
            if f"{side}_peak_bytes" in found:
                parts.append(f"{found[f'{side}_peak_bytes'] / 2**30:.2f} GiB")
            yield ", ".join(parts)
        elif f"{side}_failed" in found:
            yield f"{side} failed: {found[f'{side}_failed']}"
    if found["ratio"]:
        yield f"ours / {found['best_torch']} PyTorch {found['ratio']:.2f}"


def measured(part: Findings, name: str) -> None:
    """The part of a row."""
    row = (TOY_ROWS if part.toy else ROWS)[name]
    sides = SIDES if part.torch else SIDES[:1]

    def check() -> str:
        found = figures(row, measure(row, sides, toy=part.toy))
        part.note(**found)
        line = "; ".join(told(found))
        expect("triform_failed" not in found and (found["best_torch"] or not part.torch), line)
        if "decode" not in row:
            tolerance = TOLERANCE[row.get("dtype", "bfloat16")]
            for ours, theirs in found.get("first_results", ()):
                expect(abs(ours / theirs - 1) <= tolerance, f"losses {ours} and {theirs}; {line}")
        return line

    part.check(f"batch {row['batch']} × {row['length']}", check)
