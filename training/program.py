"""What a run compiles: a model's definition, its optimizer, its state and its train step."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import optax
from jax.sharding import Mesh, NamedSharding

from configs.data_spec import DataSpec
from configs.schema.config import Config
from model.architectures import parameter_count
from parallel.axes import replicated
from training.flops import flops_per_example, peak
from training.model_def import ModelDef, build_model_def, compile_for_mesh
from training.optimizers import build_optimizer
from training.schedules import build_schedule, warmup_steps
from training.state import TrainState, create_state
from training.step import mean_statistics, train_step
from training.trees import flat, select


@dataclass(frozen=True)
class TrainProgram:
    """Everything that is traced or compiled to train one model.

    `abstract_state` knows shape, dtype and sharding of each array; `initialize()` makes a fresh
    state in its shards, perhaps with some parameters and statistics that it is given. `trained`:
    the names of the parameters that are not frozen. `train_step(state, batch)` donates the state;
    `mean_statistics(params, mean, count, batch, number)` keeps what it is given.
    """

    model_def: ModelDef
    abstract_state: TrainState
    schedule: optax.Schedule
    warmup_steps: int
    flops_per_example: float | None
    initialize: Callable[..., TrainState]
    trained: frozenset[str]
    train_step: Callable[..., Any]
    mean_statistics: Callable[..., Any]

    @property
    def config(self) -> Config:
        """Return the configuration of the run."""
        return self.model_def.config

    @property
    def mesh(self) -> Mesh:
        """Return the mesh that everything lies on."""
        return self.model_def.mesh

    @property
    def batch_sharding(self) -> NamedSharding:
        """Return how a batch's rows are split over the mesh."""
        return self.model_def.batch_sharding

    @property
    def trained_count(self) -> int:
        """Count the numbers that are not frozen."""
        return parameter_count(select(self.abstract_state.params, self.trained))

    @property
    def peak_examples_per_second(self) -> float | None:
        """Return how many examples the mesh would train on if nothing but the model's products took
        time (`training.flops`); None where its peak is not known."""
        found = peak(self.mesh.devices.flat[0].device_kind)
        if found is None or self.flops_per_example is None:
            return None
        return found.flops * self.mesh.size / self.flops_per_example

    def batch_shape(self, example: Mapping[str, Any], global_batch_size: int) -> dict[str, Any]:
        """Return the abstract global batch, from any batch of this process's rows."""
        return {
            name: jax.ShapeDtypeStruct(
                (global_batch_size, *rows.shape[1:]), rows.dtype, sharding=self.batch_sharding
            )
            for name, rows in example.items()
        }


def build_program(
    config: Config,
    data_spec: DataSpec,
    mesh: Mesh,
    *,
    attention: str | None = None,
    warmup: int | None = None,
) -> TrainProgram:
    """Return the program of `config` on `mesh`, for data of `data_spec`.

    attention: what `training.working_attention` found. warmup: its steps, where a run goes on.
    """
    model_def = build_model_def(config, data_spec, mesh, attention=attention)
    task, graph, rules = model_def.task, model_def.graph, model_def.rules
    optimizer = build_optimizer(config, graph.axes())
    warmup = warmup_steps(config) if warmup is None else warmup
    schedule = build_schedule(config, warmup)
    abstract_state, initialize = create_state(
        model_def, optimizer, seed=config.seed, ema=config.train.ema_decay is not None
    )
    everywhere = replicated(mesh)
    update = functools.partial(
        train_step,
        task=task,
        graph=graph,
        optimizer=optimizer,
        schedule=schedule,
        seed=config.seed,
        accumulation=config.train.gradient_accumulation,
        ema_decay=config.train.ema_decay,
        branch=_branches(mesh),
    )
    return TrainProgram(
        model_def=model_def,
        abstract_state=abstract_state,
        schedule=schedule,
        warmup_steps=warmup,
        flops_per_example=flops_per_example(config, abstract_state.params, data_spec),
        initialize=initialize,
        trained=frozenset(flat(optimizer.moving(abstract_state.params))),
        # State: sharded by the axes of its parameters, in and out, its buffers reused.
        # Batch: rows over `data` and `fsdp`. Metrics: the same on every device.
        train_step=compile_for_mesh(
            update,
            mesh=mesh,
            rules=rules,
            donate_argnums=0,
            out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, abstract_state), everywhere),
        ),
        mean_statistics=compile_for_mesh(
            functools.partial(mean_statistics, task=task, graph=graph, seed=config.seed),
            mesh=mesh,
            rules=rules,
            out_shardings=everywhere,
        ),
    )


def _branches(mesh: Mesh) -> bool:
    """Return whether the step branches around the optimizer (`train_step`)."""
    return mesh.devices.flat[0].platform == "cpu"
