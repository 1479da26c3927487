"""Sends the metrics of a run to Weights & Biases, if `train.wandb_project` is set. Needs the extra
`wandb`."""

import secrets
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from configs.errors import UsageError
from configs.files import write_durably
from configs.schema.config import Config

NAME = "wandb-run-id"
"""Name of a file in the workdir with the id of the W&B run. A resumed run reads it, and continues
the same W&B run."""


def require_wandb(config: Config) -> None:
    """Raise `UsageError` if `train.wandb_project` is set and wandb is not installed."""
    if config.train.wandb_project is None:
        return
    try:
        metadata.version("wandb")
    except metadata.PackageNotFoundError:
        raise UsageError(
            "train.wandb_project needs the package wandb: pip install -e '.[wandb]', or leave "
            "the field out"
        ) from None


class WandbLog:
    """Sends metrics to the project `train.wandb_project`, as one W&B run across all restarts.

    `WANDB_MODE=offline` keeps them in the workdir for `wandb sync`, and needs no account.
    """

    def __init__(self, config: Config, workdir: Path, notify: Callable[[str], None]):
        import wandb

        path = workdir / NAME
        if not path.exists():
            write_durably(path, secrets.token_hex(4))
        try:
            self._run = wandb.init(
                project=config.train.wandb_project,
                name=workdir.name,
                id=path.read_text().strip(),
                resume="allow",
                dir=workdir,
                config=config.model_dump(mode="json"),
                settings=wandb.Settings(silent=True),
            )
        except wandb.Error as error:
            raise UsageError(
                f"train.wandb_project={config.train.wandb_project}: {error} (WANDB_MODE=offline "
                "needs no account)"
            ) from None
        # A run that was killed resumes a few steps back; W&B's own step count would refuse them.
        self._run.define_metric("*", step_metric="step")
        where = f"offline, in {self._run.dir}" if self._run.offline else self._run.url
        notify(f"Weights & Biases: {where}")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send the metrics of `step`."""
        self._run.log({"step": step, **metrics})

    def close(self) -> None:
        """Wait until everything is sent."""
        self._run.finish()
