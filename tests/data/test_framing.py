"""What a tokenizer.json puts around a text stands around every text and every document."""

import csv

import numpy as np
import pytest

from configs.errors import UsageError
from configs.schema.data import Table, TextFiles
from configs.schema.tokenizers import TokenizerFile
from data.batches import Batches
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset
from data.preparation import prepare
from tests.interop.foreign import write_tokenizer

DOCUMENTS = {"a.txt": "5 times 3 is 15.", "b.txt": "is it, or isn't it?", "c.txt": "3"}


def load(place, family) -> tuple[Tokenizer, TokenizerFile]:
    write_tokenizer(place, family)
    path = place / "tokenizer.json"
    return Tokenizer.load(path), TokenizerFile(path=str(path))


def rows(dataset: Dataset, split: str = "train") -> dict[str, np.ndarray]:
    """All of a split in one batch."""
    one = dataset.splits[split]
    return Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("packing", ["windows", "best_fit"])
def test_documents_are_framed(family, packing, tmp_path):
    tokenizer, setting = load(tmp_path / "folder", family)
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in DOCUMENTS.items():
        (texts / name).write_text(text)
    settings = TextFiles(path=str(texts), tokenizer=setting, sequence_length=64, packing=packing,
                         cross_document_attention=False, validation_fraction=0.0)  # fmt: skip
    dataset = prepare(settings)
    framed = [
        [*tokenizer.document_opening, *tokenizer.encode(text), *tokenizer.closing]
        for text in DOCUMENTS.values()
    ]
    batch = rows(dataset)
    seen = [
        batch["tokens"][row][batch["segments"][row] == segment].tolist()
        for row in range(len(batch["tokens"]))
        for segment in range(1, batch["segments"][row].max() + 1)
    ]
    if packing == "windows":  # the very last token is a target alone
        last = int(batch["targets"][-1][batch["weights"][-1] > 0][-1])
        seen[-1].append(last)
    assert sorted(seen) == sorted(framed)
    around = [*tokenizer.opening.tolist(), *tokenizer.closing.tolist()]
    assert list(dataset.spec.framing or ()) == around


def test_parts_of_a_long_document_are_each_framed(tmp_path):
    tokenizer, setting = load(tmp_path / "folder", "bert")
    text = "5 times 3 is 15, or isn't it? " * 3000  # of several pieces
    (tmp_path / "long.txt").write_text(text)
    settings = TextFiles(path=str(tmp_path / "long.txt"), tokenizer=setting, sequence_length=32,
                         packing="best_fit", validation_fraction=0.0)  # fmt: skip
    dataset = prepare(settings)
    batch = rows(dataset)
    opening, closing = tokenizer.opening[0], tokenizer.closing[0]
    whole = batch["tokens"][:-1]
    assert (whole[:, 0] == opening).all() and (whole[:, -1] == closing).all()
    inside = whole[:, 1:-1]
    assert not np.isin(inside, [opening, closing]).any()
    last = batch["tokens"][-1][batch["segments"][-1] > 0]
    assert (last[0], last[-1]) == (opening, closing)
    assert [*inside.flatten(), *last[1:-1]] == tokenizer.encode(text).tolist()
    assert dataset.splits["train"].targets == int(batch["weights"].sum())


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_labelled_texts_are_framed_and_their_ends_are_kept(family, tmp_path):
    tokenizer, setting = load(tmp_path / "folder", family)
    texts = ["5 times 3 is 15.", "is it, or isn't it? " * 3] * 6
    with (tmp_path / "train.csv").open("w", newline="") as file:
        named = [(text, "even" if n % 2 else "odd") for n, text in enumerate(texts)]
        csv.writer(file).writerows([("text", "label"), *named])
    settings = Table(path=str(tmp_path / "train.csv"), tokenizer=setting, sequence_length=16)
    dataset = prepare(settings)
    batch = rows(dataset)
    expected = {tuple(tokenizer.framed(tokenizer.encode(text), 16).tolist()) for text in texts}
    pairs = zip(batch["tokens"], batch["segments"], strict=True)
    assert {tuple(tokens[real > 0].tolist()) for tokens, real in pairs} == expected
    for tokens in expected:
        closing = tokenizer.closing.tolist()
        assert list(tokens[len(tokens) - len(closing) :]) == closing
        np.testing.assert_array_equal(tokens[: len(tokenizer.opening)], tokenizer.opening)
    assert max(map(len, expected)) == 16 and dataset.splits["train"].cut


def test_a_length_without_room_for_a_text_is_refused(tmp_path):
    _, setting = load(tmp_path / "folder", "bert")
    (tmp_path / "texts.csv").write_text("text,label\n1,a\n2,b\n3,a\n4,b\n")
    settings = Table(path=str(tmp_path / "texts.csv"), tokenizer=setting, sequence_length=2)
    with pytest.raises(UsageError, match=r"sequence_length=2 has no room .* 2 tokens around each"):
        prepare(settings)
