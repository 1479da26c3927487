"""The whole configuration: one field for each section."""

from configs.schema.checkpoint import Checkpoint
from configs.schema.data import Data, PythonStdlib
from configs.schema.mesh import Mesh
from configs.schema.model import Decoder, Model
from configs.schema.optimizer import AdamW, Optimizer
from configs.schema.precision import Precision
from configs.schema.rules import check_sections
from configs.schema.serve import Serve
from configs.schema.settings import NonNegativeInteger, Settings, field
from configs.schema.task import LanguageModeling, Task
from configs.schema.train import Train


class Config(Settings):
    """The whole configuration of a run, immutable."""

    seed: NonNegativeInteger = field(
        0,
        "Seed of all random numbers: initial weights, order of the data, dropout, samples.",
        aliases=("random_seed",),
    )
    task: Task = field(LanguageModeling(), "The task: loss and metrics.")
    train: Train = field(Train(), "How long training lasts, and what happens during it.")
    data: Data = field(PythonStdlib(), "The training data, and how it becomes examples.")
    model: Model = field(Decoder(), "The architecture of the model, and its hyperparameters.")
    optimizer: Optimizer = field(AdamW(), "The optimizer, and its hyperparameters.")
    mesh: Mesh = field(Mesh(), "The device mesh, and how arrays are sharded over it.")
    precision: Precision = field(Precision(), "Data types (dtypes) of activations and parameters.")
    checkpoint: Checkpoint = field(Checkpoint(), "When checkpoints are saved, and which are kept.")
    serve: Serve = field(Serve(), "How the model is served, and the limits of the server.")

    def check(self) -> None:
        check_sections(self)
