"""`text_lstm` beside PyTorch's own LSTM: perplexities of the same model, tokens and schedule.

python benchmarks/text_lstm.py --text=input.txt [--seeds=3] [--out=FILE]
                               [--config.section.field=value ...]

Needs the `bench` extra. Ours is trained by train.py. Theirs is `nn.Embedding`, `nn.LSTM` and the
embedding's transpose as the head, of as many parameters; it is given the same batches in the same
order, AdamW, clipping, decay and learning rates, dropout in the same places, and our initial
values of each seed, or with --own_start PyTorch's. Perplexities are those of the validation part
after the last step; `differ` is that of the means. Our runs are remembered in `--out`.
"""

import json
import math
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import runs
from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.recipes import load_config
from configs.schema.config import Config
from data.batches import Batches
from data.preparation import prepare

RECIPE = "text_lstm"
FLAGS = (
    Flag("text", "the text, one file", required=True),
    Flag("out", "the file that remembers our runs", default="runs/text_lstm.jsonl"),
    Flag("seeds", "runs of each side", type=int, default=3, minimum=1),
    Flag("own_start", "the LSTM starts from PyTorch's initial values", switch=True),
)


def main(argv: list[str]) -> None:
    arguments = parse_command_line(argv, FLAGS, overrides=True)
    common = runs.NOTHING_ON_THE_WAY | {"data.path": arguments.text} | arguments.overrides
    asked = [common | {"seed": str(seed)} for seed in range(arguments.seeds)]
    found: dict[str, list[float]] = {"ours": [], "PyTorch": []}
    sizes = {}
    for _, line in sorted(runs.results(RECIPE, asked, Path(arguments.out)), key=lambda one: one[0]):
        found["ours"].append(line["metrics"]["perplexity"])
        sizes["ours"] = line["parameters"]
    for fields in asked:
        config = load_config(f"configs/{RECIPE}.py", fields)
        perplexity, sizes["PyTorch"] = peer(config, arguments.own_start)
        found["PyTorch"].append(perplexity)
        print(f"PyTorch, seed {config.seed}: {perplexity:.2f}", file=sys.stderr, flush=True)
    print("| side | parameters | perplexity | each seed |")
    print("|---|---|---|---|")
    for side, each in found.items():
        shown = " ".join(f"{one:.2f}" for one in each)
        print(f"| {side} | {sizes[side]:,} | {mean(each):.2f} | {shown} |")
    difference = mean(found["ours"]) / mean(found["PyTorch"]) - 1
    print(f"differ: {difference:+.2%}")
    print(json.dumps(found | {"difference": difference}))


def peer(config: Config, own_start: bool) -> tuple[float, int]:
    """Perplexity of PyTorch's model trained as `config` says, and its parameters."""
    import torch
    from torch.nn import functional

    from training.schedules import build_schedule

    dataset = prepare(config.data)
    torch.manual_seed(config.seed)
    module = build_peer(config, dataset.spec.vocabulary_size)
    if not own_start:
        start_alike(module, config, dataset.spec)
    learnt = [one for one in module.parameters() if one.requires_grad]
    optimizer, schedule = make_adamw(config, learnt), build_schedule(config)
    learning_rates = [float(schedule(step)) for step in range(config.train.steps)]

    def nats(batch: dict[str, np.ndarray]) -> tuple[Any, float]:
        """Summed over the targets, and how many there are."""
        tokens, targets = (torch.from_numpy(batch[n]).long() for n in ("tokens", "targets"))
        weights = torch.from_numpy(batch["weights"])
        logits = module(tokens).flatten(0, 1)
        each = functional.cross_entropy(logits, targets.flatten(), reduction="none")
        return (each * weights.flatten()).sum(), float(weights.sum())

    size = config.data.global_batch_size
    batches = Batches(
        dataset.splits["train"], global_batch_size=size, seed=config.seed, shuffle=True
    )
    for step, learning_rate in enumerate(learning_rates):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss, count = nats(batches[step])
        optimizer.zero_grad(set_to_none=True)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(learnt, config.optimizer.gradient_clip_norm)
        optimizer.step()

    module.eval()
    held_out = Batches(dataset.splits["validation"], global_batch_size=size, seed=0, shuffle=False)
    with torch.no_grad():
        losses, counts = zip(*(nats(held_out[n]) for n in range(len(held_out))), strict=True)
    parameters = sum(one.numel() for one in learnt)
    return math.exp(float(sum(losses)) / sum(counts)), parameters


def build_peer(config: Config, vocabulary_size: int):
    """The same model of PyTorch's parts."""
    import torch
    from torch import nn

    settings = config.model

    class LanguageModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocabulary_size, settings.width)
            nn.init.normal_(self.tokens.weight, std=0.02)
            self.dropout = nn.Dropout(settings.dropout)
            self.lstm = nn.LSTM(
                settings.width,
                settings.width,
                settings.depth,
                batch_first=True,
                dropout=settings.dropout,
            )
            for name, parameter in self.lstm.named_parameters():
                if name.startswith("bias_hh"):  # added to another one, and so to be told nothing
                    nn.init.zeros_(parameter)
                    parameter.requires_grad_(False)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            hidden, _ = self.lstm(self.dropout(self.tokens(tokens)))
            return nn.functional.linear(self.dropout(hidden), self.tokens.weight)

    if (settings.recurrence, settings.tied_embeddings) != ("lstm", True):
        raise UsageError("the peer is an LSTM with a tied head")
    return LanguageModel()


def start_alike(module: Any, config: Config, spec: DataSpec) -> None:
    """Gives PyTorch's model the initial values that ours has."""
    import jax

    from benchmarks.peers import fill
    from parallel.mesh import make_mesh
    from training.program import build_program

    program = build_program(config, spec, make_mesh(config))
    ours = jax.device_get(program.initialize().params)
    fill(module.tokens.weight, ours["embedding"]["tokens"]["embedding"])
    for number, layer in ours["backbone"]["layers"].items():
        for name, key in (("ih", "input_kernel"), ("hh", "recurrent_kernel")):
            kernel = layer[key].reshape(config.model.width, -1).T
            fill(getattr(module.lstm, f"weight_{name}_l{number}"), kernel)
        fill(getattr(module.lstm, f"bias_ih_l{number}"), layer["bias"].reshape(-1))


def make_adamw(config: Config, learnt: list[Any]):
    """AdamW that spares what has one dimension, as ours does."""
    import torch

    settings = config.optimizer
    groups = [
        {"params": [one for one in learnt if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in learnt if one.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=1.0, betas=(settings.beta1, settings.beta2), eps=settings.epsilon
    )


if __name__ == "__main__":
    run_verb(main)
