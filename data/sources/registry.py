"""Lists all sources by name, and opens them."""

from collections.abc import Callable
from typing import Any

from configs.errors import UsageError
from configs.schema.source import UserFiles
from data.progress import Progress, silent
from data.remote_files import local_files
from data.sources import (
    conversations,
    dates,
    digits,
    image_folder,
    parallel_text,
    prepared,
    python_stdlib,
    sound_manifest,
    tables,
    text_files,
    tones,
    views,
    webdataset,
)
from data.sources.files import hold_archives
from data.sources.rows import Reader, open_rows
from data.sources.source import Source

SOURCES: dict[str, tuple[Reader, type[views.View]]] = {
    "python_stdlib": (python_stdlib.open_modules, views.FileTexts),
    "text_files": (text_files.open_files, views.FileTexts),
    "records": (tables.open_tables, views.Texts),
    "tfds": (prepared.open_prepared, views.Texts),
    "table": (tables.open_tables, views.LabelledTexts),
    "conversations": (conversations.open_conversations, conversations.Conversations),
    "parallel_text": (parallel_text.open_pairs, views.Pairs),
    "tfds_pairs": (prepared.open_prepared, views.Pairs),
    "image_folder": (image_folder.open_folder, views.FilePictures),
    "tfds_pictures": (prepared.open_prepared, views.Pictures),
    "sound_transcripts": (sound_manifest.open_manifests, views.ListedRecordings),
    "sound_labels": (sound_manifest.open_manifests, views.ListedLabelledRecordings),
    "tfds_sound_transcripts": (prepared.open_prepared, views.Recordings),
    "tfds_sound_labels": (prepared.open_prepared, views.LabelledRecordings),
    "webdataset": (webdataset.open_shards, views.Texts),
    "webdataset_table": (webdataset.open_shards, views.LabelledTexts),
    "webdataset_pairs": (webdataset.open_shards, views.Pairs),
    "webdataset_pictures": (webdataset.open_shards, views.Pictures),
    "webdataset_sound_transcripts": (webdataset.open_shards, views.Recordings),
    "webdataset_sound_labels": (webdataset.open_shards, views.LabelledRecordings),
}
"""Each source's reader, which finds rows, and the view that makes raw examples of them."""

GENERATED: dict[str, Callable[[Any], Source]] = {
    "dates": dates.open_source,
    "digits": digits.open_source,
    "tones": tones.open_source,
}
"""The sources that make their examples themselves."""


def open_source(settings: Any, progress: Progress = silent) -> Source:
    """Open the source named by `settings` (the configuration's `data`). Data in an object store is
    copied first.

    progress: reports only what takes long.

    Raises UsageError, and StorageError if a store can't be read.
    """
    if settings.source in GENERATED:
        return GENERATED[settings.source](settings)
    settings = settings.model_copy(update=local_files(settings, progress))
    try:
        return open_rows(settings, *SOURCES[settings.source], progress)
    except UsageError as error:
        if hint := _hint_at_shards(settings):
            raise UsageError(f"{error}{hint}") from None
        raise


def open_sources(settings: Any, progress: Progress = silent) -> tuple[Source, ...]:
    """Open all sources of a mixture; for other settings, open the single source. progress: as in
    `open_source`."""
    members = settings.part_settings() if settings.source == "mixture" else (settings,)
    return tuple(open_source(one, progress) for one in members)


def _hint_at_shards(settings: Any) -> str:
    """Return, for data that can't be opened, which source reads the tar files at `data.path`; an
    empty text if it has none."""
    reader, own = SOURCES[settings.source]
    if reader is webdataset.open_shards or not isinstance(settings, UserFiles) or not settings.path:
        return ""
    shards = [  # the most particular one last
        name
        for name, (reader, view) in SOURCES.items()
        if reader is webdataset.open_shards and issubclass(own, view)
    ]
    if not shards or not hold_archives(settings.path):
        return ""
    return f". Tar files that are shards of WebDataset are read by data.source={shards[-1]}"
