"""Prepares recordings as records: decodes each once, and adds its label or transcript tokens."""

import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data.broken import Broken
from data.cache import digest
from data.cleaning import Pieces, normalizer
from data.codecs.sound import LONGEST_SECONDS, LogMel, TooLong, Waveform
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, Split
from data.length_buckets import open_lengths, write_lengths
from data.progress import Progress, read_blocks, track
from data.records import write_names, write_records
from data.sound_augmentation import changes_waveforms
from data.sound_batches import SoundCodec
from data.sources.source import MadeExamples, RawExamples, RawSplits
from data.text import TOKENIZER, make_tokenizer, tokenizer_key

VERSION = 3
"""Part of the cache key. Increment it when this file makes different examples."""

SUBSAMPLING = 4
"""Warnings assume that a speech model shortens the sequence of frames by this factor."""

_AT_ONCE = 64

_FAR_LONGER = 20  # times the median length: a longer recording causes much padding, so warn


@dataclass(frozen=True)
class SoundPreparation:
    """Prepares recordings.

    source: the source of the recordings.
    settings: `config.data`.

    A raw example has a `name`; optionally a `path` (for error messages); a transcript `text` or an
    integer `label` (-1: none); and `sound`, a function that takes a sample rate and a limit in
    seconds, and returns the waveform, or raises ValueError (`TooLong` beyond the limit).
    """

    source: Any
    settings: Any

    def cache_key(self) -> dict[str, Any]:
        log_mel = asdict(LogMel.of(self.settings))
        key = {"sound": VERSION, "frames": log_mel, "max_seconds": self.settings.max_seconds,
                 "waveforms": self._are_waveforms("train")}  # fmt: skip
        if self._is_transcribed:
            tokenizer = tokenizer_key(self.settings.tokenizer)
            key |= {"tokenizer": tokenizer, "lowercase": self.settings.lowercase,
                    "unicode": self.settings.cleaning.unicode}  # fmt: skip
        return key

    def write(
        self, sources: Sequence[RawSplits], folder: Path, progress: Progress
    ) -> dict[str, Any]:
        (splits,) = sources
        warnings = [f"{split} has no labels, and is left out" for split in _unlabelled(splits)]
        splits = {name: of for name, of in splits.items() if name not in _unlabelled(splits)}
        raw = {
            split: track(_raw_targets(of), progress, f"reading {split}", len(of), "recordings")
            for split, of in splits.items()
        }
        if self._is_transcribed:
            texts = {split: self._clean(split, of, warnings) for split, of in raw.items()}
            tokenizer = self._learn(texts["train"], progress)
            tokenizer.save(folder / TOKENIZER)
            targets: dict[str, Iterable[NDArray[np.int32]]] = {
                split: tokenizer.encode_many(of) for split, of in texts.items()
            }
            decided, unknown = tokenizer.vocabulary(), tokenizer.unknown_id
        else:
            targets = {split: np.array([*of], np.int32)[:, None] for split, of in raw.items()}
            decided, unknown = self.source.classes, None
        total = sum(map(len, splits.values()))
        broken = Broken("recordings", total, self.settings.broken_fraction)
        metadata, hashes, max_labels = {}, {}, 0
        for split, recordings in splits.items():
            limit = self.settings.max_seconds
            writing = _Writing(split, self._codec(split), limit, broken, unknown)
            path, before = folder / f"{split}.array_record", broken.count
            blocks = writing.blocks(recordings, targets[split], progress)
            count, hashes[split] = write_records(path, blocks)
            if not count:
                reasons = "; ".join(writing.warnings())
                raise UsageError(f"no recording of {split} is left: {reasons}")
            write_names(path, writing.names)
            write_lengths(path, [(frames,) for frames in writing.frames])
            metadata[split] = {"examples": count, "broken": broken.count - before,
                            "left_out": len(writing.left_out),
                            "seconds": writing.seconds,
                            "most_subsampling": writing.most_subsampling}  # fmt: skip
            max_labels = max(max_labels, writing.max_labels)
            warnings += writing.warnings()
        broken.check_splits(metadata)
        return {
            "fingerprint": digest([hashes, decided]),
            "splits": metadata,
            "max_labels": max_labels,
            "notes": warnings,
            "broken": broken.messages,
        }

    def open(self, folder: Path, metadata: Mapping[str, Any]) -> Dataset:
        tokenizer = max_labels = None
        if self._is_transcribed:
            tokenizer = Tokenizer.load(folder / TOKENIZER)
            max_labels = max(metadata["max_labels"], 1)
            targets = {"vocabulary_size": tokenizer.vocabulary_size, "max_labels": max_labels}
        else:
            classes = self.source.classes
            targets = {"num_classes": len(classes), "classes": classes}
        splits = {
            name: self._open(name, folder / f"{name}.array_record", max_labels, numbers)
            for name, numbers in metadata["splits"].items()
        }
        allowed, messages = self.settings.broken_fraction, metadata["broken"]
        broken = Broken.of("recordings", splits.values(), allowed, messages)
        codecs = {
            name: one.codec for name, one in splits.items() if isinstance(one.codec, SoundCodec)
        }
        longest = [codecs["train"].most_frames(), *(one.max_frames for one in codecs.values())]
        return Dataset(
            fingerprint=metadata["fingerprint"],
            splits=splits,
            spec=DataSpec(num_mels=self.settings.num_mels, max_frames=max(longest), **targets),
            tokenizer=tokenizer,
            warnings=(*metadata["notes"], *broken.lines()),
        )

    @property
    def _is_transcribed(self) -> bool:
        return self.settings.modality == "transcribed_sound"

    def _clean(self, split: str, texts: Iterable[str], warnings: list[str]) -> list[str]:
        """Return transcripts in one Unicode form (`data.cleaning.unicode`), with single spaces, in
        lower case if `data.lowercase` is on. A changed form is told in `warnings`."""
        form, texts = normalizer(self.settings.cleaning), [*texts]
        normal = [*map(form, texts)]
        if changed := sum(map(operator.ne, normal, texts)):
            warnings.append(
                f"{changed:,} of {len(texts):,} transcripts of {split} have characters in another "
                "form of Unicode, and are converted: data.cleaning.unicode is "
                f"{self.settings.cleaning.unicode}"
            )
        normal = [" ".join(text.split()) for text in normal]
        return [*map(str.lower, normal)] if self.settings.lowercase else normal

    def _learn(self, texts: Sequence[str], progress: Progress) -> Tokenizer:
        if not any(texts):
            raise UsageError("every transcript of train is empty: there is nothing to learn")
        pieces = Pieces(MadeExamples(texts, lambda text: {"piece": 0, "text": text.encode()}))
        return make_tokenizer(self.settings.tokenizer, [pieces], progress)

    def _open(
        self, name: str, path: Path, max_labels: int | None, numbers: Mapping[str, Any]
    ) -> Split:
        lengths, padding = open_lengths(path, self.settings.length_buckets), None
        codec = self._codec(name, lengths.bounds[0][-1], max_labels)
        if name == "train":
            size, longer = self.settings.global_batch_size, codec.most_frames() / codec.max_frames
            padding = 1 - (1 - lengths.padding(size)) / longer
        return Split(name, path, codec, padding=padding, lengths=lengths, **numbers)

    def _codec(self, split: str, max_frames: int = 0, max_labels: int | None = None) -> SoundCodec:
        waveforms, log_mel = self._are_waveforms(split), LogMel.of(self.settings)
        return SoundCodec(log_mel, self.settings.augmentation, waveforms, max_frames, max_labels)

    def _are_waveforms(self, split: str) -> bool:
        """Return whether a split stores waveforms (if augmentation changes them) or frames."""
        return split == "train" and changes_waveforms(self.settings.augmentation)


