"""Lists all sources by name, and opens them."""

from collections.abc import Callable
from typing import Any

from data.sources import (
    conversations,
    dates,
    digits,
    image_folder,
    parallel_text,
    prepared,
    prepared_pictures,
    prepared_sound,
    python_stdlib,
    records,
    sound_manifest,
    text_files,
    tones,
)
from data.sources.source import Source

SOURCES: dict[str, Callable[[Any], Source]] = {
    "python_stdlib": python_stdlib.open_source,
    "text_files": text_files.open_source,
    "records": records.open_source,
    "tfds": prepared.open_source,
    "table": records.open_labelled,
    "conversations": conversations.open_source,
    "parallel_text": parallel_text.open_source,
    "tfds_pairs": prepared.open_pairs,
    "dates": dates.open_source,
    "digits": digits.open_source,
    "image_folder": image_folder.open_source,
    "tfds_pictures": prepared_pictures.open_source,
    "sound_transcripts": sound_manifest.open_transcripts,
    "sound_labels": sound_manifest.open_labels,
    "tfds_sound_transcripts": prepared_sound.open_transcripts,
    "tfds_sound_labels": prepared_sound.open_labels,
    "tones": tones.open_source,
}


def open_source(settings: Any) -> Source:
    """Open the source named by `settings` (the configuration's `data`). Raises UsageError."""
    return SOURCES[settings.source](settings)


def open_sources(settings: Any) -> tuple[Source, ...]:
    """Open all sources of a mixture; for other settings, open the single source."""
    members = settings.part_settings() if settings.source == "mixture" else (settings,)
    return tuple(map(open_source, members))
