"""Default configurations as `ml_collections.ConfigDict`s, the starting points of recipes.

The dictionaries are locked: a line that sets an unknown field raises an error.
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
    """Return the default configuration of a language model.

    task: "language_modeling" or "masked_language_modeling".
    """
    return _config(task, source, architecture, tokenizer)


def image_classification(*, source: str = "digits", architecture: str = "cnn") -> ConfigDict:
    """Return the default configuration of an image classifier."""
    return _config("classification", source, architecture)


def text_classification(*, tokenizer: str = "bpe", architecture: str = "encoder") -> ConfigDict:
    """Return the default configuration of a text classifier. The data is a table (`Table`)."""
    return _config("classification", "table", architecture, tokenizer)


def speech_recognition(
    *, source: str = "tones", tokenizer: str = "characters", architecture: str = "conformer"
) -> ConfigDict:
    """Return the default configuration of a speech recogniser."""
    config = _config("speech_recognition", source, architecture, tokenizer)
    config.checkpoint.best_metric = "wer"
    return config


def sound_classification(
    *, source: str = "sound_labels", architecture: str = "conformer"
) -> ConfigDict:
    """Return the default configuration of an audio classifier."""
    config = _config("classification", source, architecture)
    config.checkpoint.best_metric = "accuracy"
    return config


def sequence_to_sequence(
    *, source: str = "parallel_text", tokenizer: str = "bpe", architecture: str = "encoder_decoder"
) -> ConfigDict:
    """Return the default configuration of a model that generates target texts from source texts."""
    return _config("sequence_to_sequence", source, architecture, tokenizer)


def section(path: str, kind: str) -> ConfigDict:
    """Return the defaults of one kind of a section, such as `section("data.tokenizer", "bpe")`.

    path: the path of the section.
    kind: the name of the kind.

    Raises ValueError for an unknown kind.
    """
    members: tuple[type[Settings], ...] = (Config,)
    for name in path.split("."):
        info = next(one.model_fields[name] for one in members if name in one.model_fields)
        members = kinds(info)
    for member in members:
        if kind_name(member) == kind:
            return _defaults(member())
    raise ValueError(f"{path} is one of {', '.join(map(str, map(kind_name, members)))}, not {kind}")


def _config(task: str, source: str, architecture: str, tokenizer: str | None = None) -> ConfigDict:
    config = _defaults(Config())
    config.task = section("task", task)
    config.data = section("data", source)
    if tokenizer is not None:
        config.data.tokenizer = section("data.tokenizer", tokenizer)
    config.model = section("model", architecture)
    return config


def _defaults(settings: Settings) -> ConfigDict:
    return ConfigDict(settings.model_dump()).lock()
