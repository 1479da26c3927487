"""The parameters that a run trains, and those that stay frozen."""

from collections.abc import Sequence

from configs.errors import UsageError
from configs.schema.config import Config
from training.trees import matching

LORA = "lora"
"""Where the parameters have the pairs of matrices that `training.lora` trains."""


def frozen_names(config: Config, names: Sequence[str]) -> set[str]:
    """Return the parameters that stay as they are. Raises `UsageError` where all would."""
    train = config.train
    if train.lora.rank is not None:
        own = [name for name in names if not name.startswith(f"{LORA}.")]
        also = [
            matching(own, pattern, "train.lora.train_also") for pattern in train.lora.train_also
        ]
        return set(own).difference(*also)
    frozen = set().union(*(matching(names, p, "train.freeze") for p in train.freeze))
    if len(frozen) == len(names):
        raise UsageError(f"train.freeze={','.join(train.freeze)} leaves nothing to train")
    return frozen
