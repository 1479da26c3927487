"""Builds a row's model in Triform and in PyTorch, with the same weights, batches and optimizer.

Both start from the same float32 weights. They compute in the row's `dtype` (default: bfloat16); for
this, PyTorch uses autocast, or in decoding weights of that dtype. Both train with AdamW and
gradient clipping. PyTorch uses its fused attention, and on a GPU its fused optimizer.

A row of a benchmark's table is a dictionary with `kind` (`gpt2`, `llama`, `lstm` or `cnn`),
`batch`, and the sizes of the model. If it has `decode`, a step generates that many tokens greedily,
from an empty cache of `length` positions; else a step is a train step. `products` is the setting
`train.matrix_products`.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import ROOT, Side, Work, alternate

SIDES = ("triform", "eager", "compiled")
LEARNING_RATE, BETA2 = 1e-4, 0.95
RECIPES = {"gpt2": "gpt2_124m", "llama": "llama_1b", "lstm": "gpt2_124m", "cnn": "digits_cnn"}
KEPT_BATCHES = 4


def measure(
    row: dict[str, Any], names: Sequence[str], *, turns: int, seconds: float, warm_up: int = 3
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


def build(side: str, row: dict[str, Any], folder: Path) -> Work:
    """Build a side. Triform's side must be built first: it writes its initial weights to `folder`,
    and PyTorch's sides read them."""
    if side == "triform":
        return triform_side(row, folder)
    return torch_side(row, folder, compiled=side == "compiled")


def load(row: dict[str, Any]):
    """Return the configuration of a row, and the `DataSpec` of its data."""
    from benchmarks.invented import invented_spec
    from configs.reading.recipes import load_config

    fields = {
        "data.global_batch_size": row["batch"],
        "model.width": row["width"],
        "optimizer.name": "adamw",
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        "optimizer.weight_decay": 0,
        "optimizer.beta2": BETA2,
        "train.gradient_accumulation": 1,
        "train.matrix_products": row.get("products", "xla"),
        "precision.compute_dtype": row.get("dtype", "bfloat16"),
        "mesh.data": 1,
        "mesh.fsdp": 1,
    }
    shape = {"vocabulary_size": row.get("vocabulary")}
    if row["kind"] == "cnn":
        shape = {"image_shape": (row["size"], row["size"], 1)}
        fields |= {"model.dropout": 0, "model.channels": ",".join(map(str, row["channels"]))}
    else:
        fields |= {
            "data.sequence_length": row["length"],
            "data.cross_document_attention": "true",
            "model.depth": row["depth"],
            "model.scan_layers": "false",
            "model.remat": "none",
        }
    if row["kind"] in ("gpt2", "llama"):
        fields |= {"model.num_heads": row["heads"]}
    if row["kind"] == "llama":
        fields |= {"model.num_kv_heads": row["kv_heads"], "model.feed_forward_width": row["hidden"]}
    if row["kind"] == "lstm":
        fields |= {"model.pattern": "R", "model.positions": "none"}
        fields |= {"model.feed_forward_width": row["width"]}
    if "decode" in row:
        fields |= {"precision.parameter_dtype": row.get("dtype", "bfloat16")}
    texts = {name: str(value) for name, value in fields.items()}
    config = load_config(ROOT / f"configs/{RECIPES[row['kind']]}.py", texts, inputs=False)
    return config, invented_spec(config, **shape)


# ---- Triform's side.


def triform_side(row: dict[str, Any], folder: Path) -> Work:
    """Build Triform's side, and write its initial weights to `folder`."""
    from parallel.environment import set_environment
    from parallel.mesh import make_mesh

    config, spec = load(row)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    set_environment(config)
    import jax
    import jax.numpy as jnp

    from parallel.onednn import select_matrix_products
    from training import flops
    from training.attention import working_attention
    from training.program import build_program

    mesh = make_mesh(config, jax.devices()[:1])
    select_matrix_products(config, mesh)
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
        "flops_per_token": program.flops_per_example / row.get("length", 1),
        "peak_flops": peak and peak.flops,
        "peak_bandwidth": peak and peak.bandwidth,
        "notices": notices,
    }
    make = triform_decoder if "decode" in row else triform_trainer
    run = make(row, program, state)
    return Work(run, facts, lambda: (device.memory_stats() or {}).get("peak_bytes_in_use"))


def triform_trainer(row: dict[str, Any], program, state) -> Callable[[int], list[float]]:
    """Return a function that runs n train steps and returns their losses."""
    import jax

    from benchmarks.invented import batch

    config, spec = load(row)
    batches = [
        jax.device_put(batch(config, spec, number), program.batch_sharding)
        for number in range(KEPT_BATCHES)
    ]
    step = program.train_step.lower(state, batches[0]).compile()
    count = 0

    def run(steps: int) -> list[float]:
        nonlocal state, count
        measured = []
        for _ in range(steps):
            state, metrics = step(state, batches[count % KEPT_BATCHES])
            measured.append(metrics)
            count += 1
        return [metrics.read()["loss"] for metrics in measured]

    return run


def triform_decoder(row: dict[str, Any], program, state) -> Callable[[int], list[int]]:
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


def torch_side(row: dict[str, Any], folder: Path, *, compiled: bool) -> Work:
    """Build PyTorch's side, with the weights that Triform's side wrote to `folder`."""
    import torch

    from benchmarks import peers

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    if cuda:
        torch.backends.cuda.matmul.allow_tf32 = True
    with device:
        model = (peers.CNN if row["kind"] == "cnn" else peers.Decoder)(row)
    with np.load(folder / "weights.npz") as weights:
        peers.load(model, weights)
    make = torch_decoder if "decode" in row else torch_trainer
    run = make(row, model, device, compiled)
    peak_bytes = torch.cuda.max_memory_allocated if cuda else lambda: None
    return Work(run, {"torch": torch.__version__}, peak_bytes)


def torch_trainer(
    row: dict[str, Any], model, device, compiled: bool
) -> Callable[[int], list[float]]:
    """Return PyTorch's equivalent of `triform_trainer`."""
    import torch
    from torch.nn import functional

    from benchmarks.invented import batch

    dtype = getattr(torch, row.get("dtype", "bfloat16"))
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learnt,
        lr=LEARNING_RATE,
        betas=(0.9, BETA2),
        weight_decay=0.0,
        fused=device.type == "cuda",
    )
    config, spec = load(row)
    names = ("image", "label") if row["kind"] == "cnn" else ("tokens", "targets")
    batches = [
        [torch.tensor(data[name], device=device) for name in names]
        for data in (batch(config, spec, number) for number in range(KEPT_BATCHES))
    ]

    def loss_of(inputs, targets):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(inputs)
        return functional.cross_entropy(logits.float().flatten(0, -2), targets.flatten().long())

    compute, count = torch.compile(loss_of) if compiled else loss_of, 0

    def run(steps: int) -> list[float]:
        nonlocal count
        losses = []
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = compute(*batches[count % KEPT_BATCHES])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            losses.append(loss.detach())
            count += 1
        return torch.stack(losses).tolist()

    return run


def torch_decoder(row: dict[str, Any], model, device, compiled: bool) -> Callable[[int], list[int]]:
    """Return PyTorch's equivalent of `triform_decoder`. If `compiled`, the decoding step is
    compiled, with CUDA graphs on a GPU."""
    import torch

    model = model.to(getattr(torch, row.get("dtype", "bfloat16"))).eval()

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
