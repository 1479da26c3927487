"""What a configuration becomes on a mesh: task, model, optimizer, and the two compiled steps."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.schema.config import Config
from model.architectures import parameter_count
from parallel.axes import replicated
from tasks.registry import TASKS, build
from tasks.task import Task
from training.flops import flops_per_example, peak
from training.lora import LORA, with_lora
from training.optimizers import build_optimizer
from training.schedules import build_schedule, warmup_steps
from training.state import ModelDef, TrainState, create_state, make_model_def
from training.step import compile_for_mesh, evaluation_step, mean_statistics, train_step
from training.trees import flat, select


@dataclass(frozen=True)
class TrainProgram:
    """Everything that is traced or compiled for one configuration on one mesh.

    `abstract_state` knows shape, dtype and sharding of each array; `initialize()` makes a fresh
    state in its shards, perhaps but for some parameters and statistics that it is given. `trained`:
    the names of the parameters that are not frozen. `attention`: of `training.working_attention`,
    None for a model without. `train_step(state, batch)` donates the state;
    `evaluation_step(params, statistics, batch)` keeps what it is given; so does
    `mean_statistics(params, mean, count, batch, number)`.
    """

    config: Config
    mesh: Mesh
    task: Task
    template: ModelDef
    abstract_state: TrainState
    batch_sharding: NamedSharding
    schedule: optax.Schedule
    warmup_steps: int
    flops_per_example: float | None
    initialize: Callable[..., TrainState]
    trained: frozenset[str]
    attention: str | None
    train_step: Callable[..., Any]
    evaluation_step: Callable[..., Any]
    mean_statistics: Callable[..., Any]

    @property
    def abstract_parameters(self) -> Any:
        """Those of `abstract_state` that are the model's own: without the pairs of LoRA."""
        return {name: one for name, one in self.abstract_state.params.items() if name != LORA}

    @property
    def parameter_count(self) -> int:
        """How many numbers the model has, pairs of LoRA and what is frozen included."""
        return parameter_count(self.abstract_state.params)

    @property
    def trained_count(self) -> int:
        """How many of them it learns."""
        return parameter_count(select(self.abstract_state.params, self.trained))

    @property
    def peak_examples_per_second(self) -> float | None:
        """How many examples the mesh would train on if nothing but the model's products took
        time (`training.flops`); None where its peak is not known."""
        found = peak(self.mesh.devices.flat[0].device_kind)
        if found is None or self.flops_per_example is None:
            return None
        return found.flops * self.mesh.size / self.flops_per_example

    def batch_shape(self, example: Mapping[str, Any], global_batch_size: int) -> dict[str, Any]:
        """The abstract global batch, from any batch of this process's rows."""
        return {
            name: jax.ShapeDtypeStruct(
                (global_batch_size, *rows.shape[1:]), rows.dtype, sharding=self.batch_sharding
            )
            for name, rows in example.items()
        }


def compute_dtype(config: Config, mesh: Mesh) -> jnp.dtype:
    """The dtype of activations; `auto` is bfloat16 on accelerators and float32 on CPU."""
    asked = config.precision.compute_dtype
    if asked == "auto":
        asked = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    return jnp.dtype(asked)


def _branches(mesh: Mesh) -> bool:
    """Whether the step branches around the optimizer (`train_step`)."""
    return mesh.devices.flat[0].platform == "cpu"


def _build_task(config: Config, data_spec: DataSpec, mesh: Mesh) -> Task:
    """The task, with what its class takes of the settings. Raises UsageError where the data has
    other classes than they say."""
    settings = config.task.model_dump()
    settings |= {"devices": mesh.size, "framing": data_spec.framing or ()}
    weights = settings.get("class_weights", ())
    if weights and len(weights) != data_spec.num_classes:
        raise UsageError(
            f"task.class_weights has {len(weights)} numbers, but the data "
            f"{data_spec.num_classes} classes: give one for each, in the order of their names"
        )
    classes = data_spec.num_classes or math.inf
    if config.checkpoint.best_metric == "accuracy_top5" and classes <= 5:
        raise UsageError(
            f"checkpoint.best_metric=accuracy_top5 says nothing of {classes} classes: use accuracy"
        )
    taken = [field.name for field in dataclasses.fields(TASKS[config.task.name])]
    return build(config.task.name, **{name: settings[name] for name in taken})


def build_program(
    config: Config,
    data_spec: DataSpec,
    mesh: Mesh,
    *,
    attention: str | None = None,
    warmup: int | None = None,
) -> TrainProgram:
    """The program of `config` on `mesh`.

    `data_spec`: the sizes of the data that model and task are built for.
    `attention`: what `training.working_attention` found. `warmup`: its steps, where a run
    goes on.
    """
    task = _build_task(config, data_spec, mesh)
    model = config.model.model_dump(exclude={"architecture"}) | data_spec.model_arguments()
    if task.extra_tokens:
        model["vocabulary_size"] += task.extra_tokens
    if attention is not None:
        model["attention"] = attention
    rules = config.mesh.rules.model_dump()
    template = make_model_def(
        config.model.architecture,
        model,
        dtype=compute_dtype(config, mesh),
        param_dtype=jnp.dtype(config.precision.parameter_dtype),
    )
    template = with_lora(template, config)
    optimizer = build_optimizer(config, template.axes())
    warmup = warmup_steps(config) if warmup is None else warmup
    schedule = build_schedule(config, warmup)
    abstract_state, initialize = create_state(
        template,
        optimizer,
        seed=config.seed,
        ema=config.train.ema_decay is not None,
        mesh=mesh,
        rules=rules,
    )
    everywhere = replicated(mesh)
    update = functools.partial(
        train_step,
        task=task,
        template=template,
        optimizer=optimizer,
        schedule=schedule,
        seed=config.seed,
        accumulation=config.train.gradient_accumulation,
        ema_decay=config.train.ema_decay,
        branch=_branches(mesh),
    )
    return TrainProgram(
        config=config,
        mesh=mesh,
        task=task,
        template=template,
        abstract_state=abstract_state,
        batch_sharding=NamedSharding(mesh, jax.sharding.PartitionSpec(tuple(rules["batch"]))),
        schedule=schedule,
        warmup_steps=warmup,
        flops_per_example=flops_per_example(config, abstract_state.params, data_spec),
        initialize=initialize,
        trained=frozenset(flat(optimizer.moving(abstract_state.params))),
        attention=attention,
        # State: sharded by the axes of its parameters, in and out, its buffers reused.
        # Batch: rows over `data` and `fsdp`. Metrics: the same on every device.
        train_step=compile_for_mesh(
            update,
            mesh=mesh,
            rules=rules,
            donate_argnums=0,
            out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, abstract_state), everywhere),
        ),
        evaluation_step=compile_for_mesh(
            functools.partial(evaluation_step, task=task, template=template),
            mesh=mesh,
            rules=rules,
            out_shardings=everywhere,
        ),
        mean_statistics=compile_for_mesh(
            functools.partial(mean_statistics, task=task, template=template, seed=config.seed),
            mesh=mesh,
            rules=rules,
            out_shardings=everywhere,
        ),
    )
