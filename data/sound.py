"""Prepares recordings as records: decodes each once, and adds its label or transcript tokens."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.data_spec import DataSpec
from configs.errors import UsageError
from data.cleaning import normalizer
from data.codecs.sound import LONGEST_SECONDS, LogMel, TooLong, Waveform
from data.dataset import ExampleCodec, Split
from data.driver import NO_CONTENT, Part, Preparation, content_hash
from data.length_buckets import Lengths
from data.progress import Progress
from data.sound_augmentation import changes_waveforms
from data.sound_batches import SoundCodec

VERSION = 3
"""Part of the cache key. Increment it when this file makes different examples."""

SUBSAMPLING = 4
"""Warnings assume that a speech model shortens the sequence of frames by this factor."""

_AT_ONCE = 64

_FAR_LONGER = 20  # times the median length: a longer recording causes much padding, so warn


class SoundPreparation(Preparation):
    """Prepares recordings.

    A raw example has a `name`; optionally a `path` (for error messages); a transcript `text` or an
    integer `label` (-1: none); and `sound`, a function that takes a sample rate and a limit in
    seconds, and returns the waveform, or raises ValueError (`TooLong` beyond the limit).
    """

    things = "recordings"
    layout = 3

    def key(self) -> dict[str, Any]:
        key = {
            "sound": VERSION,
            "frames": asdict(LogMel.of(self.settings)),
            "max_seconds": self.settings.max_seconds,
            "waveforms": self._are_waveforms("train"),
        }
        if self._is_transcribed:
            form = self.settings.cleaning.unicode
            key |= {"lowercase": self.settings.lowercase, "unicode": form}
        return key

    def decide(self, parts: Sequence[Part], progress: Progress) -> dict[str, Any]:
        if self._is_transcribed:
            train = (part for part in parts if part.split == "train")
            if not any(text for part in train for text in self.texts(part)):
                raise UsageError("every transcript of train is empty: there is nothing to learn")
        return {"max_labels": 1 if self._is_transcribed else None}

    def texts(self, part: Part) -> Iterator[str]:
        return (self._clean(one["text"]) for one in part.examples)

    def codec(self, split: str, lengths: Lengths | None = None) -> SoundCodec:
        longest = lengths.bounds[0][-1] if lengths else 0
        waveforms, log_mel = self._are_waveforms(split), LogMel.of(self.settings)
        augmentation, max_labels = self.settings.augmentation, self.decided["max_labels"]
        return SoundCodec(log_mel, augmentation, waveforms, longest, max_labels)

    def padding(self, codec: ExampleCodec, lengths: Lengths) -> float:
        assert isinstance(codec, SoundCodec)
        longer = codec.most_frames() / codec.max_frames
        return 1 - (1 - super().padding(codec, lengths)) / longer

    def blocks(self, part: Part) -> Iterator[NDArray[Any]]:
        codec = self.codec(part.split)
        part.counts |= {"left_out": 0, "seconds": 0.0, "most_subsampling": None}
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for group in part.read("decoding", _AT_ONCE):
                block, frames, contents = list[bytes](), list[int](), list[int]()
                decoded, targets = threads.map(self._hashed, group), self._targets(part, group)
                for one, (waveform, content), target in zip(group, decoded, targets, strict=True):
                    if waveform is None:
                        self._leave_out(part, one["name"])
                        continue
                    part.names.append(one["name"])
                    contents.append(content)
                    if isinstance(waveform, str):
                        part.broken.add(one.get("path", one["name"]), waveform)
                        block.append(codec.broken_record())
                        frames.append(0)
                    else:
                        block.append(codec.encode(waveform, target))
                        frames.append(int(codec.log_mel.frames(len(waveform))))
                        self._count(part, one, waveform, target, frames[-1])
                part.lengths.append(np.array(frames, np.int32)[:, None])
                part.contents.append(np.array(contents, np.uint64))
                yield np.array(block, object)
        if not part.written:
            raise UsageError(f"no recording of {part.split} is left: {'; '.join(part.lines())}")
        self._tell_longest(part, codec.log_mel)

    def spec(self, splits: Mapping[str, Split]) -> DataSpec:
        frames = list[int]()
        for name, split in splits.items():
            assert isinstance(split.codec, SoundCodec)
            codec = split.codec
            frames.append(codec.most_frames() if name == "train" else codec.max_frames)
        sizes: dict[str, Any] = {"num_mels": self.settings.num_mels, "max_frames": max(frames)}
        if self._is_transcribed:
            size, labels = self.tokenizer.vocabulary_size, self.decided["max_labels"]
            return DataSpec(vocabulary_size=size, max_labels=labels, **sizes)
        classes = self.sources[0].classes or ()
        return DataSpec(num_classes=len(classes), classes=classes, **sizes)

    def digested(self, hashes: Mapping[str, Any], parts: Sequence[Part]) -> Any:
        if self._is_transcribed:
            return [hashes, self.tokenizer.vocabulary()]
        return [hashes, self.sources[0].classes]

    @property
    def length_buckets(self) -> int:
        return self.settings.length_buckets

    @property
    def _is_transcribed(self) -> bool:
        return self.settings.modality == "transcribed_sound"

    @property
    def _limit(self) -> float:
        """The longest recording that is kept, in seconds."""
        most = self.settings.max_seconds
        return LONGEST_SECONDS if most is None else most

    def _are_waveforms(self, split: str) -> bool:
        """Return whether a split stores waveforms (if augmentation changes them) or frames."""
        return split == "train" and changes_waveforms(self.settings.augmentation)

    def _clean(self, text: str) -> str:
        """Return a transcript in the Unicode form `data.cleaning.unicode`, with single spaces, in
        lower case if `data.lowercase` is on."""
        text = " ".join(normalizer(self.settings.cleaning)(text).split())
        return text.lower() if self.settings.lowercase else text

    def _targets(self, part: Part, group: Sequence[Mapping[str, Any]]) -> list[NDArray[np.int32]]:
        """Return the label or the transcript's tokens of each recording."""
        if not self._is_transcribed:
            return [np.array([one["label"]], np.int32) for one in group]
        form = normalizer(self.settings.cleaning)
        part.note(
            "have characters in another form of Unicode, and are converted: data.cleaning.unicode "
            f"is {self.settings.cleaning.unicode}",
            count=sum(form(one["text"]) != one["text"] for one in group),
            things="transcripts",
        )
        return self.tokenizer.encode_many(self._clean(one["text"]) for one in group)

    def _hashed(self, one: Mapping[str, Any]) -> tuple[Waveform | str | None, int]:
        """Return what `_decode` returns, and the hash of the waveform."""
        waveform = self._decode(one)
        if not isinstance(waveform, np.ndarray):
            return waveform, NO_CONTENT
        return waveform, content_hash(np.ascontiguousarray(waveform).data)

    def _decode(self, one: Mapping[str, Any]) -> Waveform | str | None:
        """Return the waveform of a recording, or a message that says why it is broken; None if it
        is too long."""
        if one.get("label") == -1:
            return "it has no label"
        log_mel = LogMel.of(self.settings)
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

    def _leave_out(self, part: Part, name: str) -> None:
        """Count a recording that is too long."""
        part.counts["left_out"] += 1
        limit = f"data.max_seconds={self._limit:g}"
        if self.settings.max_seconds is None:
            limit = f"{self._limit:,.0f} seconds (data.max_seconds may allow more)"
        part.note(f"last longer than {limit}, and are left out", name)

    def _count(
        self,
        part: Part,
        one: Mapping[str, Any],
        waveform: Waveform,
        targets: NDArray[np.int32],
        frames: int,
    ) -> None:
        """Count a recording that is stored, and tell what is strange. frames: their number."""
        name, counts = one["name"], part.counts
        counts["seconds"] += len(waveform) / self.settings.sample_rate
        if not waveform.any():
            part.note("have nothing but silence", name)
        if not self._is_transcribed:
            return
        self.decided["max_labels"] = max(len(targets), self.decided["max_labels"])
        if not len(targets):
            part.note("have an empty transcript", name)
        if self.tokenizer.unknown_id in targets.tolist():
            what = "a transcript with characters, or words, that are not in the vocabulary"
            part.note(f"have {what}", name)
        # CTC needs a position for each token, and one between two equal ones.
        places = len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))
        if places > -(-frames // SUBSAMPLING):
            what = f"a transcript too long for CTC where model.subsampling is {SUBSAMPLING}"
            part.note(f"have {what}", name)
        if places:
            factor = -(-frames // (places - 1)) - 1 if places > 1 else frames
            counts["most_subsampling"] = max(factor, counts["most_subsampling"] or 0)

    def _tell_longest(self, part: Part, log_mel: LogMel) -> None:
        """Warn of a recording that is far longer than most."""
        frames = np.concatenate(part.lengths)[:, 0]
        half, longest = np.quantile(frames[frames > 0] if frames.any() else [0], (0.5, 1))
        if longest > _FAR_LONGER * half:
            name, seconds = part.names[np.argmax(frames)], log_mel.seconds
            part.warnings.append(
                f"the longest recording of {part.split}, {name}, lasts {seconds(longest):,.0f} "
                f"seconds, and half of all {seconds(half):.1f} at most: data.max_seconds leaves "
                "out what is longer"
            )
