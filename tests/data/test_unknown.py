"""Promises about text that a tokenizer has no token for: counted, and without bits per byte."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from configs.schema.data import Conversations, Mixture, TextFiles
from configs.schema.tokenizers import BPE, Characters, TokenizerFile, Unigram, WordPiece, Words
from data import preparation
from data.codecs.tokenizers import Tokenizer
from data.dataset import Dataset, Split

ENGLISH = "the cat sat on the mat\n" * 20
JAPANESE = "日本語 the cat\n"


def folder(tmp_path: Path, validation: str = JAPANESE, train: str = ENGLISH) -> Path:
    for split, text in {"train": train, "validation": validation}.items():
        (tmp_path / split).mkdir(parents=True)
        (tmp_path / split / "text.txt").write_text(text, encoding="utf-8")
    return tmp_path


def prepare(path: Path, tokenizer, **changes) -> tuple[Dataset, list[str]]:
    """The data, and what is told of it as a warning."""
    warnings: list[str] = []
    given = {"path": str(path), "sequence_length": 8, "tokenizer": tokenizer} | changes
    settings = TextFiles(**given, cache_dir=str(path / ".cache"))
    return preparation.prepare(settings, warn=warnings.append, inform=lambda line: None), warnings


def wordpiece_file(path: Path) -> Path:
    """WordPiece on characters, as BERT has it: another word is [UNK]."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "mat"]
    backend = tokenizers.Tokenizer(
        models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(path))
    return path


@pytest.mark.parametrize("packing", ["windows", "best_fit"])
def test_unknown_characters_are_counted_and_their_split_has_no_bits_per_byte(tmp_path, packing):
    dataset, warnings = prepare(folder(tmp_path), Characters(), packing=packing)
    train, validation = dataset.splits["train"], dataset.splits["validation"]
    assert (train.unknown, validation.unknown) == (0, 3)
    assert train.coded_bytes == train.bytes == len(ENGLISH)
    assert validation.bytes == len(JAPANESE.encode())
    assert validation.coded_bytes is None and validation.gzip_bits_per_byte is None
    total = validation.targets
    share = f"{300 / total:.3g} %"
    told = f"3 of {total} tokens of validation ({share}) are <|unknown|>: no bits per byte"
    assert warnings == [told]
    assert prepare(tmp_path, Characters(), packing=packing)[1] == [told]  # also when it is there


def test_the_unknown_token_of_a_file_is_counted_by_its_own_name(tmp_path):
    tokenizer = TokenizerFile(path=str(wordpiece_file(tmp_path / "tokenizer.json")))
    dataset, warnings = prepare(folder(tmp_path / "text"), tokenizer)
    assert dataset.splits["validation"].unknown == 1
    assert dataset.splits["train"].unknown == 0
    assert warnings == ["1 of 3 tokens of validation (33.3 %) are [UNK]: no bits per byte"]


def test_many_unknown_words_of_training_are_told_and_few_are_not(tmp_path):
    text = folder(tmp_path, validation="the the\n", train="the\n" * 50 + "the cat\n")
    dataset, warnings = prepare(text, Words(vocabulary_size=4))  # the separator, unknown, the, \n
    train = dataset.splits["train"]
    assert train.unknown == 1 and dataset.splits["validation"].unknown == 1  # " the"
    assert len(warnings) == 1 and " of validation (" in warnings[0]  # 1 of 103: below a hundredth
    _, warnings = prepare(text, Words(vocabulary_size=3))
    assert any(line.startswith("52 of 103 tokens of train (50.5 %) are <|unk") for line in warnings)


@pytest.mark.parametrize(
    "tokenizer",
    [BPE(vocabulary_size=300), Unigram(vocabulary_size=300), WordPiece(vocabulary_size=600)],
    ids=lambda one: one.kind,
)
def test_what_is_made_of_bytes_knows_every_text(tmp_path, tokenizer):
    dataset, warnings = prepare(folder(tmp_path), tokenizer)
    validation = dataset.splits["validation"]
    assert warnings == [] and validation.unknown == 0
    assert validation.coded_bytes == len(JAPANESE.encode()) and validation.gzip_bits_per_byte > 0


def test_a_unigram_model_says_its_unknown_token_by_number():
    backend = tokenizers.Tokenizer(models.Unigram([("a", -1.0), ("<unk>", 0.0)], unk_id=1))
    assert Tokenizer(backend).unknown_id == 1


def test_a_mixture_has_no_bits_per_byte_where_one_of_its_sources_has_none(tmp_path):
    for name, validation in {"known": ENGLISH, "unknown": JAPANESE}.items():
        folder(tmp_path / name, validation)
    mixture = Mixture(
        parts=tuple(f"text_files:{tmp_path / name}" for name in ("known", "unknown")),
        weights=(1.0, 1.0),
        sequence_length=8,
        tokenizer=Characters(),
        cache_dir=str(tmp_path / "cache"),
    )
    split = preparation.prepare(mixture).splits["validation"]
    assert [part.unknown for part in split.parts] == [0, 3]
    assert split.unknown == 3 and split.coded_bytes is None and split.gzip_bits_per_byte is None


def test_of_conversations_the_unknown_targets_that_count_are_counted(tmp_path):
    def prepare(answer: str, prompt: str) -> tuple[Split, list[str]]:
        for name, one in {"train": ("yes or no?", "yes"), "validation": (prompt, answer)}.items():
            line = json.dumps({"prompt": one[0], "answer": one[1]})
            (tmp_path / f"{name}.jsonl").write_text(f"{line}\n", encoding="utf-8")
        warnings: list[str] = []
        chats = Conversations(
            path=str(tmp_path),
            sequence_length=64,
            tokenizer=Characters(),
            cache_dir=str(tmp_path / "cache"),
        )
        return preparation.prepare(chats, warn=warnings.append).splits["validation"], warnings

    split, warnings = prepare("日本", prompt="yes?")
    assert split.unknown == 2 and split.coded_bytes is None
    assert "2 of 3 tokens of validation (66.7 %) are <|unknown|>: no bits per byte" in warnings
    split, _ = prepare("yes", prompt="日本?")  # what is unknown need not be written
    assert split.unknown == 0 and split.coded_bytes == split.bytes == len("yes")
