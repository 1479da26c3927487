"""The definition of a model: everything that evaluation, generation and export need, except its
arrays.

`ModelGraph` is the Flax module without its arrays; `ModelDef` adds the configuration, the task and
the mesh with the sharding of each array.
"""

import copy
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from configs.data_spec import DataSpec
from configs.errors import UsageError
from configs.schema.config import Config
from model.architectures import build as build_model
from model.architectures import parameter_count
from model.layers.sharding import AXES, activation_sharding
from parallel.axes import Rules, activation_placement, named_sharding, replicated
from parallel.products import install_rules
from tasks.registry import TASKS, build
from tasks.task import Task
from training.lora import LoRA, lora_of
from training.parameters import LORA
from training.trees import Axes, LogicalAxes, Tree, nested


class ModelGraph:
    """A module without its arrays: its graph, and the path, shape, dtype and axes of each variable.

    The graph is split from its arrays once, when this is built. Inside a jitted step, `bind` builds
    the module from plain dictionaries, and `statistics_of` reads the batch statistics that a
    forward pass has updated.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module]):
        self._make = make
        self._lora: LoRA | None = None
        self._graph, *states = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param, ...)
        params, rest = states
        self._params = dict(nnx.to_flat_state(params))
        self._statistics = dict(nnx.to_flat_state(rest))

    def initialize(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Return newly initialised parameters and batch statistics, as nested dictionaries."""
        _, *states = nnx.split(self._make(nnx.Rngs(key)), nnx.Param, ...)
        param_state, rest = states
        params = _nested(nnx.to_flat_state(param_state))
        if self._lora is not None:
            params |= {LORA: self._lora.draw(params, key)}
        return params, _nested(nnx.to_flat_state(rest))

    def bind(self, params: Tree, statistics: Tree) -> nnx.Module:
        """Return the module with these arrays; LoRA pairs are merged into their matrices."""
        if self._lora is not None:
            params = self._lora.merge(params)
        state = [
            (path, variable.replace(_lookup(tree, path)))
            for tree, variables in ((params, self._params), (statistics, self._statistics))
            for path, variable in variables.items()
        ]
        return nnx.merge(self._graph, nnx.from_flat_state(state))

    def statistics_of(self, module: nnx.Module) -> Tree:
        """Return the current batch statistics of `module`."""
        return _nested(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param))))

    def axes(self) -> Tree:
        """Return the logical axes of each parameter, as a tree like that of the parameters."""
        axes = _nested(
            [(path, variable.get_metadata()[AXES]) for path, variable in self._params.items()],
            value=Axes,
        )
        return axes if self._lora is None else axes | {LORA: self._lora.axes()}

    def merged(self, params: Tree) -> tuple["ModelGraph", Tree]:
        """Return this graph without LoRA, and its parameters, with LoRA pairs merged into them."""
        if self._lora is None:
            return self, params
        graph = copy.copy(self)
        graph._lora = None
        return graph, self._lora.merge(params)

    def with_lora(self, config: Config) -> "ModelGraph":
        """Return this graph, with LoRA pairs among its parameters if `train.lora` is set.

        Raises `UsageError` as `lora_of` does.
        """
        graph = copy.copy(self)
        graph._lora = lora_of(config, self.axes())
        return graph


def make_model_graph(
    architecture: str,
    hyperparameters: dict[str, Any],
    *,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
    products: DTypeLike = jnp.float32,
) -> ModelGraph:
    """Build the graph of a registered architecture with these hyperparameters."""
    return ModelGraph(
        lambda rngs: build_model(
            architecture,
            dtype=dtype,
            param_dtype=param_dtype,
            products=products,
            rngs=rngs,
            **hyperparameters,
        )
    )


