"""Recordings and tables of them, which the tests of sound share."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from configs.errors import UsageError
from configs.schema.sound import SoundTranscripts
from data.preparation import prepare
from tests.data.test_sound_codec import voice

WORDS = ("one", "two", "three")
KINDS = ((8000, "WAV", 1), (16_000, "FLAC", 2), (44_100, "OGG", 1), (8000, "WAV", 2))
FORMS = [unicodedata.normalize(form, "naïve café") for form in ("NFC", "NFD")]


def record(path: Path, number: int) -> Path:
    """A recording of half a second and more, of one kind after another."""
    rate, codec, channels = KINDS[number % len(KINDS)]
    waveform = voice(0.5 + 0.05 * (number % 7), rate, pitch=150 + 40 * (number % 3))
    waveform = waveform + 1e-3 * np.random.default_rng(number).normal(size=len(waveform))
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path.with_suffix(f".{codec.lower()}")
    soundfile.write(path, np.stack([waveform] * channels, axis=1), rate, format=codec)
    return path


def write_table(path: Path, rows: list[dict]) -> None:
    """The rows as what the name of the file says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        lines = [separator.join(rows[0]), *(separator.join(map(str, one.values())) for one in rows)]
        path.write_text("\n".join(lines) + "\n")


def settings(folder: Path, kind: type = SoundTranscripts, **changes):
    options = {"sample_rate": 8000, "num_mels": 20, "cache_dir": str(folder.parent / "cache"),
               "broken_fraction": 0.3}  # fmt: skip
    return kind(path=str(folder), **options | changes)


def rows_of(folder: Path, split: str = "train") -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def warnings(folder: Path, **changes) -> list[str]:
    told: list[str] = []
    prepare(settings(folder, **changes), warn=told.append)
    return told


def refusal(folder: Path, *arguments, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(folder, *arguments, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)
