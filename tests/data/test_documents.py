"""A document has the ids of the whole, however long it is and however it was stored."""

import numpy as np
import pytest

from configs.schema.data import PythonStdlib, Table, TextFiles
from configs.schema.tokenizers import BPE, Bytes, Characters, TokenizerFile
from data import document_encoding
from data.batches import Batches
from data.codecs import tokenizers
from data.codecs.tokenizers import Tokenizer
from data.document_encoding import DocumentPart, encode_documents
from data.preparation import prepare
from data.sources import documents
from data.sources.documents import pieces
from data.sources.registry import open_source
from tests.data.splitters import LONG, SAMPLE, SPLITTERS, random_text
from tests.data.test_preparation import text_of
from tests.selection import a_third_of

OWN = {
    "characters": Tokenizer.characters([SAMPLE]),
    "bytes": Tokenizer.bytes(),
    "bpe": Tokenizer.train_bpe([SAMPLE], 300),
    "unigram": Tokenizer.train_unigram([SAMPLE], 300),
    "wordpiece": Tokenizer.train_wordpiece([SAMPLE], 560),
    "words": Tokenizer.train_words([SAMPLE], 100),
}


@pytest.fixture(params=[*SPLITTERS, *OWN], scope="module")
def tokenizer(request) -> Tokenizer:
    name = request.param
    return OWN[name] if name in OWN else Tokenizer(SPLITTERS[name]())


def stored(texts) -> list[dict]:
    """The pieces of `texts`, as the sources have them."""
    numbered = (piece for text in texts for piece in enumerate(pieces([text])))
    return [{"piece": number, "text": text} for number, text in numbered]