@dataclass(frozen=True)
class ModelDef:
    """A model on a mesh, without its arrays and without anything needed only for training.

    abstract_params, abstract_statistics: shape, dtype and sharding of each parameter and batch
        statistic.
    attention: the attention implementation; None for a model without attention.
    """

    config: Config
    mesh: Mesh
    task: Task
    data_spec: DataSpec
    graph: ModelGraph
    abstract_params: Tree
    abstract_statistics: Tree
    attention: str | None

    def bind(self, params: Tree, statistics: Tree) -> nnx.Module:
        """Return the module with these arrays."""
        return self.graph.bind(params, statistics)

    @property
    def rules(self) -> Rules:
        """Return the mesh axes of each logical axis."""
        return self.config.mesh.rules.model_dump()

    @property
    def batch_sharding(self) -> NamedSharding:
        """Return the sharding of a batch: its rows are split over the mesh."""
        return NamedSharding(self.mesh, PartitionSpec(tuple(self.rules["batch"])))

    @property
    def own_params(self) -> Tree:
        """Return `abstract_params` without the LoRA pairs."""
        return {name: leaf for name, leaf in self.abstract_params.items() if name != LORA}

    @property
    def parameter_count(self) -> int:
        """Return the number of parameters, including LoRA pairs and frozen ones."""
        return parameter_count(self.abstract_params)

    @property
    def evaluation_batch_size(self) -> int:
        """Return the global batch size of training, rounded up to a multiple of the number of batch
        shards."""
        shards = math.prod(self.mesh.shape[axis] for axis in self.config.mesh.rules.batch)
        return -(-self.config.data.global_batch_size // shards) * shards

    @functools.cached_property
    def evaluation_step(self) -> Callable[..., Any]:
        """Return the jitted function `evaluation_step(params, statistics, batch)`.

        It returns the task's sums over the batch, and the task's outputs and `weights` per example,
        all replicated.
        """
        return compile_for_mesh(
            functools.partial(_evaluation_step, task=self.task, graph=self.graph),
            mesh=self.mesh,
            rules=self.rules,
            out_shardings=replicated(self.mesh),
        )


def build_model_def(
    config: Config, data_spec: DataSpec, mesh: Mesh, *, attention: str | None = None
) -> ModelDef:
    """Build the model of `config` on `mesh`, for data described by `data_spec`.

    attention: the result of `working_attention`.

    Raises `UsageError` for settings that do not fit the data or the model.
    """
    task = _build_task(config, data_spec, mesh)
    _check_pixels(config, data_spec)
    hyperparameters = config.model.model_dump(exclude={"architecture"})
    hyperparameters |= data_spec.model_arguments()
    if task.extra_tokens:
        hyperparameters["vocabulary_size"] += task.extra_tokens
    if attention is not None:
        hyperparameters["attention"] = attention
    install_rules()
    graph = make_model_graph(
        config.model.architecture,
        hyperparameters,
        dtype=compute_dtype(config, mesh),
        param_dtype=jnp.dtype(config.precision.parameter_dtype),
        products=jnp.dtype(config.precision.products),
    ).with_lora(config)
    params, statistics = jax.eval_shape(graph.initialize, jax.random.key(0))
    rules, everywhere = config.mesh.rules.model_dump(), replicated(mesh)

    def placed(leaf: Any, axes: LogicalAxes) -> jax.ShapeDtypeStruct:
        sharding = named_sharding(axes, leaf.shape, mesh=mesh, rules=rules)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return ModelDef(
        config=config,
        mesh=mesh,
        task=task,
        data_spec=data_spec,
        graph=graph,
        abstract_params=jax.tree.map(placed, params, graph.axes()),
        abstract_statistics=jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
            statistics,
        ),
        attention=attention,
    )


def compile_for_mesh(
    step: Callable[..., Any], *, mesh: Mesh, rules: Rules, **jit_options: Any
) -> jax.stages.Wrapped:
    """Return `jax.jit(step)`, with the model's activations sharded over `mesh` according to
    `rules`."""
    sharded = activation_sharding(activation_placement(mesh, rules))
    return jax.jit(sharded(step), **jit_options)


def compute_dtype(config: Config, mesh: Mesh) -> jnp.dtype:
    """Return the dtype of activations; `auto` is bfloat16 on accelerators and float32 on CPU."""
    name = config.precision.compute_dtype
    if name == "auto":
        name = "float32" if mesh.devices.flat[0].platform == "cpu" else "bfloat16"
    return jnp.dtype(name)


def _check_pixels(config: Config, data_spec: DataSpec) -> None:
    """Raise `UsageError` for numbers per channel that are not as many as the images' channels."""
    channels = (data_spec.image_shape or (1,))[-1]
    for name in ("pixel_mean", "pixel_std"):
        numbers = getattr(config.model, name, ())
        if len(numbers) not in (0, 1, channels):
            raise UsageError(
                f"model.{name} has {len(numbers)} numbers, but pictures have {channels} "
                f"channel{'s' * (channels > 1)}: give one number"
            )


def _build_task(config: Config, data_spec: DataSpec, mesh: Mesh) -> Task:
    """Build the task; the fields of its class select the settings and data properties that it gets.

    Raises `UsageError` if the settings do not fit the data's classes.
    """
    classes = data_spec.num_classes
    settings = config.task.model_dump()
    settings |= {"devices": mesh.size, "framing": data_spec.framing or ()}
    weights = settings.get("class_weights", ())
    if weights and len(weights) != classes:
        raise UsageError(
            f"task.class_weights has {len(weights)} numbers, but the data {classes} "
            "classes: give one for each, in the order of their names"
        )
    if config.checkpoint.best_metric == "accuracy_top5" and classes is not None and classes <= 5:
        raise UsageError(
            f"checkpoint.best_metric=accuracy_top5 says nothing of {classes} classes: use accuracy"
        )
    task: Any = TASKS[config.task.name]  # A `Protocol` can't say that it is a dataclass.
    names = [field.name for field in dataclasses.fields(task)]
    return build(config.task.name, **{name: settings[name] for name in names})


def _evaluation_step(
    params: Tree, statistics: Tree, batch: Mapping[str, jax.Array], *, task: Task, graph: ModelGraph
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Return the task's sums over one batch, and its outputs and `weights` per example."""
    sums, outputs = task.evaluate(graph.bind(params, statistics), batch)
    return sums, outputs | {"weights": batch["weights"]}


def _nested(variables: Any, value: Callable[[Any], Any] = lambda variable: variable[...]) -> Tree:
    """Build nested dictionaries with string keys from (path, variable) pairs."""
    return nested({".".join(map(str, path)): value(leaf) for path, leaf in variables})


def _lookup(tree: Tree, path: tuple[Any, ...]) -> Any:
    for part in path:
        tree = tree[str(part)]
    return tree
