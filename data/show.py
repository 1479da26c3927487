"""Descriptions of batches and of data preparation, as text for the user."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.batches import Batches
from data.conversations import ConversationCodec
from data.dataset import Dataset, Split
from data.sound_batches import SoundCodec

MUCH_UNKNOWN = 0.01
"""Above this share of unknown tokens in training, warn: the vocabulary is too small."""

_EXAMPLES = 3
_PROMPTS, _PROMPT = 3, 24  # number of prompts, and the most characters of each
_FIRST, _LAST = 8, 4  # number of positions of a window that are listed
_TEXT = 400  # maximum number of characters of a text that are shown
_SHADES = " ░▒▓█"
_COLUMNS = 32  # maximum width of an image, in pairs of characters
_ROWS = 12  # maximum height of a recording's frames, in lines


@dataclass(frozen=True)
class ExampleViewer:
    """Reads single examples of a split in a form for display.

    Calling an instance with an example number returns an image, uint8 [H, W, C], the frames of a
    recording, float32 [T, F], or a text.
    """

    dataset: Dataset
    split: str

    def __call__(self, number: int) -> NDArray[Any] | str:
        batch = self.batch(number)
        if "image" in batch:
            return batch["image"][0]
        if "frames" in batch:
            return batch["frames"][0][batch["segments"][0] > 0]
        return self.dataset.decode(self._tokens(batch))

    def text(self, number: int) -> str:
        """Decode the tokens of an example as one text. Only for data with tokens."""
        return self.dataset.decode(self._tokens(self.batch(number)))

    def tokens(self, number: int) -> list[str]:
        """Decode each token of an example separately. Only for data with tokens."""
        return [self.dataset.decode([token]) for token in self._tokens(self.batch(number))]

    def batch(self, number: int) -> Mapping[str, NDArray[Any]]:
        """Return a batch of one row, example `number`."""
        return self._batches[number]

    @cached_property
    def _batches(self) -> Batches:
        split = self.dataset.splits[self.split]
        return Batches(split, global_batch_size=1, seed=0, shuffle=False)

    @staticmethod
    def _tokens(batch: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        tokens = batch["tokens"][0]
        return tokens[batch["segments"][0] > 0] if "segments" in batch else tokens


def line_beginnings(dataset: Dataset) -> tuple[str, ...]:
    """Return the first words of a few lines of text, as prompts for a text model.

    The lines come from windows spread over the validation split, or over the training split if
    there is no validation split.
    """
    assert dataset.tokenizer is not None
    name = "validation" if "validation" in dataset.splits else "train"
    examples, count = ExampleViewer(dataset, name), dataset.splits[name].examples
    prompts = []
    for number in range(_PROMPTS):
        text = examples.text(number * count // _PROMPTS)
        first, _, others = text.partition("\n")  # the first may begin in the middle of a line
        lines = f"{others}\n{first}".replace(dataset.tokenizer.separator, "\n").splitlines()
        line = next(filter(None, (line.strip(" \t\ufffd") for line in lines)), "")
        cut = line[: _PROMPT + 1].rpartition(" ")[0] if len(line) > _PROMPT else line
        prompts.append(cut or line[:_PROMPT])
    return tuple(dict.fromkeys(prompts))


def describe_batch(
    batch: Mapping[str, NDArray[Any]], dataset: Dataset, origins: Sequence[str] = ()
) -> str:
    """Return a description, for the user, of the arrays of `batch` and of its first examples.

    origins: in a mixture, the name of the source of each row.

    Text: the decoded window, and token, target, weight and segment at its first and last positions.
    Conversations: the turns, with a mark at those that count in the loss. Images: the label, and
    the pixels as block characters. Labelled text: the label and the text. Pairs: both texts, and
    the share of padding in the batch. Audio: the transcript or label, and the frames as block
    characters, with time from left to right and frequency from bottom to top.
    """
    width = max(8, *map(len, batch)) + 1
    lines = [
        f"{name:{width}}{array.dtype} {list(array.shape)}, {array.min():g} to {array.max():g}"
        for name, array in batch.items()
    ]
    describe = _describe_window
    if isinstance(dataset.splits["train"].codec, ConversationCodec):
        describe = _describe_conversations
    if "source" in batch:
        describe = _describe_pair
        lines.append(_describe_padding(batch))
    if "label" in batch:
        describe = _describe_picture if "image" in batch else _describe_text
    if "frames" in batch:
        describe = _describe_sound
    for row in range(min(_EXAMPLES, len(batch["weights"]))):
        example = {name: array[row] for name, array in batch.items()}
        origin = f", of {origins[row]}" if origins else ""
        lines += ["", f"example {row}{origin}", *describe(example, dataset)]
    if origins:
        counts = [f"{origins.count(name)} of {name}" for name in dict.fromkeys(origins)]
        lines[:0] = [f"of {len(origins)} examples {', '.join(counts)}"]
    return "\n".join(lines)


def describe_preparation(dataset: Dataset) -> Iterator[str]:
    """Yield lines of text for the user: what cleaning removed, and how much padding there is.

    Each cleaned split has a line with the number of documents that stay, and the effect of each
    step. Each split with windows packed by best fit, or with padded training batches, has a line
    with its share of padding.
    """
    for cleaned, counts in dataset.cleaning.items():
        before, after = counts["documents"]
        steps = [f"{name} {effect}" for name, effect in _steps(counts) if effect != "0"]
        by = f" ({'; '.join(steps)})" if steps else ""
        yield f"cleaning {cleaned}: {after:,} of {before:,} documents stay{by}"
    for split in dataset.splits.values():
        if split.padding is None:
            continue
        if split.lengths is None:
            of = f"{split.examples:,} windows"
            yield f"packing {split.name}: {split.padding:.2%} of {of} is padding"
        else:
            bounds = [str(len(one)) for one in split.lengths.bounds]
            what, sides = "frames", f"to one of {bounds[0]} lengths"
            if len(bounds) > 1:
                sides = f"of sources and targets padded to one of {' and '.join(bounds)} lengths"
                what = "positions"
            yield (
                f"batches of {split.name}: {split.padding:.2%} of their {what} are padding, {sides}"
            )


def describe_unknown(dataset: Dataset) -> Iterator[str]:
    """Yield a warning for each split with unknown tokens.

    For training, warn only if their share is above `MUCH_UNKNOWN`.
    """
    unknown_id = None if dataset.tokenizer is None else dataset.tokenizer.unknown_id
    if unknown_id is None:
        return
    for name, split in dataset.splits.items():
        share = split.unknown / split.targets if split.unknown and split.targets else 0.0
        if not share or (name == "train" and share <= MUCH_UNKNOWN):
            continue
        token = dataset.decode([unknown_id])
        means = "a model can't write their text" if name == "train" else "no bits per byte"
        yield (
            f"{split.unknown:,} of {split.targets:,} tokens of {name} ({100 * share:.3g} %) are "
            f"{token}: {means}"
        )


_THINGS = {
    "text": "windows",
    "labelled_text": "texts",
    "text_pairs": "pairs",
    "pictures": "pictures",
    "transcribed_sound": "recordings",
    "labelled_sound": "recordings",
}
"""Plural noun for the examples of each modality, in messages."""


def split_rows(dataset: Dataset, settings: Any) -> list[tuple[str, str]]:
    """Return, for each split, its name and a line of text: its size and where it comes from.

    settings: `config.data`.
    """
    rows = []
    for name, split in dataset.splits.items():
        held = [f"{split.examples:,} {_THINGS[settings.modality]}"]
        if split.targets is not None:
            which = " to predict" if _has_other_tokens(split) else ""
            held.append(f"{split.targets:,} tokens{which}")
        held += [f"{split.seconds / 3600:.2f} hours"] if split.seconds is not None else []
        rows.append((name, f"{', '.join(held)}: {dataset.places[name]}"))
    return rows


def _has_other_tokens(split: Split) -> bool:
    """Return whether a model reads tokens that are not targets, such as user turns or sources.

    In plain text every token is a target, even if the task later predicts only some of them.
    """
    return split.tokens != split.targets


def data_table(dataset: Dataset) -> list[tuple[str, ...]]:
    """Return a table of the counts of each split and the documents that cleaning removed.

    Each row is a tuple of cells. The first row is the header, with the names of the splits.
    """
    splits, cleaned = dataset.splits, dataset.cleaning
    unit = splits["train"].codec.unit
    rows = [("", *splits), (unit, *(f"{one.examples:,}" for one in splits.values()))]
    for part in splits["train"].parts:
        found = [
            next((p for p in one.parts if p.name == part.name), None) for one in splits.values()
        ]
        rows.append((f"of {part.name}", *(f"{one.examples:,}" if one else "" for one in found)))
    for name in (
        "documents",
        "conversations",
        "tokens",
        "targets",
        "bytes",
        "broken",
        "left_out",
        "cut",
    ):
        if name == "targets" and not any(map(_has_other_tokens, splits.values())):
            continue
        if all(getattr(one, name) is not None for one in splits.values()):
            texts = (f"{getattr(one, name):,}" for one in splits.values())
            rows.append((name.replace("_", " "), *texts))
    seconds = [one.seconds for one in splits.values() if one.seconds is not None]
    if len(seconds) == len(splits):
        rows.append(("hours", *(f"{one / 3600:.2f}" for one in seconds)))
    shares = [one.padding for one in splits.values()]
    if any(share is not None for share in shares):
        rows.append(("padding", *("" if share is None else f"{share:.2%}" for share in shares)))
    if cleaned:
        for name, (what, number) in {
            "documents before cleaning": ("documents", 0),
            "documents after": ("documents", 1),
        }.items():
            rows.append((name, *(f"{cleaned[split][what][number]:,}" for split in splits)))
        steps = [dict(_steps(cleaned[split])) for split in splits]
        rows += [(step, *(one[step] for one in steps)) for step in steps[0]]
    return rows


def _steps(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each cleaning step, and its effect on a split."""
    for name, step in counts["steps"].items():
        documents, characters = step["documents"], step["characters"]
        plural = "" if documents == 1 else "s"
        effect = f"{documents:,} document{plural}, {characters:,} characters" if documents else "0"
        yield name.replace("_", " "), effect