def encoded(texts, tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of each of `texts`, which were stored in pieces."""
    found: list[list[int]] = []
    for part, ids in encode_documents(stored(texts), tokenizer):
        assert not part.is_cut
        if part.index == 0:
            found.append([])
        found[-1] += ids.tolist()
    return found


def parts_of(texts, tokenizer: Tokenizer) -> list[DocumentPart]:
    return [*document_encoding._parts(stored(texts), tokenizer)]


def file_of(tmp_path, name: str) -> TokenizerFile:
    path = tmp_path / "tokenizer.json"
    SPLITTERS[name]().save(str(path))
    return TokenizerFile(path=str(path))


@pytest.mark.parametrize("text", a_third_of(LONG))
def test_a_long_text_has_the_ids_of_the_whole(tokenizer, text):
    assert len(stored([LONG[text]])) > 1
    expected = tokenizer.backend.encode(LONG[text], add_special_tokens=False).ids
    assert encoded(["it is", LONG[text], ""], tokenizer) == [
        tokenizer.encode("it is").tolist(), expected, []
    ]  # fmt: skip


def test_any_pieces_have_the_ids_of_the_whole(tokenizer, monkeypatch):
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 7)
    texts = [random_text(seed, 100) for seed in range(100)]
    assert encoded(texts, tokenizer) == [tokenizer.encode(text).tolist() for text in texts]


@pytest.mark.parametrize("name", ["Llama 3", "Qwen 2"])
def test_words_of_known_patterns_are_encoded_in_parts(name):
    text = LONG["of words"].replace("\n", " ")
    assert len(parts_of([text], Tokenizer(SPLITTERS[name]()))) == len(stored([text])) > 1


def test_words_of_our_tokenizers_are_encoded_piece_by_piece():
    source = open_source(PythonStdlib())
    found = [*source.splits["validation"]]
    assert max(one["piece"] for one in found) > 0
    for tokenizer in (*OWN.values(), Tokenizer(SPLITTERS["byte level"]())):
        parts = document_encoding._parts(found, tokenizer)
        assert [{"piece": part.index, "text": part.text} for part in parts] == [
            {name: one[name] for name in ("piece", "text")} for one in found
        ]


@pytest.mark.parametrize("packing", ["windows", "best_fit"])
@pytest.mark.parametrize("name", ["Llama 2", "Llama 3", "metaspace before the first"])
def test_windows_of_a_long_file_have_the_ids_of_the_whole(tmp_path, name, packing):
    (tmp_path / "long.txt").write_text(LONG["of all"], newline="")
    settings = TextFiles(path=str(tmp_path / "long.txt"), tokenizer=file_of(tmp_path, name),
                         sequence_length=512, packing=packing, validation_fraction=0.0)  # fmt: skip
    dataset = prepare(settings)
    split = dataset.splits["train"]
    batch = Batches(split, global_batch_size=split.examples, seed=0, shuffle=False)[0]
    targets = batch["targets"][batch["weights"] > 0]
    own = targets[targets != dataset.tokenizer.separator_id]
    ids = dataset.tokenizer.backend.encode(LONG["of all"], add_special_tokens=False).ids
    assert own.tolist() == ids
    assert split.bytes == len(LONG["of all"].encode())
    assert dataset.warnings == () and split.cut is None


def test_labelled_texts_have_the_ids_of_the_whole(tmp_path):
    text = " ".join(LONG["of words"].split())
    rows = "".join(f'{label},"{"x" * n}{text}"\n' for n, label in enumerate("abab"))
    (tmp_path / "rows.csv").write_text(f"label,text\n{rows}")
    setting = file_of(tmp_path, "Llama 2")
    settings = Table(path=str(tmp_path / "rows.csv"), tokenizer=setting, sequence_length=2**16,
                     validation_fraction=0.0)  # fmt: skip
    dataset = prepare(settings)
    batch = Batches(dataset.splits["train"], global_batch_size=4, seed=0, shuffle=False)[0]
    for row in range(4):
        ids = batch["tokens"][row][batch["segments"][row] > 0].tolist()
        assert ids == dataset.tokenizer.encode("x" * row + text).tolist()


def test_too_large_documents_are_cut_at_line_ends_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(document_encoding, "DOCUMENT_BYTES", 2**16)
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 2**10)
    lines = "It's naïve, or isn't it?\n" * 4000
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "large.txt").write_text(lines)
    (tmp_path / "texts" / "small.txt").write_text(lines[: 2**15])
    settings = TextFiles(path=str(tmp_path / "texts"), tokenizer=file_of(tmp_path, "Llama 2"),
                         validation_fraction=0.0)  # fmt: skip
    told: list[str] = []
    for _ in range(2):
        dataset = prepare(settings, warn=told.append)
    assert told == 2 * [
        "1 of 2 documents of train are larger than 0.0625 MiB, and encoded in parts: tokens at the "
        "cuts may differ from those of the whole"
    ]
    assert dataset.splits["train"].cut == 1
    assert dataset.splits["train"].bytes == len(lines.encode()) + len(lines[: 2**15].encode())
    parts = parts_of([lines], dataset.tokenizer)
    assert [(part.index, part.is_cut) for part in parts] == [(0, False), (1, True)]
    assert parts[0].text.endswith("\n") and "".join(part.text for part in parts) == lines
    assert 2**16 - 100 < len(parts[0].text.encode()) <= 2**16
    for own in (Characters(), Bytes(), BPE(vocabulary_size=300)):  # cut where it does not matter
        dataset = prepare(settings.model_copy(update={"tokenizer": own}), warn=told.append)
        assert dataset.splits["train"].cut is None
    assert len(told) == 2
    assert text_of(dataset, "train").split("<|endoftext|>")[1:] == [lines, lines[: 2**15]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one\ntwo three four", ["one\n", "two three", " four"]),
        ("one two three", ["one two", " three"]),
        ("onetwothreefour", ["onetwothre", "efour"]),
        ("éééééé é", ["ééééé", "é é"]),
        ("one two\n", ["one two\n"]),
    ],
)
def test_a_long_line_is_cut_before_white_space(monkeypatch, text, expected):
    monkeypatch.setattr(document_encoding, "DOCUMENT_BYTES", 10)
    tokenizer = Tokenizer(SPLITTERS["Llama 2"]())
    parts = [*document_encoding._parts(stored([text, "x"]), tokenizer)]
    assert [part.text for part in parts] == [*expected, "x"]
    assert [part.is_cut for part in parts] == [False, *[True] * (len(expected) - 1), False]
    assert [part.index for part in parts] == [*range(len(expected)), 0]


def test_a_document_that_needs_no_cut_is_one_part_with_its_first_example():
    texts = [(0, "It's"), (1, " it"), (2, "?"), (0, "")]
    examples = [{"piece": number, "text": text, "name": text} for number, text in texts]
    found = [*encode_documents(examples, Tokenizer(SPLITTERS["Llama 2"]()))]
    assert [part for part, _ in found] == [
        DocumentPart(0, "It's it?", False, examples[0]), DocumentPart(0, "", False, examples[3])
    ]  # fmt: skip


def test_texts_are_read_and_encoded_in_batches_of_bounded_size(monkeypatch):
    monkeypatch.setattr(tokenizers, "_BATCH_CHARACTERS", 10)
    monkeypatch.setattr(tokenizers, "_BATCH_TEXTS", 3)
    texts, read = ["a" * 9, "b" * 9, "c", "d", "e", "f"], []
    encoding = Tokenizer.bytes().encode_each(read.append(one) or one for one in texts)
    seen = []
    for text, ids in zip(texts, encoding, strict=True):
        assert ids.tolist() == [*text.encode()] and ids.dtype == np.int32
        seen.append(len(read))
    assert seen == [2, 2, 5, 5, 5, 6]
