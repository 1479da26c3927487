"""Opens a model that was exported, here or by another project, so that every command can use it as
the model of a workdir. JAX starts only when arrays are read."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError, blaming
from configs.reading.inputs import TOKENIZER, is_hugging_face, path_hint, tokenizer_file
from configs.reading.validation import build_config
from configs.schema.config import Config
from data.codecs.tokenizers import Tokenizer, from_json
from interop.deriving import derive, load_tokenizer, special_tokens_of
from interop.exported import NAME, Exported
from interop.folder import CONFIG
from interop.formats.registry import READERS, file_reader, reader

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from training.model_def import ModelDef
    from training.restore import Restored
    from training.trees import Tree

MOST_FAULTS = 3
"""Arrays that an error message names."""


@dataclass(frozen=True)
class Opened:
    """An exported model whose arrays are not read yet.

    path: its folder or file. exported: its description. config: its configuration. read_tokenizer:
    its tokenizer, if it was read already.
    """

    path: Path
    exported: Exported
    config: Config
    read_tokenizer: Tokenizer | None = None

    @property
    def name(self) -> str:
        """Return a name for the model."""
        return self.path.resolve().stem if self.path.is_file() else self.path.resolve().name

    @property
    def is_foreign(self) -> bool:
        """Return whether another project trained the model: there is no data of it."""
        return self.exported.is_foreign

    @functools.cached_property
    def tokenizer(self) -> Tokenizer | None:
        """Return its tokenizer; None for a model that reads no text. Raises `UsageError` if it is
        missing or damaged."""
        if self.read_tokenizer is not None or not self.config.data.has_tokenizer:
            return self.read_tokenizer
        where = self.path if self.path.is_file() else self.path / NAME
        special = special_tokens_of(self.exported.special_tokens, where)
        if (file := file_reader(self.path)) is not None:
            text = file.read_tokenizer(self.path)
            if text is None:
                raise UsageError(f"{self.path} has no tokenizer")
            try:
                return from_json(text, special)
            except Exception as error:  # the library raises only this type
                raise UsageError(f"{self.path} is damaged: its tokenizer: {error}") from None
        return load_tokenizer(tokenizer_file(self.path) or self.path / TOKENIZER, special)

    def model_def(self, mesh: "Mesh", *, attention: str | None = None) -> "ModelDef":
        """Return the definition of the model on a mesh."""
        from training.model_def import build_model_def

        return build_model_def(self.config, self.exported.data_spec, mesh, attention=attention)

    def arrays(self, model_def: "ModelDef") -> tuple[Mapping[str, NDArray], Mapping[str, NDArray]]:
        """Read the parameters and the batch statistics, by their dotted names. Raises `UsageError`
        if one is missing, unknown or has another shape; the message names it."""
        with blaming(f"{self.path} can't be read"):
            params, statistics = reader(self.exported.format).read_arrays(self.path, model_def)
        self._check(params, model_def.own_params)
        self._check(statistics, model_def.abstract_statistics)
        return params, statistics

    def restore(self, mesh: "Mesh", warn: Callable[[str], None]) -> "Restored":
        """Read the arrays onto a mesh. Raises `UsageError` as `arrays` does. warn: as in
        `training.restore.restore_model`."""
        from training.attention import working_attention
        from training.restore import Restored

        model_def = self.model_def(mesh, attention=working_attention(self.config, mesh, warn))
        params, statistics = self.arrays(model_def)
        return Restored(
            self.exported.step,
            self.manifest,
            model_def,
            _placed(params, model_def.abstract_params),
            _placed(statistics, model_def.abstract_statistics),
        )

    @property
    def manifest(self) -> dict[str, Any]:
        """Return what stands for the manifest of a checkpoint."""
        return asdict(self.exported)

    def on_data_of(
        self, config: Config, data: Mapping[str, Any], tokenizer: Tokenizer | None
    ) -> "Opened":
        """Return the model for the task and the data of a run.

        config: the run's configuration; its section `model` is replaced by that of this model.
        data: the field `data` of its manifest. tokenizer: its tokenizer. Raises `UsageError` if the
        model is for another task, or has other classes or tokens.
        """
        own = self.config
        if (own.task.model_output, own.data.modality) != (
            config.task.model_output,
            config.data.modality,
        ):
            raise UsageError(
                f"--from={self.path} was trained for {_use(own)}, and --workdir for {_use(config)}"
            )
        classes = self.exported.data_spec.classes, DataSpec.from_manifest(data).classes
        if classes[0] != classes[1]:
            raise UsageError(
                f"--from={self.path} has the classes {_listed(classes[0])}, and the data of "
                f"--workdir {_listed(classes[1])}"
            )
        if tokenizer is not None and self.tokenizer is not None:
            ours, theirs = self.tokenizer.vocabulary(), tokenizer.vocabulary()
            # A run adds a separator to the tokens of another project.
            if ours != theirs and not (self.is_foreign and ours.items() <= theirs.items()):
                raise UsageError(
                    f"--from={self.path} reads other tokens than the data of --workdir have"
                )
        values = config.model_dump() | {"model": own.model.model_dump()}
        values["precision"]["parameter_dtype"] = own.precision.parameter_dtype
        values["train"]["lora"]["rank"] = None
        joined = build_config(values, {}, source=f"--from={self.path} on the data of --workdir")
        return replace(self, exported=replace(self.exported, data=dict(data)), config=joined)

    def _check(self, arrays: Mapping[str, NDArray], abstract: "Tree") -> None:
        from training.trees import flat

        wanted = flat(abstract)
        faults = [f"lacks {name}" for name in sorted(wanted.keys() - arrays.keys())]
        faults += [
            f"has {name}, which is unknown" for name in sorted(arrays.keys() - wanted.keys())
        ]
        faults += [
            f"has {name} of shape {list(arrays[name].shape)} in place of {list(leaf.shape)}"
            for name, leaf in wanted.items()
            if name in arrays and arrays[name].shape != leaf.shape
        ]
        if faults:
            left = len(faults) - MOST_FAULTS
            more = f", and {left} more faults" if left > 0 else ""
            listed = "; ".join(faults[:MOST_FAULTS])
            raise UsageError(f"{self.path} does not fit the model: it {listed}{more}")


def open_model(path: Path, overrides: Mapping[str, str] | None = None) -> Opened:
    """Read the description of an exported model, or make one of a folder that another project
    wrote.

    overrides: new values of fields of its configuration. Raises `UsageError` if `path` holds no
    model, or is damaged.
    """
    exported, where, tokenizer = _description(path)
    if exported.format not in READERS:
        names = ", ".join(READERS)
        raise UsageError(f"{where} is damaged: format={exported.format} is none of {names}")
    return Opened(path, exported, exported.configuration(overrides, where=where), tokenizer)


def _description(path: Path) -> tuple[Exported, Path, Tokenizer | None]:
    """Return the description of a model, the file that has it, and the tokenizer if it was read."""
    if not path.exists():
        raise UsageError(f"--from={path} is not there{path_hint(str(path))}")
    if path.is_file():
        if (file := file_reader(path)) is not None:
            with blaming(f"{path} can't be read"):
                return file.read_description(path), path, None
        raise UsageError(f"--from={path} is a file: give its folder, {path.parent}")
    described = path / NAME
    if described.is_file():
        try:
            return Exported.read(described.read_text(encoding="utf-8"), described), described, None
        except (OSError, ValueError) as error:
            raise UsageError(f"{described} is damaged: {error}") from None
    if (path / "checkpoints").is_dir():
        raise UsageError(f"--from={path} is the workdir of a run: give --workdir={path}")
    if is_hugging_face(path):
        with blaming(f"{path} can't be read"):
            exported, tokenizer = derive(path)
        return exported, path / CONFIG, tokenizer
    raise UsageError(
        f"--from={path} holds no model: it has neither {NAME} (of export.py) nor config.json and "
        "model.safetensors (of transformers)"
    )


def _use(config: Config) -> str:
    return f"{config.task.name} on {config.data.modality.replace('_', ' ')}"


def _listed(classes: Sequence[str] | None) -> str:
    names = classes or ()
    shown = ", ".join(names[:MOST_FAULTS])
    return shown if len(names) <= MOST_FAULTS else f"{shown} ... ({len(names)})"


def _placed(arrays: Mapping[str, NDArray], abstract: "Tree") -> "Tree":
    """Return the arrays of a tree on the devices, with the shardings of `abstract`, in its dtypes
    or larger ones: averages are float32 whatever the parameters are."""
    import jax
    import jax.numpy as jnp

    from training.trees import flat, nested

    def placed(array: NDArray, leaf: Any) -> jax.Array:
        dtype = jnp.promote_types(array.dtype, leaf.dtype)
        return jax.make_array_from_callback(
            array.shape, leaf.sharding, lambda index: array[index].astype(dtype)
        )

    return nested({name: placed(arrays[name], leaf) for name, leaf in flat(abstract).items()})
