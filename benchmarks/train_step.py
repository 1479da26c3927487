"""The whole train step beside PyTorch's: the same mathematics, parameters, batches, threads and
optimizer, measured in turns.

python benchmarks/train_step.py [ROW ...]

Needs the `bench` extra. Each row starts both sides from the same weights and prints the largest
relative difference of their losses, milliseconds a step (medians), and the ratio of throughputs,
ours over the faster of PyTorch's eager and compiled step: above 1 we are faster. Each side lives
in a process of its own and has all cores while it is its turn.
"""

import multiprocessing
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

ROWS = {
    "decoder_4x128": {
        "model": "decoder", "width": 128, "depth": 4, "heads": 4, "length": 64, "batch": 12,
        "vocabulary": 67,
    },
    "decoder_6x384": {
        "model": "decoder", "width": 384, "depth": 6, "heads": 6, "length": 256, "batch": 8,
        "vocabulary": 67,
    },
    "lstm_2x200": {
        "model": "lstm", "width": 200, "depth": 2, "length": 35, "batch": 20, "vocabulary": 10_000,
    },
    "lstm_2x650": {
        "model": "lstm", "width": 650, "depth": 2, "length": 35, "batch": 20, "vocabulary": 10_000,
    },
    "cnn_32_64": {
        "model": "cnn", "channels": (32, 64), "width": 128, "size": 28, "batch": 64, "classes": 10,
    },
}  # fmt: skip
SIDES = ("triform", "eager", "compiled")
ROUNDS = 6
SECONDS_A_TURN = 4.0
WARM_UP = 3
LEARNING_RATE = 1e-3


def load(row: dict):
    """Our configuration of a row, and the specification of its data."""
    from benchmarks.invented import invented_spec
    from configs.reading.recipes import load_config

    fields = {
        "data.global_batch_size": row["batch"],
        "model.width": row["width"],
        "train.matrix_products": "onednn",
        "optimizer.name": "adamw",
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.weight_decay": 0,
        "optimizer.beta2": 0.999,
    }
    if row["model"] == "cnn":
        recipe, shape = "digits_cnn", {"image_shape": (row["size"], row["size"], 1)}
        fields |= {"model.dropout": 0, "model.channels": ",".join(map(str, row["channels"]))}
    else:
        recipe, shape = "shakespeare_char", {"vocabulary_size": row["vocabulary"]}
        fields |= {
            "data.sequence_length": row["length"],
            "model.depth": row["depth"],
            "model.norm": "layer_norm",
            "model.use_bias": "true",
            "model.feed_forward": "gelu",
            "model.tied_embeddings": "true",
        }
    if row["model"] == "decoder":
        fields |= {"model.num_heads": row["heads"], "model.positions": "learned"}
    if row["model"] == "lstm":
        fields |= {"model.pattern": "R", "model.positions": "none"}
        fields |= {"model.feed_forward_width": row["width"]}
    overrides = {name: str(value) for name, value in fields.items()}
    config = load_config(ROOT / f"configs/{recipe}.py", overrides, inputs=False)
    return config, invented_spec(config, **shape)


def triform_step(row: dict):
    """Our initial weights by path, and a function of a batch to its loss."""
    from parallel.environment import set_environment
    from parallel.feeding import put_batch
    from parallel.mesh import make_mesh
    from parallel.onednn import choose_products

    config, spec = load(row)
    set_environment(config)
    import jax

    from training.program import build_program

    mesh = make_mesh(config)
    choose_products(config, mesh)
    program = build_program(config, spec, mesh)
    state = program.initialize()
    weights = {
        ".".join(str(part.key) for part in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(state.params)
    }

    def step(data: dict[str, np.ndarray]) -> float:
        nonlocal state
        placed = put_batch(data, program.batch_sharding, row["batch"])
        state, metrics = program.train_step(state, placed)
        return metrics.read()["loss"]

    return weights, step


def torch_step(row: dict, weights: dict[str, np.ndarray], compiled: bool):
    """PyTorch's step from the same weights."""
    import torch
    from torch.nn import functional

    from benchmarks.peers import MODELS

    model = MODELS[row["model"]](row)
    model.load(weights)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, betas=(0.9, 0.999), weight_decay=0.0)
    names = ("image", "label") if row["model"] == "cnn" else ("tokens", "targets")

    def loss_of(inputs, targets):
        return functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())

    run = torch.compile(loss_of) if compiled else loss_of

    def step(data: dict[str, np.ndarray]) -> float:
        inputs, targets = (torch.from_numpy(np.ascontiguousarray(data[name])) for name in names)
        optimizer.zero_grad(set_to_none=True)
        loss = run(inputs if row["model"] == "cnn" else inputs.long(), targets.long())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def live(pipe, side: str, row: dict) -> None:
    """A side's process: gets the numbers of steps, sends the seconds and the loss of each."""
    from benchmarks.invented import batch

    config, spec = load(row)
    if side == "triform":
        weights, step = triform_step(row)
        pipe.send(weights)
    else:
        step = torch_step(row, pipe.recv(), compiled=side == "compiled")
    while (asked := pipe.recv()) is not None:
        seconds, losses = [], []
        for number in asked:
            data = batch(config, spec, number)
            begin = time.perf_counter()
            losses.append(step(data))
            seconds.append(time.perf_counter() - begin)
        pipe.send((seconds, losses))


def measure(row: dict, sides=SIDES, rounds=ROUNDS, turn_seconds=SECONDS_A_TURN):
    """For each side the seconds and the losses of all steps after the warm-up."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for side in sides:
        pipes[side], other = context.Pipe()
        context.Process(target=live, args=(other, side, row), daemon=True).start()
        other.close()
    weights = pipes["triform"].recv()
    for side in sides[1:]:
        pipes[side].send(weights)

    def ask(side, numbers):
        pipes[side].send(numbers)
        return pipes[side].recv()

    first = {side: ask(side, range(WARM_UP)) for side in sides}
    pace = max(seconds[-1] for seconds, _ in first.values())
    count = max(3, int(turn_seconds / pace))
    found = {side: ([], first[side][1]) for side in sides}
    for turn in range(rounds):
        start = WARM_UP + turn * count
        for side in sides if turn % 2 else sides[::-1]:
            seconds, losses = ask(side, range(start, start + count))
            found[side][0].extend(seconds)
            found[side][1].extend(losses)
    for pipe in pipes.values():
        pipe.send(None)
    return found


def main(names: list[str]) -> None:
    """Prints the table."""
    print("| row | ours, ms | eager, ms | compiled, ms | ours / best PyTorch | losses differ by |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in names or ROWS:
        found = measure(ROWS[name])
        medians = {side: 1e3 * statistics.median(found[side][0]) for side in SIDES}
        ratio = min(medians["eager"], medians["compiled"]) / medians["triform"]
        ours, peers = found["triform"][1], found["eager"][1]
        difference = np.max(np.abs(np.divide(ours[:20], peers[:20]) - 1))
        figures = " | ".join(f"{medians[side]:.1f}" for side in SIDES)
        print(f"| `{name}` | {figures} | {ratio:.2f} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
