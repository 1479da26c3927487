"""The functions that a run compiles: initialisation, train step, mean of batch statistics."""

import functools
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
from configs.schema.model import ResNet
from model.architectures import parameter_count
from model.resnet_stages import has_large_stem
from parallel.axes import replicated
from training.flops import flops_per_example, peak
from training.model_def import ModelDef, build_model_def, compile_for_mesh
from training.optimizers import Optimizer, beside_parameters, build_optimizer
from training.schedules import build_schedule, warmup_steps
from training.step import TrainState, mean_statistics, train_step
from training.trees import Tree, flat, nested, select


@dataclass(frozen=True)
class TrainProgram:
    """Everything that is traced or compiled to train one model.

    abstract_state: shape, dtype and sharding of each array.
    initialize(params, statistics): returns a fresh sharded state, in which the given arrays replace
        initial values.
    warmup_steps, flops_per_example: as in `training.schedules` and `training.flops`.
    trained: names of the parameters that are not frozen.
    train_step(state, batch): the jitted train step, which donates the state.
    mean_statistics(params, mean, count, batch, number): the jitted function of this name in
        `training.step`, which donates nothing.
    """

    model_def: ModelDef
    abstract_state: TrainState
    schedule: optax.Schedule
    warmup_steps: int
    flops_per_example: float | None
    initialize: Callable[..., TrainState]
    trained: frozenset[str]
    train_step: jax.stages.Wrapped
    mean_statistics: Callable[..., Any]

    @property
    def config(self) -> Config:
        """Return the configuration of the run."""
        return self.model_def.config

    @property
    def mesh(self) -> Mesh:
        """Return the mesh of all arrays."""
        return self.model_def.mesh

    @property
    def batch_sharding(self) -> NamedSharding:
        """Return the sharding of a batch: its rows are split over the mesh."""
        return self.model_def.batch_sharding

    @property
    def trained_count(self) -> int:
        """Return the number of parameters that are not frozen."""
        return parameter_count(select(self.abstract_state.params, self.trained))

    @property
    def peak_examples_per_second(self) -> float | None:
        """Return the training throughput, in examples/s, at which the MFU (`training.flops`) is
        100 %. None if the peak FLOP/s of the devices or the FLOPs of a step are unknown."""
        device_peak = peak(self.mesh.devices.flat[0].device_kind)
        if device_peak is None or self.flops_per_example is None:
            return None
        return device_peak.flops * self.mesh.size / self.flops_per_example

    def batch_shape(self, example: Mapping[str, Any], global_batch_size: int) -> dict[str, Any]:
        """Return the shape, dtype and sharding of each array of the global batch.

        example: any batch of this process's rows.
        """
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
    """Build the program of `config` on `mesh`, for data described by `data_spec`.

    attention: the result of `working_attention`.
    warmup: number of warm-up steps; None takes that of a new run.

    Raises `UsageError` for settings that do not fit the data, the model or the devices.
    """
    check_repeatable(config, data_spec, mesh.devices.flat[0].platform)
    model_def = build_model_def(config, data_spec, mesh, attention=attention)
    task, graph, rules = model_def.task, model_def.graph, model_def.rules
    optimizer = build_optimizer(config, graph.axes())
    warmup = warmup_steps(config) if warmup is None else warmup
    schedule = build_schedule(config, warmup)
    abstract_state, initialize = _create_state(
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
        trained=frozenset(flat(optimizer.trainable(abstract_state.params))),
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


def check_repeatable(config: Config, data_spec: DataSpec, platform: str) -> None:
    """Raise `UsageError` if a step has to have the same result each time it is computed, and can't
    on this platform.

    On GPUs, the gradient of a maximum over patches that overlap has no deterministic form in XLA
    (docs/determinism.md of openxla/xla).
    """
    model, field = config.model, config.train.repeatable_field
    if platform != "gpu" or field is None or not isinstance(model, ResNet):
        return
    if has_large_stem(model.stem, (data_spec.image_shape or (1, 1))[:2]):
        raise UsageError(
            f"{field} can't be on GPUs with the max pooling of model.stem={model.stem}: use "
            f"model.stem=small, or leave out {field}"
        )


def _branches(mesh: Mesh) -> bool:
    """Return the argument `branch` of `train_step`: True on CPU."""
    return mesh.devices.flat[0].platform == "cpu"


def _create_state(
    model_def: ModelDef, optimizer: Optimizer, *, seed: int, ema: bool
) -> tuple[TrainState, Callable[..., TrainState]]:
    """Return the abstract state with its shardings, and the jitted `initialize(params,
    statistics)`, which makes a fresh sharded state.

    Given arrays replace the fresh ones. If the shapes differ, only the common part is replaced.
    """

    def initialize(params: Tree = None, statistics: Tree = None) -> TrainState:
        fresh = model_def.graph.initialize(jax.random.key(seed))
        params, statistics = map(_filled, fresh, (params, statistics))
        return _initial_state(params, statistics, optimizer=optimizer, ema=ema)

    abstract = jax.eval_shape(
        functools.partial(_initial_state, optimizer=optimizer, ema=ema),
        model_def.abstract_params,
        model_def.abstract_statistics,
    )
    shardings = _shardings(model_def, optimizer, abstract)
    placed = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
    return placed, jax.jit(initialize, out_shardings=shardings)


def _initial_state(
    params: Tree, statistics: Tree, *, optimizer: Optimizer, ema: bool
) -> TrainState:
    """Return the state before the first step, for these parameters and batch statistics."""
    trainable = optimizer.trainable(params)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        params=params,
        statistics=statistics,
        optimizer=optimizer.init(trainable),
        # In float32 (`train_step`), and a separate copy: the step donates both.
        ema=jax.tree.map(lambda p: jnp.array(p, jnp.float32), trainable) if ema else None,
        ema_statistics=jax.tree.map(jnp.copy, statistics) if ema else None,
    )


def _shardings(model_def: ModelDef, optimizer: Optimizer, abstract: TrainState) -> TrainState:
    """Return the sharding of each array of `abstract`. Moments and averages are sharded like their
    parameter; the optimizer's other arrays are replicated."""
    everywhere = replicated(model_def.mesh)
    params, statistics = (
        jax.tree.map(lambda leaf: leaf.sharding, tree)
        for tree in (model_def.abstract_params, model_def.abstract_statistics)
    )
    return abstract.replace(
        step=everywhere,
        skipped=everywhere,
        params=params,
        statistics=statistics,
        optimizer=beside_parameters(
            abstract.optimizer,
            model_def.abstract_params,
            lambda _, parameter: everywhere if parameter is None else parameter.sharding,
        ),
        ema=None if abstract.ema is None else optimizer.trainable(params),
        ema_statistics=None if abstract.ema is None else statistics,
    )


def _filled(fresh: Tree, given: Tree) -> Tree:
    """Return `fresh` with its leaves replaced by those of `given`, in `fresh`'s dtypes. If shapes
    differ, only the common part is replaced."""
    leaves = flat(fresh)
    for name, leaf in flat(given).items():
        initial = leaves[name]
        common = tuple(map(slice, map(min, leaf.shape, initial.shape)))
        leaf = leaf.astype(initial.dtype)
        same_shape = leaf.shape == initial.shape
        leaves[name] = leaf if same_shape else initial.at[common].set(leaf[common])
    return nested(leaves)
