"""How `shakespeare_char` comes to its validation loss: what helps and what does not, by itself.

python benchmarks/study.py --text=input.txt [--seeds=3] [--jobs=2] [--variant=NAME ...]

From nanoGPT's setting of this size to the recipe's, one thing after the other; then other things,
each alone added to the recipe. Every variant is trained by train.py from several seeds (another
initialisation, another order) and gets a row: parameters, mean validation loss after the last
step, half the range over the seeds, and the mean difference from the recipe, seed by seed. Runs
are remembered in `--out`, so that the same command goes on where it was; an old recipe's are not
taken for a new one's.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import runs
from configs.errors import UsageError
from configs.reading.command_line import Flag, parse_command_line, run_verb

RECIPE = "shakespeare_char"

STEPS_TO_THE_RECIPE: dict[str, dict[str, str]] = {
    "nanoGPT's setting": {
        "model.positions": "learned",
        "model.norm": "layer_norm",
        "model.feed_forward": "gelu",
        "model.tied_embeddings": "true",
        "optimizer.name": "adamw",
        "optimizer.learning_rate": "1e-3",
    },
    "+ learning rate 3e-3": {"optimizer.learning_rate": "3e-3"},
    "+ rotary positions": {"model.positions": "rotary"},
    "+ SwiGLU": {"model.feed_forward": "swiglu"},
    "+ RMS norm": {"model.norm": "rms_norm"},
    "+ head of its own": {"model.tied_embeddings": "false"},
    "+ Muon": {"optimizer.name": "muon"},
}
"""Each with all before it; the last is the recipe."""

BESIDE_THE_RECIPE: dict[str, dict[str, str]] = {
    "learning rate 6e-3": {"optimizer.learning_rate": "6e-3"},
    "learning rate falls to 0": {"optimizer.final_learning_rate_ratio": "0"},
    "schedule-free AdamW, 6e-3": {
        "optimizer.name": "schedule_free",
        "optimizer.schedule": "constant",
        "optimizer.learning_rate": "6e-3",
    },
    "wsd": {"optimizer.schedule": "wsd"},
    "rotary base 100": {"model.rotary_base": "100"},
    "first block an LSTM": {"model.pattern": "RAAA", "model.feed_forward_width": "304"},
    "weight decay 0": {"optimizer.weight_decay": "0"},
    "mean of the weights, 0.99": {"train.ema_decay": "0.99"},
    "dropout 0.1": {"model.dropout": "0.1"},
    "8 heads": {"model.num_heads": "8"},
    "z-loss 1e-4": {"task.z_loss": "1e-4"},
    "label smoothing 0.05": {"task.label_smoothing": "0.05"},
    "biases": {"model.use_bias": "true"},
}
"""Each alone."""

FLAGS = (
    Flag("text", "the text, one file", required=True),
    Flag("out", "the file that remembers runs", default="runs/study.jsonl"),
    Flag("seeds", "runs of each variant", type=int, default=3, minimum=1),
    Flag("jobs", "runs beside each other", type=int, default=2, minimum=1),
    Flag("variant", "do these alone, and the recipe", repeatable=True),
)


def variants() -> dict[str, dict[str, str]]:
    """Name to overrides of the recipe, which is the last of the steps to it."""
    found, so_far = {}, {}
    for name, fields in STEPS_TO_THE_RECIPE.items():
        so_far = so_far | fields
        found[name] = so_far
    return found | BESIDE_THE_RECIPE


def main(argv: list[str]) -> None:
    arguments = parse_command_line(argv, FLAGS)
    *_, recipe = STEPS_TO_THE_RECIPE
    wanted = variants()
    if unknown := set(arguments.variant) - set(wanted):
        raise UsageError(f"no variant {unknown.pop()!r}: there are {', '.join(wanted)}")
    if arguments.variant:
        wanted = {name: wanted[name] for name in wanted if name in {recipe, *arguments.variant}}
    # All variants from the first seed, then from the next: what is cut short can still be read.
    pairs = [(name, seed) for seed in range(arguments.seeds) for name in wanted]
    common = runs.NOTHING_ON_THE_WAY | {"data.path": arguments.text}
    asked = [common | wanted[name] | {"seed": str(seed)} for name, seed in pairs]
    lines: dict[str, dict[int, dict]] = {name: {} for name in wanted}
    for place, line in runs.results(RECIPE, asked, Path(arguments.out), jobs=arguments.jobs):
        name, seed = pairs[place]
        lines[name][seed] = line
        loss, seconds = line["metrics"]["loss"], line["seconds"]
        print(f"{name}, seed {seed}: {loss:.4f} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    print_table(lines, recipe)


def print_table(lines: Mapping[str, Mapping[int, dict]], recipe: str) -> None:
    """A row for each variant; `lines` by its name and the seed."""
    losses = {
        name: {seed: line["metrics"]["loss"] for seed, line in by_seed.items()}
        for name, by_seed in lines.items()
    }
    print("| variant | parameters | validation loss | ± | against the recipe |")
    print("|---|---|---|---|---|")
    for name, by_seed in losses.items():
        parameters = next(iter(lines[name].values()))["parameters"]
        spread = (max(by_seed.values()) - min(by_seed.values())) / 2
        difference = mean(loss - losses[recipe][seed] for seed, loss in by_seed.items())
        compared = "the recipe" if name == recipe else f"{difference:+.3f}"
        figures = f"{parameters:,} | {mean(by_seed.values()):.3f} | {spread:.3f}"
        print(f"| {name} | {figures} | {compared} |")


if __name__ == "__main__":
    run_verb(main)
