"""Writes the examples of a source to ArrayRecord files, once, as a TensorFlow dataset."""

import contextlib
import io
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from configs.errors import UsageError
from data.cache import build_once, digest
from data.progress import Progress, track
from data.sources.source import RawSplits, SequentialSource

VERSION = "1.0.0"
"""Version of the files' layout; files of a different version are not read."""


class _LocalInfo(tfds.core.DatasetInfo):
    """The description of a dataset that nobody has published."""

    def initialize_from_bucket(self) -> None:
        """Do nothing: the base class would ask for it in the network, and leave a folder in the
        system's folder of temporary files."""


class SourceBuilder(tfds.core.GeneratorBasedBuilder):
    """Builds a TensorFlow dataset of the examples of a source. TensorFlow itself is not needed."""

    VERSION = tfds.core.Version(VERSION)
    url_infos = None  # nothing is downloaded, so do not look for checksum files

    def __init__(self, source: SequentialSource, progress: Progress, **options: Any):
        self._source = source
        self._progress = progress
        self.mistake: UsageError | None = None  # the user's, found while reading
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict(self._source.features())
        return _LocalInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, download_manager: Any) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in self._source.splits}

    def _generate_examples(self, split: str):
        # Increasing keys keep the order. They are spread over 128 bits because the builder divides
        # data that does not fit into memory into a thousand buckets by the first bits of the keys.
        most = self._source.splits[split]
        step = 2**128 // (most + 1)
        examples = track(
            self._source.examples(split), self._progress, f"reading {split}", most, "examples"
        )
        try:
            for number, example in enumerate(examples):
                yield min(number, most) * step + max(0, number - most), example
        except UsageError as mistake:
            self.mistake = mistake
            raise


def open_examples(source: SequentialSource, cache: Path, progress: Progress) -> RawSplits:
    """Return the raw examples of each split of `source`, with random access.

    If the folder `cache` does not contain them, they are first written there. Images are returned
    as encoded bytes.
    """
    key = digest({"version": VERSION, "source": source.name, "contents": source.source_key()})
    folder = cache / "sources" / f"{source.name}-{key[:24]}"

    def build(temporary: Path) -> None:
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):  # stdout is for results only
            builder = _builder(source, progress, temporary)
            try:
                builder.download_and_prepare()
            except Exception:
                if builder.mistake is not None:  # without the text that TFDS adds
                    raise builder.mistake from None
                raise

    build_once(folder, build)
    encoded = {
        name: tfds.decode.SkipDecoding()
        for name, feature in source.features().items()
        if isinstance(feature, tfds.features.Image)
    }
    data = _builder(source, progress, folder).as_data_source(decoders=encoded or None)
    return {split: data[split] for split in source.splits}


def _builder(source: SequentialSource, progress: Progress, folder: Path) -> SourceBuilder:
    return SourceBuilder(source, progress, data_dir=folder, file_format="array_record")
