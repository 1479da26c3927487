"""Explains a configuration before the run.

`--explain` prints the update rule, learning rate and weight decay of each parameter. Every run
warns about valid settings that are too long for the run.
"""

import re
from collections.abc import Iterator, Mapping

import jax.numpy as jnp

from configs.data_spec import DataSpec
from configs.reading.explanation import explain
from configs.schema.config import Config
from parallel.environment import explain_environment
from training.model_def import make_model_graph
from training.optimizers import FROZEN, parameter_groups
from training.trees import flat

_STAND_INS = {
    "text": DataSpec(vocabulary_size=256, max_length=256),
    "text_pairs": DataSpec(vocabulary_size=256, max_source_length=256, max_length=256),
    "labelled_text": DataSpec(vocabulary_size=256, max_length=256, num_classes=10),
    "pictures": DataSpec(num_classes=10, image_shape=(64, 64, 3)),
    "transcribed_sound": DataSpec(num_mels=80, max_frames=256, vocabulary_size=256, max_labels=256),
    "labelled_sound": DataSpec(num_mels=80, max_frames=256, num_classes=10),
}
"""Placeholders for sizes that are read from the data, by modality. The names and axes of the
parameters do not depend on them."""


UNFORGOTTEN = 0.05
"""The user is warned if the initial values are more than this share of the final average (EMA)."""


def initial_share(config: Config) -> float:
    """Return the share of the initial values in the final average (EMA); 0 without averaging."""
    return (config.train.ema_decay or 0.0) ** config.train.steps


def better_decay(config: Config) -> float:
    """Return a `train.ema_decay` that leaves under 1 % of the initial values in the final
    average."""
    return max(0.0, 1 - 5 / config.train.steps)


def warnings_of(config: Config, warmup: int) -> Iterator[str]:
    """Yield a warning if the warm-up or the averaging of weights is too long for the run. warmup:
    the actual number of warm-up steps."""
    steps, decay = config.train.steps, config.train.ema_decay or 0.0
    asked = config.optimizer.warmup_steps
    if warmup != asked:
        yield (
            f"optimizer.warmup_steps={asked} is as long as the run or longer: the warm-up is cut "
            f"to {warmup}, a tenth of the steps that the run began with"
        )
    if (left := initial_share(config)) > UNFORGOTTEN:
        yield (
            f"train.ema_decay={decay:g} averages over {1 / (1 - decay):,.0f} steps, and this run "
            f"has {steps:,}: initial values keep {left:.0%} of the average, which is what is "
            f"evaluated. Use {better_decay(config):.3g}, or evaluate with --weights=raw"
        )


def print_explanation(
    config: Config, recipe: str, overrides: Mapping[str, str], workdir: str | None
) -> None:
    """Print every field, its value and where that was set; the environment; and all parameters."""
    parameters = explain_parameters(config)
    print(explain(recipe, overrides, workdir=workdir))
    print(f"\n{explain_environment(config)}\n\n{parameters}")


def explain_parameters(config: Config) -> str:
    """Return a table of the update rule, learning rate and weight decay of every parameter.

    Layers with the same settings share a row. Neither data nor devices are needed. Raises
    `configs.UsageError` if a pattern in the configuration matches no parameter.
    """
    graph = make_model_graph(
        config.model.architecture,
        config.model.model_dump(exclude={"architecture"})
        | _STAND_INS[config.data.modality].model_arguments(),
        dtype=jnp.dtype("float32"),
        param_dtype=jnp.dtype("float32"),
    )
    param_groups = parameter_groups(config, graph.with_lora(config).axes())
    rows = []
    for name, param_group in flat(param_groups).items():
        decay = config.optimizer.weight_decay if param_group.decayed else 0
        rate = config.optimizer.learning_rate * param_group.multiplier
        rows.append((re.sub(r"\.\d+\.", ".*.", name), (param_group.rule, rate, decay), name))

    # Layers share a row, with * for their number, only if their settings are the same.
    kinds = {general: {row[1] for row in rows if row[0] == general} for general, *_ in rows}
    shown = [(general if len(kinds[general]) == 1 else name, what) for general, what, name in rows]
    shown = list(dict.fromkeys(shown))
    width = max(len(name) for name, _ in shown) + 2
    lines = ["PARAMETERS: update, learning rate after the warm-up, weight decay"]
    for name, (rule, rate, decay) in shown:
        numbers = "" if rule == FROZEN else f"{rate:<12g}{decay:g}"
        lines.append(f"  {name:{width}}{rule:14}{numbers}".rstrip())
    return "\n".join(lines)
