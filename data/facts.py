"""What the data of a run looks like to a model, as far as it says how well that can learn."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.dataset import Dataset, Split
from data.order import permutation
from data.packing import WindowFormat
from data.records import Records, bytes_of

SAMPLED = 1024
"""Training examples that are looked at: a share of them is then right to 3 %."""

COMPARED_BYTES = 2**26
"""Of a split, records that are compared with those of another."""

_AT_ONCE = 64
_INPUTS = ("image", "source", "frames", "tokens")
_SNIPPET = 64  # tokens that are compared where windows are cut anywhere, or 3/4 of a window
_ANCHOR, _APART = 8, 16  # tokens that decide whether a snippet begins: of so many places one


class Sample(NamedTuple):
    """padding: share of the positions, None without any. classes: of each label, how many examples
    have it. prior_loss: in nats a target, of always answering by the frequencies of the targets.
    commonest_target, commonest_input: share of the one that there is most of."""

    padding: float | None
    classes: dict[str, int] | None
    prior_loss: float | None
    commonest_target: float | None
    commonest_input: float


def learning_facts(dataset: Dataset) -> dict[str, Any]:
    """What `training.Facts` has of the data: `examples` of the training split, `copied`, the share
    of validation that it has too, and of a `Sample` of it all fields."""
    train, validation = dataset.splits["train"], dataset.splits.get("validation")
    facts = sample(train, dataset.classes)._asdict()
    if train.padding is not None:
        facts["padding"] = train.padding
    copied = None if validation is None else share_copied(train, validation)
    return {"examples": train.examples, "copied": copied, **facts}


def sample(split: Split, classes: tuple[str, ...] | None) -> Sample:
    """Of `SAMPLED` examples of a split, drawn at random; always the same ones."""
    inputs, targets = Counter(), Counter()
    filled = positions = 0
    for batch in _batches(split, SAMPLED):
        there = batch["weights"] > 0
        if "label" in batch:
            targets.update(batch["label"][there].tolist())
        else:
            name, weights = "targets", there
            if "labels" in batch:
                name, weights = "labels", batch["label_weights"] > 0
            targets.update(batch[name][weights].tolist())
        for real in _filled(batch):
            filled, positions = filled + int(real.sum()), positions + real.size
        inputs.update(_input_hashes(batch))
    counts = np.array([*targets.values()], float)
    shares = counts / max(counts.sum(), 1)
    return Sample(
        padding=1 - filled / positions if positions else None,
        classes=None if classes is None else {
            name: targets[number] for number, name in enumerate(classes)
        },
        prior_loss=float(-(shares * np.log(shares)).sum()) if len(shares) else None,
        commonest_target=float(shares.max()) if len(shares) else None,
        commonest_input=max(inputs.values(), default=0) / max(inputs.total(), 1),
    )  # fmt: skip


def share_copied(train: Split, validation: Split) -> float:
    """Share of what `validation` holds that `train` holds too, to the byte.

    Examples are compared, and of text conversations and documents that are packed whole; where
    windows are cut anywhere, snippets that begin where the tokens say, whatever the window. Of a
    split with more than `COMPARED_BYTES` a random part is: the share is that which would make as
    many meet.
    """
    alike = _are_alike(train, validation)
    sought, _ = _units(validation, alike)
    found, looked_at = _units(train, alike)
    sought, found = np.unique(sought), np.unique(found)
    if not len(sought):
        return 0.0
    met = np.isin(sought, found).sum()
    return float(min(1.0, met / len(sought) / looked_at))


def _batches(split: Split, most: int) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Batches of up to `most` random examples, as evaluation sees them."""
    weights = split.weights or (1.0,)
    for part, weight in zip(split.parts or (split,), weights, strict=True):
        for records, rows in _records(part, round(most * weight / sum(weights)) or 1):
            form = part.format
            if part.lengths is not None:
                form = form.padded_to(part.lengths.shape(rows))
            yield form.batch(records)


def _records(split: Split, most: int) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]:
    """Up to `most` random records, and their numbers, some at a time."""
    count = min(most, split.examples)
    rows = permutation(np.arange(count), size=split.examples, seed=0, epoch=0)
    reader = Records(split.path, split.format.dtype)
    for some in np.array_split(rows, -(-count // _AT_ONCE)):
        yield reader.read(some), some


def _filled(batch: Mapping[str, NDArray[Any]]) -> Iterator[NDArray[np.bool_]]:
    """Which positions of the rows hold something: of each kind of position."""
    if "source_segments" in batch:
        yield batch["source_segments"] > 0
    if "segments" in batch:
        yield batch["segments"] > 0
    elif batch["weights"].ndim == 2:
        yield batch["weights"] > 0


def _input_hashes(batch: Mapping[str, NDArray[Any]]) -> Iterator[int]:
    """A number for each input that is not broken, the same for the same input."""
    name = next(name for name in _INPUTS if name in batch)
    real = batch.get("source_segments" if name == "source" else "segments")
    for row in np.flatnonzero(batch["weights"].reshape(len(batch["weights"]), -1).any(axis=1)):
        values = batch[name][row]
        yield hash((values if real is None else values[real[row] > 0]).tobytes())


# ---- What of validation stands in training too.


def _are_alike(*splits: Split) -> bool:
    """Whether the same example has the same record in all parts of the splits."""
    parts = [part for split in splits for part in split.parts or (split,)]
    kinds = {(type(p.format), p.format.dtype, getattr(p.format, "waveforms", None)) for p in parts}
    return len(kinds) == 1


def _units(split: Split, alike: bool) -> tuple[NDArray[np.int64], float]:
    """A number for each thing that is compared, and the share of the split that was looked at."""
    found, looked_at = [np.empty(0, np.int64)], 0
    for part in split.parts or (split,):
        most = max(1, COMPARED_BYTES * part.examples // max(part.path.stat().st_size, 1))
        if not alike:  # They are decoded, which takes its time.
            most = min(most, SAMPLED)
        for records, rows in _records(part, most):
            looked_at += len(rows)
            if alike:
                found.append(_record_hashes(records, part))
            else:
                shape = None if part.lengths is None else part.lengths.shape(rows)
                form = part.format if shape is None else part.format.padded_to(shape)
                found.append(np.fromiter(_input_hashes(form.batch(records)), np.int64))
    return np.concatenate(found), looked_at / split.examples


def _record_hashes(records: NDArray[Any], split: Split) -> NDArray[np.int64]:
    if isinstance(split.format, WindowFormat):
        return _snippet_hashes(records["tokens"], min(_SNIPPET, split.format.length * 3 // 4))
    if "segments" in (records.dtype.names or ()):
        runs = ((row, n) for row in records for n in range(1, int(row["segments"].max()) + 1))
        return np.fromiter((hash(r["tokens"][r["segments"] == n].tobytes()) for r, n in runs), int)
    return np.fromiter(map(hash, bytes_of(records)), np.int64, len(records))


def _snippet_hashes(tokens: NDArray[Any], length: int) -> NDArray[np.int64]:
    """Of windows [B, T + 1] all snippets that the hash of their first tokens lets begin."""
    mixed = tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    anchors = _rolling(mixed, min(_ANCHOR, length))[:, : tokens.shape[1] - length + 1]
    rows, places = np.nonzero((anchors >> np.uint64(40)) % np.uint64(_APART) == 0)
    return _rolling(mixed, length)[rows, places].astype(np.int64)


def _rolling(values: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """A polynomial of each `length` neighbours in a row, modulo 2**64."""
    factor, total = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0)
    for place in range(length):
        total = total * factor + values[:, place : values.shape[1] - length + 1 + place]
    return total
