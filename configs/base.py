"""What recipes start from: the schema's defaults as `ml_collections.ConfigDict`s.

They are locked: a recipe that sets a field which is not there fails in that line.
"""

from ml_collections import ConfigDict

from configs.schema.config import Config
from configs.schema.settings import Settings, kind_name, kinds


def language_modeling(
    *,
    source: str = "python_stdlib",
    tokenizer: str = "bpe",
    architecture: str = "decoder",
    task: str = "language_modeling",
) -> ConfigDict:
    """A language model on a source of text; `task` may be masked_language_modeling."""
    config = _defaults(Config())
    config.task = section("task", task)
    config.data = section("data", source)
    config.data.tokenizer = section("data.tokenizer", tokenizer)
    config.model = section("model", architecture)
    return config


def image_classification(*, source: str = "digits", architecture: str = "cnn") -> ConfigDict:
    """A classifier on a source of labelled pictures."""
    config = _defaults(Config())
    config.task = section("task", "classification")
    config.data = section("data", source)
    config.model = section("model", architecture)
    return config


def text_classification(*, tokenizer: str = "bpe", architecture: str = "encoder") -> ConfigDict:
    """A classifier on a table of labelled texts."""
    config = _defaults(Config())
    config.task = section("task", "classification")
    config.data = section("data", "table")
    config.data.tokenizer = section("data.tokenizer", tokenizer)
    config.model = section("model", architecture)
    return config


def speech_recognition(
    *, source: str = "tones", tokenizer: str = "characters", architecture: str = "conformer"
) -> ConfigDict:
    """A recogniser of what is said, on a source of recordings with transcripts."""
    config = _defaults(Config())
    config.task = section("task", "speech_recognition")
    config.data = section("data", source)
    config.data.tokenizer = section("data.tokenizer", tokenizer)
    config.model = section("model", architecture)
    config.checkpoint.best_metric = "wer"
    return config


def sound_classification(
    *, source: str = "sound_labels", architecture: str = "conformer"
) -> ConfigDict:
    """A classifier on a source of labelled recordings."""
    config = _defaults(Config())
    config.task = section("task", "classification")
    config.data = section("data", source)
    config.model = section("model", architecture)
    config.checkpoint.best_metric = "accuracy"
    return config


def sequence_to_sequence(
    *,
    source: str = "parallel_text",
    tokenizer: str = "bpe",
    architecture: str = "encoder_decoder",
) -> ConfigDict:
    """A model that writes one text for another, on a source of pairs."""
    config = _defaults(Config())
    config.task = section("task", "sequence_to_sequence")
    config.data = section("data", source)
    config.data.tokenizer = section("data.tokenizer", tokenizer)
    config.model = section("model", architecture)
    return config


def section(path: str, kind: str) -> ConfigDict:
    """The defaults of one kind of a section: `section("data.tokenizer", "bpe")`.

    Raises ValueError for a kind that is not there.
    """
    members: tuple[type[Settings], ...] = (Config,)
    for name in path.split("."):
        info = next(one.model_fields[name] for one in members if name in one.model_fields)
        members = kinds(info)
    for member in members:
        if kind_name(member) == kind:
            return _defaults(member())
    raise ValueError(f"{path} is one of {', '.join(map(str, map(kind_name, members)))}, not {kind}")


def _defaults(settings: Settings) -> ConfigDict:
    return ConfigDict(settings.model_dump()).lock()
