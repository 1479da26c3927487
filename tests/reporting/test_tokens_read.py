"""Throughput counts the tokens that a model reads: all that is no padding, targets or not."""

import json

import pytest

from configs.schema.conversations import Conversations
from configs.schema.data import Records, Table
from configs.schema.pairs import ParallelText
from configs.schema.tokenizers import Bytes
from data.batches import Batches
from data.codecs.chat import ChatEncoder
from data.codecs.tokenizers import Tokenizer
from data.preparation import prepare
from reporting.step_meter import count_tokens

TEXTS = ["one", "twenty", "one hundred and one", "seven"]
LETTERS = sum(map(len, TEXTS))
FIXED = {"tokenizer": Bytes(), "validation_fraction": 0.0}


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def windows(folder, **changes):
    """A stream of the texts, each behind the separator: the last letter is a target alone."""
    path = write(folder / "all.jsonl", [{"text": text} for text in TEXTS])
    return Records(path=path, sequence_length=16, **FIXED, **changes), LETTERS + len(TEXTS) - 1


def windows_together(folder):
    return windows(folder, cross_document_attention=True)


def best_fit(folder):
    """Each text between two separators, of which the one behind it is a target alone."""
    settings, _ = windows(folder, packing="best_fit")
    return settings, LETTERS + len(TEXTS)


def conversations(folder):
    rows = [{"prompt": text, "answer": text.upper()} for text in TEXTS]
    talks = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": text.upper()}]
        for text in TEXTS
    ]
    ids = [one.ids for one in ChatEncoder(Tokenizer.bytes(), None).encode_many(talks)]
    path = write(folder / "chat.jsonl", rows)
    return Conversations(path=path, sequence_length=96, **FIXED), sum(map(len, ids)) - len(ids)


def labelled(folder):
    rows = [{"text": text, "label": "long" if len(text) > 9 else "short"} for text in TEXTS]
    path = write(folder / "all.jsonl", rows)
    return Table(path=path, sequence_length=16, **FIXED), LETTERS - 3  # one text is cut to 16


def pairs(folder):
    """With the separator behind each source and before each target."""
    for side in ("en", "de"):
        (folder / f"train.{side}").write_text("".join(f"{text}\n" for text in TEXTS))
    return ParallelText(path=str(folder), **FIXED), 2 * (LETTERS + len(TEXTS))


@pytest.mark.parametrize(
    "make", [windows, windows_together, best_fit, conversations, labelled, pairs]
)
def test_all_tokens_but_padding_are_counted_once(make, tmp_path):
    settings, expected = make(tmp_path)
    dataset = prepare(settings)
    split = dataset.splits["train"]
    batches = Batches(split, global_batch_size=split.examples, seed=0, shuffle=False)
    read = [count_tokens(batches[number])["tokens"] for number in range(len(batches))]
    assert sum(map(int, read)) == expected == split.tokens
    assert dataset.tokens_per_example == pytest.approx(expected / split.examples)
