"""Promises of `data.changes`: whoever has an old workdir learns what changed in its data."""

import dataclasses

from configs.schema.data import TextFiles
from configs.schema.tokenizers import Bytes
from data import changes
from data.preparation import prepare


def test_the_differences_are_named(monkeypatch):
    monkeypatch.setattr(changes, "CHANGES", {"pictures": {4: "12 bits are scaled", 5: "tRNS"}})
    old = {"source": "a", "pictures": 3, "image_size": 8}
    assert changes.between(old, {**old, "source": "b"}) == (
        "its files, their order or their splits: their hash was a, is b"
    )
    assert changes.between(old, {**old, "pictures": 4}) == "12 bits are scaled"
    assert changes.between(old, {**old, "pictures": 5, "image_size": 9}) == (
        "12 bits are scaled, and tRNS, and image_size was 8, is 9"
    )
    tokenizer = {"kind": "file", "sha256": 64 * "a"}
    assert changes.between(
        old | {"tokenizer": tokenizer}, old | {"tokenizer": tokenizer | {"sha256": 64 * "b"}}
    ) == (f"data.tokenizer: sha256 was {12 * 'a'}, is {12 * 'b'}")
    documents = {"documents": {"version": 1, "largest": 8}}
    monkeypatch.setitem(changes.CHANGES, "documents", {2: "longer ones are whole"})
    assert changes.between(documents, {"documents": {"version": 2}}) == "longer ones are whole"
    assert changes.between({}, {"documents": {"version": 2}}) == "longer ones are whole"
    assert changes.between({**old, "pictures": 4}, {**old, "pictures": 5}) == "tRNS"
    assert changes.between(None, old) == "its files, or 12 bits are scaled and tRNS"
    assert changes.between(None, {"source": "a"}) == ""


def test_only_other_examples_are_a_change(corpus, tmp_path):
    settings = TextFiles(path=str(corpus), tokenizer=Bytes(), cache_dir=str(tmp_path / "cache"))
    dataset = prepare(settings)
    data = dataset.metadata
    assert dataset.changes_since(data) is None
    other = dataclasses.replace(dataset, prepared_by={**dataset.prepared_by, "sequence_length": 9})
    assert other.changes_since(data) is None
    other = dataclasses.replace(other, fingerprint="another")
    assert other.changes_since(data) == "the data changed (sequence_length was 256, is 9)"
    more = other.changes_since(data | {"examples": 7})
    assert more == (
        "the data changed (sequence_length was 256, is 9; "
        f"train had 7 windows, has {dataset.splits['train'].examples})"
    )
