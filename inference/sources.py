"""Where a command takes a trained model from: the workdir of a run (--workdir), or a model that was
exported, here or by another project (--from). JAX starts only when arrays are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from configs.errors import UsageError
from configs.reading.command_line import Flag
from configs.reading.inputs import TOKENIZER, is_exported, is_hugging_face
from configs.reading.saved import read_config
from configs.remote import ANY, NONE, check_place, is_remote
from configs.schema.config import Config

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from data.codecs.tokenizers import Tokenizer
    from interop.opening import Opened
    from training.restore import Restored

MODEL_FLAGS = (
    Flag("workdir", meaning="the folder that train.py wrote, or its mirror", placeholder="DIR"),
    Flag(
        "from",
        meaning="in its place: what export.py wrote, or a folder of transformers",
        placeholder="PATH",
    ),
    Flag("step", meaning="with --workdir: a checkpoint's number, `best` or `latest` (latest)"),
    Flag(
        "weights",
        meaning="with --workdir: the averaged or the raw weights",
        choices=("ema", "raw"),
    ),
)
"""The flags of a command that uses a trained model."""


class ModelSource(Protocol):
    """A trained model whose arrays are not read yet. path: its folder or file."""

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> Config: ...

    @property
    def name(self) -> str:
        """Return a name for the model."""
        ...

    @property
    def is_foreign(self) -> bool:
        """Return whether another project trained the model: there is no data of it."""
        ...

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """Return its tokenizer; None for a model that reads no text. Raises `UsageError` if it is
        missing or damaged."""
        ...

    def restore(self, mesh: "Mesh", warn: Callable[[str], None]) -> "Restored":
        """Read the arrays onto a mesh, after checking them. Raises `UsageError` if they are damaged
        or do not fit."""
        ...


@dataclass(frozen=True)
class Workdir:
    """A step of a run. step, weights: as in `training.restore.restore_model`.

    url: of the run, if it is in an object store; `path` is then the folder of the cache to which
        the step is copied when it is restored.
    """

    path: Path
    config: Config
    step: str = "latest"
    weights: str | None = None
    url: str | None = None

    is_foreign: ClassVar = False

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def tokenizer(self) -> "Tokenizer | None":
        from data.codecs.tokenizers import Tokenizer

        if not self.config.data.has_tokenizer:
            return None
        try:
            return Tokenizer.load(self.path / TOKENIZER)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def restore(self, mesh: "Mesh", warn: Callable[[str], None]) -> "Restored":
        from training.restore import restore_model

        step = self.step
        if self.url is not None:
            from training.fetching import fetch_model

            step = str(fetch_model(self.url, self.path, self.config, step, warn))
        return restore_model(
            self.path, self.config, step=step, weights=self.weights, mesh=mesh, warn=warn
        )


def model_source(
    workdir: str | None,
    path: str | None,
    step: str | None,
    weights: str | None,
    overrides: Mapping[str, str] | None = None,
) -> ModelSource:
    """Return the model that a command line names: the values of `MODEL_FLAGS`, in their order.

    overrides: new values of fields of its configuration. Raises `UsageError` unless exactly one of
    --workdir and --from is given, and for one that holds no model.
    """
    if workdir is not None and path is not None:
        raise UsageError(f"--workdir={workdir} and --from={path} each name a model: give one")
    if path is not None:
        return exported_source(path, step, weights, overrides)
    if workdir is None:
        raise UsageError(
            "--workdir is missing: --workdir=DIR (the folder that train.py wrote), or --from=PATH "
            "(what export.py wrote, or a folder of transformers)"
        )
    return workdir_source(workdir, step or "latest", weights, overrides)


def workdir_source(
    workdir: str, step: str, weights: str | None, overrides: Mapping[str, str] | None = None
) -> Workdir:
    """Return a step of a workdir, which may be in an object store.

    overrides: as in `model_source`. Raises `UsageError` if there is no run, `StorageError` if a
    store can't be read.
    """
    check_place("--workdir=", workdir, ANY, "give one of these")
    if not is_remote(workdir):
        return Workdir(Path(workdir), read_config(workdir, overrides), step, weights)
    from storage.runs import fetch_settings

    url = workdir.rstrip("/")
    folder = fetch_settings(url)
    return Workdir(folder, read_config(folder, overrides), step, weights, url)


def exported_source(
    path: str | Path,
    step: str | None,
    weights: str | None,
    overrides: Mapping[str, str] | None = None,
) -> "Opened":
    """Return the model of --from. Raises `UsageError` for flags that are for workdirs only."""
    from interop.opening import open_model

    check_place("--from=", path, NONE, "download it first")
    for name, value in (("step", step), ("weights", weights)):
        if value is not None:
            raise UsageError(
                f"--{name}={value} chooses among the checkpoints of a workdir, and --from has one "
                "model: leave it out"
            )
    return open_model(Path(path), overrides)


def source_on_data_of(source: "Opened", workdir: Path, overrides: Mapping[str, str]) -> "Opened":
    """Return an exported model for the task and the data of a workdir. overrides: new values of
    fields of the workdir's configuration.

    Raises `UsageError` if it does not fit them, or if the workdir has no checkpoint.
    """
    from training.checkpoints import newest_manifest

    config = read_config(workdir, overrides)
    manifest = newest_manifest(workdir / "checkpoints")
    if manifest is None:
        raise UsageError(f"{workdir / 'checkpoints'} holds no checkpoint: train first")
    return source.on_data_of(config, manifest["data"], Workdir(workdir, config).tokenizer)


def source_at(path: Path | str, step: str = "latest", weights: str | None = None) -> ModelSource:
    """Return the model at `path`: a workdir, an exported model or a folder of transformers.

    step, weights: of a workdir, as in `training.restore.restore_model`. Raises `UsageError` if
    there is no model, or if they are given for another one than a workdir's.
    """
    if is_remote(path):
        return workdir_source(str(path), step, weights)
    path = Path(path)
    if path.is_file() or is_exported(path) or is_hugging_face(path):
        return exported_source(path, None if step == "latest" else step, weights)
    return Workdir(path, read_config(path), step, weights)