def _describe_window(example: Mapping[str, NDArray[Any]], dataset: Dataset) -> Iterator[str]:
    tokens, targets, weights = example["tokens"], example["targets"], example["weights"]
    text = dataset.decode(tokens[weights > 0])
    yield f"  {int((weights > 0).sum())} targets; {_shorten(text)!r}"
    yield "  position  token                    target                   weight  segment"
    length = len(tokens)
    for place in [*range(min(_FIRST, length)), *range(max(_FIRST, length - _LAST), length)]:
        columns = (f"{token:6} {dataset.decode([token])!r}" for token in
                   (tokens[place], targets[place]))  # fmt: skip
        segment = example["segments"][place] if "segments" in example else "-"
        pair = "".join(f"{column:25}" for column in columns)
        yield f"  {place:8}  {pair}{weights[place]:6g}  {segment:>7}"


def _describe_conversations(example: Mapping[str, NDArray[Any]], dataset: Dataset) -> Iterator[str]:
    """Yield lines for each conversation; `>` marks the parts that count in the loss."""
    segments, learnt = example["segments"], example["weights"] > 0
    count, there = int(segments.max()), int((segments > 0).sum())
    yield (
        f"  {count} conversation{'' if count == 1 else 's'}, {there} of {len(segments)} positions; "
        f"{int(learnt.sum())} targets count, those after >"
    )
    for number in range(1, count + 1):
        (here,) = np.nonzero(segments == number)
        tokens = np.append(example["tokens"][here[:1]], example["targets"][here])
        counts = np.append(False, learnt[here])
        turns = np.split(np.arange(len(tokens)), np.nonzero(np.diff(counts))[0] + 1)
        for place, turn in enumerate(turns):
            sign = ">" if counts[turn[0]] else " "
            head = f"  {number:3} {sign}" if place == 0 else f"      {sign}"
            yield f"{head} {_shorten(dataset.decode(tokens[turn]))!r}"


