"""The whole configuration: one field for each section."""

from typing import Self

import pydantic

from configs.schema.checkpoint import Checkpoint
from configs.schema.data import Data, PythonStdlib
from configs.schema.mesh import Mesh
from configs.schema.model import Decoder, Model
from configs.schema.optimizer import AdamW, Optimizer
from configs.schema.precision import Precision
from configs.schema.rules import check_sections
from configs.schema.settings import NonNegativeInteger, Settings, field
from configs.schema.task import LanguageModeling, Task
from configs.schema.train import Train


class Config(Settings):
    """The whole configuration of a run, immutable."""

    seed: NonNegativeInteger = field(
        0,
        "Seed of all random choices: weights, order of the data, dropout, samples.",
        aliases=("random_seed",),
    )
    task: Task = field(LanguageModeling(), "What is learnt.")
    train: Train = field(Train(), "How long training lasts, and what happens during it.")
    data: Data = field(PythonStdlib(), "What is read, and how it becomes examples.")
    model: Model = field(Decoder(), "What is trained.")
    optimizer: Optimizer = field(AdamW(), "How gradients become updates.")
    mesh: Mesh = field(Mesh(), "Layout of the devices.")
    precision: Precision = field(Precision(), "Number formats.")
    checkpoint: Checkpoint = field(Checkpoint(), "Which checkpoints of a run are kept.")

    @pydantic.model_validator(mode="after")
    def _check_sections(self) -> Self:
        check_sections(self)
        return self
