"""Every optimizer on `shakespeare_char`: what it reaches in 200 steps, and what a step costs.

python benchmarks/optimizers.py --text=input.txt [--jobs=2]
python benchmarks/optimizers.py                                # what a step costs, alone

train.py trains the recipe for 200 steps under each optimizer at each of its rates, with 20 steps of
warm-up and everything else as the schema and the recipe have it; the best rate stands in the table,
all of them below it. Milliseconds are measured in turns, on invented batches, as medians.
Runs are remembered in `--out`.
"""

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import runs
from benchmarks.invented import batch, invented_spec
from configs.reading.command_line import Flag, parse_command_line, run_verb
from configs.reading.recipes import load_config

RECIPE = "shakespeare_char"
COMMON = {"train.steps": "200", "optimizer.warmup_steps": "20"}
RATES = {
    "adamw": ("1e-3", "3e-3", "6e-3", "1.2e-2"),
    "sgd": ("0.03", "0.1", "0.3", "1", "3"),
    "lion": ("2e-4", "6e-4", "1.2e-3", "2.4e-3"),
    "adafactor": ("3e-3", "6e-3", "1.2e-2"),
    "muon": ("3e-3", "6e-3", "1.2e-2", "2.4e-2"),
    "schedule_free": ("3e-3", "6e-3", "1.2e-2"),
}
ROUNDS, STEPS_A_ROUND = 6, 20

FLAGS = (
    Flag("text", "the text, one file; without it, speed alone"),
    Flag("out", "the file that remembers runs", default="runs/optimizers.jsonl"),
    Flag("jobs", "runs beside each other", type=int, default=2, minimum=1),
)


def main(argv: list[str]) -> None:
    arguments = parse_command_line(argv, FLAGS)
    losses = {}
    if arguments.text is not None:
        losses = losses_of_rates(arguments.text, Path(arguments.out), arguments.jobs)
    milliseconds = measure()
    print("| optimizer | learning rate | validation loss | ms a step | AdamW's = 1 |")
    print("|---|---|---|---|---|")
    for name, seconds in milliseconds.items():
        rates = losses.get(name, {})
        rate = min(rates, key=rates.get, default="")
        loss = f"{rates[rate]:.3f}" if rates else ""
        ratio = seconds / milliseconds["adamw"]
        print(f"| `{name}` | {rate} | {loss} | {seconds:.1f} | {ratio:.2f} |")
    for name, rates in losses.items():
        print(f"{name}: " + ", ".join(f"{loss:.3f} at {rate}" for rate, loss in rates.items()))


def losses_of_rates(text: str, file: Path, jobs: int) -> dict[str, dict[str, float]]:
    """Optimizer to rate to validation loss after the last step."""
    pairs = [(name, rate) for name, rates in RATES.items() for rate in rates]
    common = runs.NOTHING_ON_THE_WAY | COMMON | {"data.path": text}
    asked = [
        common | {"optimizer.name": name, "optimizer.learning_rate": rate} for name, rate in pairs
    ]
    losses = dict.fromkeys(pairs, float("nan"))
    for place, line in runs.results(RECIPE, asked, file, jobs=jobs):
        losses[pairs[place]] = line["metrics"]["loss"]
        print(*pairs[place], f"{losses[pairs[place]]:.4f}", file=sys.stderr, flush=True)
    return {name: {rate: losses[name, rate] for rate in rates} for name, rates in RATES.items()}


def measure() -> dict[str, float]:
    """Milliseconds of a train step by optimizer, measured in turns."""
    steps = {name: train_step(name) for name in RATES}
    times: dict[str, list[float]] = {name: [] for name in RATES}
    for number in range(ROUNDS):
        for name in list(RATES)[:: 1 if number % 2 else -1]:
            times[name] += steps[name](STEPS_A_ROUND)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def train_step(name: str):
    """A function that takes so many more steps under an optimizer and gives the seconds of each."""
    from parallel.environment import set_environment
    from parallel.feeding import put_batch
    from parallel.mesh import make_mesh

    config = load_config(runs.ROOT / f"configs/{RECIPE}.py", {"optimizer.name": name}, inputs=False)
    set_environment(config)
    import jax

    from training.program import build_program

    spec = invented_spec(config)
    program = build_program(config, spec, make_mesh(config))
    size = config.data.global_batch_size
    placed = put_batch(batch(config, spec, 0), program.batch_sharding, size)
    state = program.initialize()

    def take(count: int) -> list[float]:
        nonlocal state
        seconds = []
        for _ in range(count):
            began = time.perf_counter()
            state, metrics = program.train_step(state, placed)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - began)
        return seconds

    take(3)
    return take


if __name__ == "__main__":
    run_verb(main)