def _label(example: Mapping[str, NDArray[Any]], dataset: Dataset) -> str:
    label, classes = int(example["label"]), dataset.spec.classes
    assert classes is not None
    return f"label {label} ({classes[label]})"


def _describe_text(example: Mapping[str, NDArray[Any]], dataset: Dataset) -> Iterator[str]:
    tokens = example["tokens"][example["segments"] > 0]
    yield f"  {_label(example, dataset)}, weight {example['weights']:g}"
    yield f"  {len(tokens)} tokens; {_shorten(dataset.decode(tokens))!r}"


def _describe_padding(batch: Mapping[str, NDArray[Any]]) -> str:
    real = batch["source_segments"].sum() + (batch["weights"] > 0).sum()
    empty = 1 - real / (batch["source"].size + batch["targets"].size)
    return f"{empty:.2%} of the positions of sources and targets hold nothing"


def _describe_pair(example: Mapping[str, NDArray[Any]], dataset: Dataset) -> Iterator[str]:
    source = example["source"], example["source_segments"] > 0
    target = example["targets"], example["weights"] > 0
    for name, (tokens, there) in {"source": source, "target": target}.items():
        text = dataset.decode(tokens[there])
        yield f"  {name}: {int(there.sum())} of {len(tokens)} tokens; {_shorten(text)!r}"