@dataclass
class _Writing:
    """Makes the records of a split, and collects names and counts.

    max_seconds: maximum length of a recording; longer ones are left out. None: `LONGEST_SECONDS`.
    unknown: id of the unknown token; None if there is none.
    names, frames: name and number of frames of each stored recording; a broken one has 0 frames.
    left_out: names of the recordings that were left out.
    max_labels: number of tokens of the longest transcript.
    most_subsampling: the largest number of frames per position with which CTC can learn one of the
        transcripts, which needs a position for each token, and one between two equal ones; None if
        there is none.
    """

    split: str
    codec: SoundCodec
    max_seconds: float | None
    broken: Broken
    unknown: int | None
    names: list[str] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0
    max_labels: int = 0
    most_subsampling: int | None = None
    _strange: dict[str, list[str]] = field(default_factory=dict)

    def blocks(
        self, recordings: RawExamples, targets: Iterable[NDArray[np.int32]], progress: Progress
    ) -> Iterator[NDArray[Any]]:
        """Yield the records of the recordings that are kept, in blocks.

        targets: the label or transcript tokens of each recording.
        """
        stage, remaining = f"decoding {self.split}", iter(targets)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for group in read_blocks(recordings, _AT_ONCE, progress, stage, "recordings"):
                block = []
                for one, waveform in zip(group, threads.map(self._decode, group), strict=True):
                    target = next(remaining)
                    if waveform is None:
                        self.left_out.append(one["name"])
                    else:
                        block.append(self._store(one, waveform, target))
                yield np.array(block, object)

    def warnings(self) -> list[str]:
        """Return a warning for each kind of unusual recording, with the number of such recordings
        and the name of one."""
        return [*self._of_lengths(), *self._of_contents()]

    def _of_lengths(self) -> Iterator[str]:
        if self.left_out:
            count, total = len(self.left_out), len(self.left_out) + len(self.names)
            limit = f"data.max_seconds={self._limit:g}"
            if self.max_seconds is None:
                limit = f"{self._limit:,.0f} seconds (data.max_seconds may allow more)"
            yield (
                f"{count:,} of {total:,} recordings of {self.split} last longer than {limit}, and "
                f"are left out, such as {self.left_out[0]}"
            )
        half, longest = np.quantile([frames for frames in self.frames if frames] or [0], (0.5, 1))
        if longest > _FAR_LONGER * half:
            name, seconds = self.names[np.argmax(self.frames)], self.codec.log_mel.seconds
            yield (
                f"the longest recording of {self.split}, {name}, lasts {seconds(longest):,.0f} "
                f"seconds, and half of all {seconds(half):.1f} at most: data.max_seconds leaves "
                "out what is longer"
            )

    def _of_contents(self) -> list[str]:
        messages = {
            "silent": "nothing but silence",
            "empty": "an empty transcript",
            "unknown": "a transcript with characters, or words, that are not in the vocabulary",
            "long": f"a transcript too long for CTC where model.subsampling is {SUBSAMPLING}",
        }
        return [
            f"{len(names):,} of {len(self.names):,} recordings of {self.split} have "
            f"{messages[what]}, such as {names[0]}"
            for what, names in self._strange.items()
        ]

    @property
    def _limit(self) -> float:
        return LONGEST_SECONDS if self.max_seconds is None else self.max_seconds

    def _decode(self, one: Mapping[str, Any]) -> Waveform | str | None:
        """Return the waveform of a recording, or a message that says why it is broken; None if it
        is too long."""
        if "label" in one and one["label"] < 0:
            return "it has no label"
        log_mel = self.codec.log_mel
        try:
            # With room for the rounding of the resampler.
            waveform = one["sound"](log_mel.sample_rate, self._limit + 0.01)
        except TooLong:
            return None
        except ValueError as error:
            return str(error)
        except MemoryError:
            return "there is not enough memory to decode it"
        if not log_mel.frames(len(waveform)):
            milliseconds = 1000 * len(waveform) / log_mel.sample_rate
            return f"it is shorter than a frame: {milliseconds:.0f} ms"
        return waveform if len(waveform) <= self._limit * log_mel.sample_rate else None

    def _store(
        self, one: Mapping[str, Any], waveform: Waveform | str, targets: NDArray[np.int32]
    ) -> bytes:
        self.names.append(one["name"])
        self.max_labels = max(self.max_labels, len(targets))
        if isinstance(waveform, str):
            self.broken.add(one.get("path", one["name"]), waveform)
            self.frames.append(0)
            return self.codec.broken_record()
        frames = int(self.codec.log_mel.frames(len(waveform)))
        self.frames.append(frames)
        self.seconds += len(waveform) / self.codec.log_mel.sample_rate
        places = len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))  # for CTC
        if "text" in one and len(targets):
            factor = -(-frames // (places - 1)) - 1 if places > 1 else frames
            self.most_subsampling = max(factor, self.most_subsampling or 0)
        for what, it_is in {
            "silent": not waveform.any(),
            "empty": len(targets) == 0,
            "unknown": self.unknown in targets.tolist(),
            "long": "text" in one and places > -(-frames // SUBSAMPLING),
        }.items():
            if it_is:
                self._strange.setdefault(what, []).append(one["name"])
        return self.codec.encode(waveform, targets)


def _raw_targets(recordings: RawExamples) -> Iterator[Any]:
    """Yield the transcript or the label of each recording."""
    for number in range(len(recordings)):
        one = recordings[number]
        yield one["text"] if "text" in one else one["label"]


def _unlabelled(splits: RawSplits) -> list[str]:
    """Return the names of splits without labels, such as the test part of a competition."""
    first = {split: of[0] for split, of in splits.items() if split != "train" and len(of)}
    return [split for split, one in first.items() if "label" in one and one["label"] < 0]
