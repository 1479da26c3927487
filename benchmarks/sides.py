"""Builds a row's model in Triform and in PyTorch, with the same weights, batches and optimizer.

Both start from the same float32 weights. They compute in the dtypes of the row (`rows.py`); for
this, PyTorch uses autocast, or in decoding weights of that dtype. Both train with AdamW and
gradient clipping. PyTorch uses its fused attention, and on a GPU its fused optimizer.
"""

import importlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measuring import Side, Work, alternate
from benchmarks.rows import BETA2, DEFAULTS, KINDS, Row, batches, load

SIDES = ("triform", "eager", "compiled")


def measure(
    row: Row, names: Sequence[str], *, turns: int, seconds: float, warm_up: int = 3
) -> dict[str, Side]:
    """Return the sides of a row, by name, after `turns` turns of each.

    seconds: target length of a turn. If the row is `together`, all sides exist at once and are
        measured alternately; else each one is measured alone.
    """
    with tempfile.TemporaryDirectory() as name:

        def start(side: str) -> Side:
            how = {"warm_up": warm_up, "turn_seconds": seconds}
            return Side(build, side, row, Path(name), **how)

        sides: dict[str, Side] = {}
        for group in [names] if row["together"] else [[name] for name in names]:
            sides |= {side: start(side) for side in group}
            for side in alternate(group, turns):
                sides[side].turn()
            for side in group:
                sides[side].end()
        return sides


def build(side: str, row: Row, folder: Path) -> Work:
    """Build a side. Triform's side must be built first: it writes its initial weights to `folder`,
    and PyTorch's sides read them."""
    if side == "triform":
        return triform_side(row, folder)
    return torch_side(row, folder, compiled=side == "compiled")


# ---- Triform's side.


def triform_side(row: Row, folder: Path) -> Work:
    """Build Triform's side, and write its initial weights to `folder`."""
    from parallel.environment import set_environment
    from parallel.mesh import make_mesh

    config, spec = load(row)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    set_environment(config)
    import jax
    import jax.numpy as jnp

    from parallel.products import select_products
    from training import flops
    from training.attention import working_attention
    from training.program import build_program

    mesh = make_mesh(config, jax.devices()[:1])
    select_products(config, mesh)
    notices: list[str] = []
    attention = working_attention(config, mesh, notices.append)
    program = build_program(config, spec, mesh, attention=attention)
    state = program.initialize()
    weights = {
        ".".join(str(part.key) for part in path): np.asarray(leaf.astype(jnp.float32))
        for path, leaf in jax.tree.leaves_with_path(state.params)
    }
    np.savez(folder / "weights.npz", **weights)
    device, flops_per_example = mesh.devices.flat[0], program.flops_per_example
    peak = flops.peak(device.device_kind)
    facts = {
        "device": device.device_kind,
        "jax": jax.__version__,
        "attention": attention,
        "parameters": program.model_def.parameter_count,
        "flops_per_token": flops_per_example and flops_per_example / row.get("length", 1),
        "peak_flops": peak and peak.flops,
        "peak_bandwidth": peak and peak.bandwidth,
        "notices": notices,
    }
    make = triform_decoder if "decode" in row else triform_trainer
    run = make(row, program, state)
    return Work(run, facts, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use"))


def triform_trainer(row: Row, program, state) -> Callable[[int], list[float]]:
    """Return a function that runs n train steps and returns their losses."""
    import jax

    kept = [jax.device_put(batch, program.batch_sharding) for batch in batches(row)]
    step = program.train_step.lower(state, kept[0]).compile()
    count = 0

    def run(steps: int) -> list[float]:
        nonlocal state, count
        measured = []
        for _ in range(steps):
            state, metrics = step(state, kept[count % len(kept)])
            measured.append(metrics)
            count += 1
        return [metrics.read()["loss"] for metrics in measured]

    return run


def triform_decoder(row: Row, program, state) -> Callable[[int], list[int]]:
    """Return a function that decodes n times and returns the tokens of the batch's first row."""
    import jax
    import jax.numpy as jnp

    params, statistics = state.params, state.statistics

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


def torch_side(row: Row, folder: Path, *, compiled: bool) -> Work:
    """Build PyTorch's side, with the weights that Triform's side wrote to `folder`."""
    import torch

    from benchmarks.peers import loading

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = True
    module, _, name = KINDS[row["kind"]].peer.partition(".")
    with device:
        model = getattr(importlib.import_module(f"benchmarks.peers.{module}"), name)(row)
    with np.load(folder / "weights.npz") as weights:
        loading.load(model, weights)
    make = torch_decoder if "decode" in row else torch_trainer
    run = make(row, model, device, compiled)
    peak_bytes = torch.cuda.max_memory_allocated if cuda else lambda: None
    return Work(run, {"torch": torch.__version__}, peak_bytes)


def torch_dtype(row: Row) -> str:
    """Return the dtype in which PyTorch computes."""
    return row.get("autocast") or (DEFAULTS | row)["dtype"]


def torch_trainer(row: Row, model, device, compiled: bool) -> Callable[[int], list[float]]:
    """Return PyTorch's equivalent of `triform_trainer`."""
    import torch

    dtype = getattr(torch, torch_dtype(row))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learnt,
        lr=(DEFAULTS | row)["learning_rate"],
        betas=(0.9, BETA2),
        weight_decay=0.0,
        fused=device.type == "cuda",
    )

    def as_tensor(values):
        values = torch.tensor(values, device=device)
        return values.long() if values.dtype == torch.int32 else values

    kept = [{name: as_tensor(values) for name, values in batch.items()} for batch in batches(row)]

    def loss_of(batch):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(*(batch[name] for name in model.inputs))
        return model.loss(logits.float(), batch)

    compute, count = torch.compile(loss_of) if compiled else loss_of, 0

    def run(steps: int) -> list[float]:
        nonlocal count
        losses = []
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = compute(kept[count % len(kept)])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            losses.append(loss.detach())
            count += 1
        return torch.stack(losses).tolist()

    return run


def torch_decoder(row: Row, model, device, compiled: bool) -> Callable[[int], list[int]]:
    """Return PyTorch's equivalent of `triform_decoder`. If `compiled`, the decoding step is
    compiled, with CUDA graphs on a GPU."""
    import torch

    model = model.to(getattr(torch, torch_dtype(row))).eval()

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