def _describe_picture(example: Mapping[str, NDArray[Any]], dataset: Dataset) -> Iterator[str]:
    yield f"  {_label(example, dataset)}, weight {example['weights']:g}"
    grey = example["image"].mean(axis=-1)
    step = -(-grey.shape[1] // _COLUMNS)
    for line in grey[::step, ::step]:
        shades = (_SHADES[int(level) * len(_SHADES) // 256] for level in line)
        yield "  " + "".join(2 * shade for shade in shades)


def _describe_sound(example: Mapping[str, NDArray[Any]], dataset: Dataset) -> Iterator[str]:
    if "label" in example:
        target = _label(example, dataset)
    else:
        tokens = example["labels"][example["label_weights"] > 0]
        target = f"{len(tokens)} tokens, {_shorten(dataset.decode(tokens))!r}"
    yield f"  {target}, weight {example['weights']:g}"
    frames = example["frames"][example["segments"] > 0]
    if not len(frames):
        return
    codec = dataset.splits["train"].codec
    assert isinstance(codec, SoundCodec)
    yield f"  {len(frames)} frames, {codec.log_mel.seconds(len(frames)):.2f} s"
    across = np.array_split(frames, min(2 * _COLUMNS, len(frames)))
    image = np.stack([column.mean(axis=0) for column in across], axis=1)[::-1]
    down = np.array_split(image, min(_ROWS, len(image)))
    grey = np.stack([row.mean(axis=0) for row in down])
    low, high = np.percentile(grey, (5, 95))
    levels = ((grey - low) / max(high - low, 1e-6) * len(_SHADES)).clip(0, len(_SHADES) - 1)
    for line in levels.astype(int):
        yield "  " + "".join(_SHADES[level] for level in line)


def _shorten(text: str) -> str:
    if len(text) <= _TEXT:
        return text
    return f"{text[: _TEXT // 2]} ... {text[-_TEXT // 2 :]}"
