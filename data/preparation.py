"""Prepares the data that a configuration describes: writes it to the cache once, then opens it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from data.cache import build_once, cache_dir, digest
from data.conversations import ConversationPreparation
from data.dataset import Dataset
from data.driver import Preparation
from data.labelled_text import LabelledTextPreparation
from data.pictures import PicturePreparation
from data.progress import Progress, silent
from data.remote_files import local_tokenizer
from data.show import describe_preparation, describe_unknown
from data.sound import SoundPreparation
from data.sources.places import describe_splits, layout_warnings, places, uneven_cuts
from data.sources.registry import open_sources
from data.text import TextPreparation
from data.text_pairs import PairPreparation

_METADATA = "metadata.json"

_KINDS: dict[str, type[Preparation]] = {
    "conversations": ConversationPreparation,
    "text": TextPreparation,
    "labelled_text": LabelledTextPreparation,
    "text_pairs": PairPreparation,
    "pictures": PicturePreparation,
    "transcribed_sound": SoundPreparation,
    "labelled_sound": SoundPreparation,
}
"""How examples are prepared, by the source or modality of the settings."""


def prepare(
    settings: Any,
    *,
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda line: None,
    inform: Callable[[str], None] | None = None,
) -> Dataset:
    """Return the data that `settings` (`config.data`) describe; prepare it if it is not cached.

    warn: called with a line of text for each problem in the data.
    inform: called with a line about the splits, and one for each result of cleaning, packing and
        padding. Without it, `warn` gets the latter. Cached data gives the same lines.

    The name of the cache folder contains a hash of the `key` of each source and the preparation's
    `cache_key`, which include all relevant settings and file hashes. So a changed file or setting
    gives a new folder. Raises UsageError if the source or the prepared data can't be used, and
    StorageError if it is in an object store that can't be read.
    """
    settings = settings.model_copy(update=local_tokenizer(settings, progress))
    sources = open_sources(settings, progress)
    kind = _KINDS.get(settings.source) or _KINDS[settings.modality]
    preparation = kind(sources, settings)
    source_key: Any = sources[0].key
    if settings.source == "mixture":
        source_key = [[source.name, source.key] for source in sources]
    cache_key = preparation.cache_key()
    contents = {"layout": preparation.layout, "source": settings.source, "contents": source_key}
    name = f"{settings.source}-{digest(contents | cache_key)[:24]}"
    folder = cache_dir(settings) / "prepared" / name
    prepared_by = {"source": digest(source_key), **json.loads(json.dumps(cache_key))}
    with build_once(folder) as temporary:
        if temporary is not None:
            metadata = preparation.write(temporary, progress)
            (temporary / _METADATA).write_text(json.dumps(metadata, indent=1))
    dataset = preparation.open(folder, json.loads((folder / _METADATA).read_text()))
    told = [line for source in sources for line in source.warnings]
    dataset = replace(
        dataset,
        warnings=(*told, *dataset.warnings),
        places=places(sources, settings, dataset.splits),
        prepared_by=prepared_by,
    )
    cuts = uneven_cuts(sources, settings, dataset.splits)
    warnings = (*dataset.warnings, *describe_unknown(dataset), *cuts, *layout_warnings(sources))
    for line in warnings:
        warn(line)
    if inform:
        inform(describe_splits(dataset))
    for line in describe_preparation(dataset):
        (inform or warn)(line)
    return dataset
