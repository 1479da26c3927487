"""The schema's defaults as `ml_collections.ConfigDict`s, from which recipes start.

They are locked: a recipe that sets an unknown field fails in that line.
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
    """Return a language model on a source of text; `task` may be masked_language_modeling."""
    return _config(task, source, architecture, tokenizer)


def image_classification(*, source: str = "digits", architecture: str = "cnn") -> ConfigDict:
    """Return a classifier on a source of labelled pictures."""
    return _config("classification", source, architecture)


def text_classification(*, tokenizer: str = "bpe", architecture: str = "encoder") -> ConfigDict:
    """Return a classifier on a table of labelled texts."""
    return _config("classification", "table", architecture, tokenizer)


def speech_recognition(
    *, source: str = "tones", tokenizer: str = "characters", architecture: str = "conformer"
) -> ConfigDict:
    """Return a speech recogniser on a source of recordings with transcripts."""
    config = _config("speech_recognition", source, architecture, tokenizer)
    config.checkpoint.best_metric = "wer"
    return config


def sound_classification(
    *, source: str = "sound_labels", architecture: str = "conformer"
) -> ConfigDict:
    """Return a classifier on a source of labelled recordings."""
    config = _config("classification", source, architecture)
    config.checkpoint.best_metric = "accuracy"
    return config


def sequence_to_sequence(
    *, source: str = "parallel_text", tokenizer: str = "bpe", architecture: str = "encoder_decoder"
) -> ConfigDict:
    """Return a model that writes a target text for a source text, on a source of pairs."""
    return _config("sequence_to_sequence", source, architecture, tokenizer)


def section(path: str, kind: str) -> ConfigDict:
    """Return the defaults of one kind of a section: `section("data.tokenizer", "bpe")`.

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
