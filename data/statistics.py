"""Computes statistics of a data set that reveal problems for training, such as duplicates.

They are measured on samples of bounded size, so they take about a second for any data set.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.batches import Batches
from data.dataset import Dataset, Split
from data.order import permutation
from data.packing import WindowCodec
from data.records import RecordReader, bytes_of

SAMPLED = 1024
"""Maximum number of examples in a sample. Estimated shares have an error of up to 3 %."""

SAMPLED_BYTES = 2**25
"""Maximum bytes of the records in a sample. Decoding them takes a second or two."""

COMPARED, COMPARED_BYTES = 2**15, 2**24
"""Maximum number and bytes of the records of a split that are compared with another split."""

_AT_ONCE = 64
_SAME_FRAMES = 1e-3  # nats: frames that differ by less count as equal, such as silence
_INPUTS = ("image", "source", "frames", "tokens")
_SNIPPET = 64  # tokens per snippet, in text cut into equal windows; at most 3/4 of a window
_SHORTEST_SNIPPET = 24  # shorter ones recur by chance: most snippets of 6 characters of a play do
_ANCHOR, _APART = 8, 16  # a hash of 8 tokens decides where snippets begin: at one place in 16


class SampleStatistics(NamedTuple):
    """Statistics of a sample of a split's examples.

    inputs: number of inputs that are not broken.
    padding: share of positions that are padding; None if examples have no positions.
    classes: number of examples by class name; None without classes.
    prior_loss: loss, in nats per target, of a model that always predicts the frequencies of the
        targets.
    commonest_target, commonest_input: share of the most frequent target or input.
    commonest_name: name of an example with the most frequent input; None if that input occurs only
        once or has no name.
    """

    inputs: int
    padding: float | None
    classes: dict[str, int] | None
    prior_loss: float | None
    commonest_target: float | None
    commonest_input: float
    commonest_name: str | None


def data_statistics(dataset: Dataset) -> dict[str, Any]:
    """Return a dictionary: `SampleStatistics` and some counts of the training split, and `copied`.

    copied: for each pair of split names (a, b), the share of split b that is also in split a; pairs
    that can't be compared are left out.
    """
    train = dataset.splits["train"]
    statistics = sample(train, dataset.spec.classes)._asdict()
    if train.padding is not None:
        statistics["padding"] = train.padding
    shares = {
        (first.name, second.name): share_copied(first, second)
        for first, second in itertools.combinations(dataset.splits.values(), 2)
    }
    copied = {names: share for names, share in shares.items() if share is not None}
    counts = {"examples": train.examples, "most_subsampling": train.most_subsampling}
    return {**counts, "copied": copied, **statistics}


def sample(split: Split, classes: tuple[str, ...] | None) -> SampleStatistics:
    """Return statistics of up to `SAMPLED` random examples of a split, drawn with a fixed seed.

    classes: the class names, or None.
    """
    inputs, targets = Counter[int](), Counter[int]()
    first: dict[int, tuple[Split, int]] = {}
    filled = positions = 0
    for part, rows in _sampled(split):
        batches = _batches(part, rows)
        for start in range(0, len(rows), _AT_ONCE):
            batch = batches[start // _AT_ONCE]
            there = batch["weights"] > 0
            if "label" in batch:
                targets.update(batch["label"][there].tolist())
            else:
                name, weights = "targets", there
                if "labels" in batch:
                    name, weights = "labels", batch["label_weights"] > 0
                targets.update(batch[name][weights].tolist())
            for real in _filled(batch):
                real = real[: len(rows) - start]
                filled, positions = filled + int(real.sum()), positions + real.size
            for row, number in _input_hashes(batch):
                inputs[number] += 1
                first.setdefault(number, (part, rows[start + row]))
    counts = np.array([*targets.values()], float)
    (commonest, most), *_ = [*inputs.most_common(1), (None, 0)]
    return SampleStatistics(
        inputs=inputs.total(),
        padding=1 - filled / positions if positions else None,
        classes=None if classes is None else {
            name: targets[number] for number, name in enumerate(classes)
        },
        prior_loss=entropy(counts) if len(counts) else None,
        commonest_target=float(counts.max() / counts.sum()) if len(counts) else None,
        commonest_input=most / max(inputs.total(), 1),
        commonest_name=_name(*first[commonest]) if most > 1 else None,
    )  # fmt: skip


def entropy(counts: NDArray[np.float64]) -> float:
    """Estimate the entropy of a distribution, in nats, from a sample.

    counts: how often each value occurs in the sample. If some values occur only once, others are
    probably missing, and the entropy of the sample is too low: 6.4 instead of 6.9 for 1,024
    examples of 1,000 classes. In this case the estimator of Chao and Shen is used ("Nonparametric
    estimation of Shannon's index of diversity", 2003).
    """
    drawn = counts.sum()
    shares, singles = counts / drawn, int((counts == 1).sum())
    if not singles or drawn < 2:
        return float(-(shares * np.log(shares)).sum())
    shares *= 1 - min(singles, drawn - 1) / drawn
    return float(-(shares * np.log(shares) / -np.expm1(drawn * np.log1p(-shares))).sum())


def share_copied(first: Split, second: Split) -> float | None:
    """Return the share of `second` that also occurs, byte for byte, in `first`.

    In packed windows, each conversation or document is compared. In text that is cut into equal
    windows, snippets are compared; they begin where a hash of the tokens decides, so that window
    borders don't matter. In other data, each example is compared. Returns None if windows are so
    short that equal snippets occur by chance.

    Of a split with more than `COMPARED` records or `COMPARED_BYTES`, only a random sample is
    compared. The share is then extrapolated from the number of matches minus two standard errors,
    and items that occur more than once in the sample of `first` are ignored.
    """
    alike = _are_alike(first, second)
    if alike and _snippet_length(second) < _SHORTEST_SNIPPET:
        return None
    sought, _ = _units(second, alike)
    found, looked_at = _units(first, alike)
    sought, counts = np.unique(sought, return_counts=True)
    if np.isfinite(_snippet_length(second)):
        counts = np.ones_like(counts)  # Some snippets recur everywhere.
    found, times = np.unique(found, return_counts=True)
    if looked_at < 1:
        found = found[times == 1]
    if not len(sought):
        return 0.0
    met = counts[np.isin(sought, found)].sum()
    met = met - 2 * np.sqrt(met * (1 - looked_at))
    return float(np.clip(met / counts.sum() / looked_at, 0, 1))


def _sampled(split: Split) -> Iterator[tuple[Split, NDArray[np.int64]]]:
    """Yield the parts of a split, each with the numbers of random examples."""
    weights = split.weights or (1.0,)
    for part, weight in zip(split.parts or (split,), weights, strict=True):
        most = min(SAMPLED, _records_of(part, SAMPLED_BYTES))
        yield part, _random(part, round(most * (weight / sum(weights))) or 1)


def _batches(part: Split, examples: NDArray[np.int64]) -> Batches:
    """Return the batches of these examples, without augmentation."""
    return Batches(part, global_batch_size=_AT_ONCE, seed=0, shuffle=False, examples=examples)


def _records_of(split: Split, size: int) -> int:
    """Return the approximate number of records that have `size` bytes in total, at least 1."""
    return max(1, size * split.examples // max(split.path.stat().st_size, 1))


def _random(split: Split, most: int) -> NDArray[np.int64]:
    """Return the numbers of up to `most` random examples."""
    count = min(most, split.examples)
    return permutation(np.arange(count), size=split.examples, seed=0, epoch=0)


def _name(split: Split, row: int) -> str | None:
    names = split.names()
    return None if names is None else names[row]


def _filled(batch: Mapping[str, NDArray[Any]]) -> Iterator[NDArray[np.bool_]]:
    """Yield masks of the positions that are not padding, one for each kind of position."""
    if "source_segments" in batch:
        yield batch["source_segments"] > 0
    if "segments" in batch:
        yield batch["segments"] > 0
    elif batch["weights"].ndim == 2:
        yield batch["weights"] > 0


def _input_hashes(batch: Mapping[str, NDArray[Any]]) -> Iterator[tuple[int, int]]:
    """Yield the row and a hash of each input that is not broken.

    If a window contains several texts, each is an input. If all frames of a recording are equal, as
    in silence, its hash does not depend on its length, nor on its level after normalization.
    """
    name = next(name for name in _INPUTS if name in batch)
    segments = batch.get("source_segments" if name == "source" else "segments")
    is_real = batch["weights"].reshape(len(batch["weights"]), -1).any(axis=1)
    for row in np.flatnonzero(is_real).tolist():
        values = batch[name][row]
        if segments is None:
            yield row, hash(values.tobytes())
            continue
        for number in range(1, int(segments[row].max()) + 1):
            found = values[segments[row] == number]
            if name == "frames" and (np.ptp(found, axis=0) < _SAME_FRAMES).all():
                found = (found[0] - found[0].mean()).round(2) + 0.0  # -0.0 is 0.0
            yield row, hash(found.tobytes())


# ---- Examples of one split that are copied in another.


def _are_alike(*splits: Split) -> bool:
    """Return whether all splits have one record format, so that equal examples are equal bytes."""
    parts = [part for split in splits for part in split.parts or (split,)]
    kinds = {(type(p.codec), p.codec.dtype, getattr(p.codec, "waveforms", None)) for p in parts}
    return len(kinds) == 1


def _units(split: Split, alike: bool) -> tuple[NDArray[np.int64], float]:
    """Return hashes of the items to compare, and the share of the split that was read.

    alike: whether to hash records; otherwise, hash the inputs of decoded batches.
    """
    found, looked_at = [np.empty(0, np.int64)], 0
    for part in split.parts or (split,):
        most = min(COMPARED, _records_of(part, COMPARED_BYTES))
        if not alike:  # Decoding the records takes time.
            most = min(most, SAMPLED)
        rows = _random(part, most)
        looked_at += len(rows)
        if alike:
            reader = RecordReader(part.path, part.codec.dtype, part.examples)
            for some in np.array_split(rows, -(-len(rows) // _AT_ONCE)):
                found.append(_record_hashes(reader.read(some), part))
        else:
            batches = _batches(part, rows)
            for number in range(len(batches)):
                hashes = (number for _, number in _input_hashes(batches[number]))
                found.append(np.fromiter(hashes, np.int64))
    return np.concatenate(found), looked_at / split.examples


def _snippet_length(split: Split) -> float:
    """Return the snippet length in tokens; infinity if the split is not compared by snippets."""
    codecs = [part.codec for part in split.parts or (split,)]
    lengths = [codec.length for codec in codecs if isinstance(codec, WindowCodec)]
    return min(_SNIPPET, min(lengths) * 3 // 4) if lengths else np.inf


def _record_hashes(records: NDArray[Any], split: Split) -> NDArray[np.int64]:
    if isinstance(split.codec, WindowCodec):
        return _snippet_hashes(records["tokens"], int(_snippet_length(split)))
    if "segments" in (records.dtype.names or ()):
        runs = ((row, n) for row in records for n in range(1, int(row["segments"].max()) + 1))
        return np.fromiter((hash(r["tokens"][r["segments"] == n].tobytes()) for r, n in runs), int)
    return np.fromiter(map(hash, bytes_of(records)), np.int64, len(records))


def _snippet_hashes(tokens: NDArray[Any], length: int) -> NDArray[np.int64]:
    """Return hashes of the snippets in windows. tokens: [B, T + 1].

    A snippet begins at each place where the hash of the next `_ANCHOR` tokens is selected.
    """
    mixed = tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    anchors = _rolling(mixed, _ANCHOR)[:, : tokens.shape[1] - length + 1]
    rows, places = np.nonzero((anchors >> np.uint64(40)) % np.uint64(_APART) == 0)
    snippets = np.lib.stride_tricks.sliding_window_view(mixed, length, axis=1)[rows, places]
    return _rolling(snippets, length)[:, 0].astype(np.int64)


def _rolling(values: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """Return a polynomial hash of each `length` adjacent values in a row, modulo 2**64."""
    factor, total = np.uint64(0xBF58476D1CE4E5B9), np.zeros(1, np.uint64)
    for place in range(length):
        total = total * factor + values[:, place : values.shape[1] - length + 1 + place]
    return total
