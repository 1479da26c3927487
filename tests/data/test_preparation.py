"""Promises of preparation: once, whole or not at all, and again when anything changes."""

import gzip
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from configs.errors import UsageError
from configs.schema.data import PythonStdlib, TextFiles
from configs.schema.pictures import Digits
from configs.schema.tokenizers import BPE, Bytes, Characters, TokenizerFile, Unigram, WordPiece
from data import tokenizer_training
from data.batches import Batches
from data.cache import cache_dir
from data.codecs.pictures import decode_picture, encode_picture
from data.codecs.tokenizers import SEPARATOR
from data.dataset import Dataset
from data.order import permutation
from data.preparation import prepare
from data.progress import in_blocks, silent, track

PREPARE = """
import os, signal, sys
from data.preparation import prepare
from configs.schema.data import TextFiles
from configs.schema.tokenizers import BPE

def progress(stage, done, total, unit):
    print(stage, flush=True)
    if stage == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

settings = TextFiles(path=sys.argv[1], cache_dir=sys.argv[2], tokenizer=BPE(vocabulary_size=300))
print("fingerprint", prepare(settings, progress=progress).fingerprint)
"""


@pytest.fixture
def settings(corpus, tmp_path):
    """Settings of the corpus with a cache of its own."""

    def make(**changes) -> TextFiles:
        given = {"path": str(corpus), "sequence_length": 16, "tokenizer": Bytes()}
        return TextFiles(**(given | {"cache_dir": str(tmp_path / "cache")} | changes))

    return make


def start(corpus: Path, cache: Path, kill_at: str = "") -> subprocess.Popen:
    """A process of its own that prepares, and kills itself in the middle if asked to."""
    command = [sys.executable, "-c", PREPARE, str(corpus), str(cache), kill_at]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def prepared(cache: Path) -> list[Path]:
    """The folders of the cache that are taken for whole."""
    found = (path for path in cache.glob("*/*") if path.is_dir())
    return [path for path in found if not path.name.startswith(".")]


def stages_of(settings) -> list[str]:
    """What preparing does now."""
    stages: list[str] = []
    prepare(settings, progress=lambda stage, *_: stages.append(stage))
    return list(dict.fromkeys(stages))


def text_of(dataset: Dataset, split: str) -> str:
    """All text of a split, as its batches hold it."""
    batches = Batches(dataset.splits[split], global_batch_size=7, seed=0, shuffle=False)
    targets = [
        batch["targets"][batch["weights"] > 0]
        for batch in map(batches.__getitem__, range(len(batches)))
    ]
    return SEPARATOR + dataset.tokenizer.decode(np.concatenate(targets))


@pytest.mark.parametrize(
    "tokenizer",
    [
        Characters(),
        Bytes(),
        BPE(vocabulary_size=300),
        Unigram(vocabulary_size=300),
        WordPiece(vocabulary_size=600),
    ],
    ids=lambda one: one.kind,
)
def test_every_split_holds_all_of_its_text(settings, corpus, tokenizer):
    dataset = prepare(settings(tokenizer=tokenizer, sequence_length=33))
    total = 0
    for name, split in dataset.splits.items():
        documents = text_of(dataset, name).split(SEPARATOR)[1:]
        total += len(documents)
        sizes = [len(document.encode()) for document in documents]
        assert split.bytes == sum(sizes)
        assert split.examples == -(-split.targets // 33)
        if tokenizer.kind == "bytes":
            assert split.targets == split.bytes + len(documents) - 1
        for document in documents:
            assert any(document == path.read_text() for path in corpus.rglob("*.txt"))
    assert total == 30
    assert dataset.spec.model_arguments() == {
        "vocabulary_size": dataset.tokenizer.vocabulary_size,
        "max_length": 33,
    }


def test_gzip_is_measured_on_the_held_out_files_one_by_one(settings):
    dataset = prepare(settings())
    documents = text_of(dataset, "validation").split(SEPARATOR)[1:]
    compressed = sum(len(gzip.compress(document.encode(), 9)) for document in documents)
    split = dataset.splits["validation"]
    assert split.gzip_bits_per_byte == pytest.approx(8 * compressed / split.bytes, rel=1e-3)
    assert dataset.splits["train"].gzip_bits_per_byte is None


def test_it_happens_once_and_again_where_something_changed(settings, corpus, tmp_path):
    everything = ["packing train", "packing validation"]
    assert stages_of(settings()) == everything
    first = prepare(settings())
    unchanged = [
        {},
        {"workers": 3},
        {"global_batch_size": 5},
        {"cross_document_attention": False},
    ]
    for changes in unchanged:
        assert stages_of(settings(**changes)) == []
        assert prepare(settings(**changes)).fingerprint == first.fingerprint

    for changes in (
        {"sequence_length": 17},
        {"validation_fraction": 0.4},
        {"tokenizer": Characters()},
    ):
        assert stages_of(settings(**changes))
        assert prepare(settings(**changes)).fingerprint != first.fingerprint

    document = next(corpus.rglob("*.txt"))
    text = document.read_text()
    document.write_text(text.replace(text[-3], "#"))  # as long as before
    assert stages_of(settings()) == everything
    assert prepare(settings()).fingerprint != first.fingerprint
    document.write_text(text)
    assert stages_of(settings()) == []
    assert prepare(settings()).fingerprint == first.fingerprint


def test_the_same_text_at_another_place_is_the_same_data(settings, corpus, tmp_path):
    here = prepare(settings(tokenizer=BPE(vocabulary_size=300)))
    corpus.rename(tmp_path / "elsewhere")
    moved = settings(
        path=str(tmp_path / "elsewhere"),
        tokenizer=BPE(vocabulary_size=300),
        cache_dir=str(tmp_path / "another cache"),
    )
    assert stages_of(moved)
    assert prepare(moved).fingerprint == here.fingerprint


def test_a_killed_preparation_leaves_nothing_that_is_taken_for_whole(corpus, tmp_path):
    cache = tmp_path / "cache"
    for stage in ("packing train", "packing validation"):
        process = start(corpus, cache, kill_at=stage)
        assert process.wait() == -signal.SIGKILL
        assert not [path for path in prepared(cache) if path.parent.name == "prepared"]
    last = start(corpus, cache)
    assert "fingerprint" in last.communicate()[0]
    assert len(prepared(cache)) == 1
    assert not list(cache.glob("*/.*incomplete*"))


def test_two_processes_prepare_once_between_them(corpus, tmp_path):
    processes = [start(corpus, tmp_path / "cache") for _ in range(2)]
    outputs = [process.communicate()[0].splitlines() for process in processes]
    assert outputs[0][-1] == outputs[1][-1]
    assert outputs[0][-1].startswith("fingerprint ")
    assert sum("packing train" in output for output in outputs) == 1


@pytest.mark.parametrize(
    "name", ["train.array_record", "tokenizer.json", "metadata.json", "files.json"]
)
@pytest.mark.parametrize("damage", ["cut", "lost"])
def test_a_damaged_file_is_named(settings, tmp_path, name, damage):
    prepare(settings())
    file = next((tmp_path / "cache" / "prepared").glob(f"*/{name}"))
    if damage == "cut":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    with pytest.raises(UsageError, match="is damaged") as raised:
        prepare(settings())
    assert str(file) in str(raised.value)
    assert f"Delete the folder {file.parent}" in str(raised.value)


def test_a_flipped_bit_is_named_when_it_is_read(settings):
    split = prepare(settings()).splits["train"]
    content = bytearray(split.path.read_bytes())
    content[len(content) // 3] ^= 4
    split.path.write_bytes(content)
    with pytest.raises(UsageError, match=r"train\.array_record is damaged"):
        Batches(split, global_batch_size=4, seed=0, shuffle=True)[0]


def test_an_existing_tokenizer_is_used_and_its_contents_count(settings, tmp_path):
    path = tmp_path / "mine.json"
    from_file = settings(tokenizer=TokenizerFile(path=str(path)))
    with pytest.raises(UsageError, match=r"mine\.json can't be read"):
        prepare(from_file)
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"mine\.json is no tokenizer\.json"):
        prepare(from_file)
    trained = prepare(settings(tokenizer=BPE(vocabulary_size=300)))
    trained.tokenizer.save(path)
    assert prepare(from_file).fingerprint == trained.fingerprint
    prepare(settings(tokenizer=Characters())).tokenizer.save(path)
    assert prepare(from_file).fingerprint != trained.fingerprint


def test_byte_pairs_are_learnt_from_a_bounded_sample(settings, monkeypatch):
    whole = prepare(settings(tokenizer=BPE(vocabulary_size=400)))
    monkeypatch.setattr(tokenizer_training, "TRAINING_BYTES", 2000)
    sample = settings(tokenizer=BPE(vocabulary_size=400))
    assert prepare(sample).tokenizer.vocabulary() != whole.tokenizer.vocabulary()
    assert text_of(prepare(sample), "train") == text_of(whole, "train")


@pytest.mark.parametrize("most", [0, 1, 500, 5000, 10**6])
def test_the_sample_is_the_first_texts_of_a_fixed_order(monkeypatch, most):
    monkeypatch.setattr(tokenizer_training, "TRAINING_BYTES", most)
    monkeypatch.setattr(tokenizer_training, "_PLACES", 16)
    texts = ["é" * (number % 37) for number in range(200)]
    expected, read = [], 0
    for number in permutation(np.arange(200), size=200, seed=0, epoch=0).tolist():
        read += len(texts[number].encode())
        if read > most:
            break
        expected.append(texts[number])
    assert [*tokenizer_training._sample(lambda: iter(texts), 200, silent)] == expected


def test_a_text_is_read_twice_if_it_is_larger_than_the_sample(monkeypatch):
    passes = []
    for most in (2000, 100):
        monkeypatch.setattr(tokenizer_training, "TRAINING_BYTES", most)
        passes.append([])
        read = lambda: passes[-1].append(1) or iter(["a" * 10] * 50)  # noqa: E731
        assert len([*tokenizer_training._sample(read, 50, silent)]) == min(most, 500) // 10
    assert passes == [[1], [1, 1]]


def test_progress_ends_with_the_true_number_of_what_was_read():
    seen = []
    report = lambda *what: seen.append(what)  # noqa: E731
    assert [*track("abc", report, "packing", 2, "pieces")] == [*"abc"]
    assert seen == [("packing", 0, 2, "pieces"), ("packing", 3, 4, "pieces"),
                    ("packing", 3, 3, "pieces")]  # fmt: skip
    seen.clear()
    assert [*track("abc", report, "packing", 9, "pieces", is_estimate=True)] == [*"abc"]
    so_far = "pieces (estimated)"
    assert seen == [("packing", 0, 9, so_far), ("packing", 3, 9, so_far),
                    ("packing", 3, 3, "pieces")]  # fmt: skip
    seen.clear()
    assert [*in_blocks("abcd", 2, report, "s", 4, "u")] == [["a", "b"], ["c", "d"]]
    assert seen == [("s", 0, 4, "u"), ("s", 2, 4, "u"), ("s", 4, 4, "u")]  # a total that is exact
    seen.clear()
    assert [*in_blocks("abcde", 2, report, "s", 9, "u")] == [["a", "b"], ["c", "d"], ["e"]]
    assert [done for _, done, _, _ in seen] == [0, 2, 4, 5, 5]
    assert seen[-1] == ("s", 5, 5, "u")


def test_a_cache_that_can_not_be_written_is_named(settings, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "cache", Path("/proc/cache")):
        with pytest.raises(UsageError, match=r"data\.cache_dir"):
            prepare(settings(cache_dir=str(place)))


def test_the_place_of_the_cache(monkeypatch):
    monkeypatch.setenv("TRIFORM_CACHE", "/from/environment")
    assert cache_dir(Digits(cache_dir="/from/config")) == Path("/from/config")
    assert cache_dir(Digits()) == Path("/from/environment")
    monkeypatch.delenv("TRIFORM_CACHE")
    assert cache_dir(Digits()) == Path.home() / ".cache" / "triform"


def test_digits_are_the_pixels_of_scikit_learn():
    from sklearn.datasets import load_digits

    dataset = prepare(Digits())
    assert dataset.spec.classes == tuple("0123456789")
    assert dataset.spec.image_shape == (8, 8, 1)
    assert dataset.spec.model_arguments() == {"num_classes": 10, "image_shape": (8, 8, 1)}
    images, labels = load_digits(return_X_y=True)
    expected = sorted(
        (np.rint(image * (255 / 16)).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    )
    found = []
    for split in dataset.splits.values():
        batch = Batches(split, global_batch_size=split.examples, seed=0, shuffle=False)[0]
        found += [
            (image.tobytes(), int(label))
            for image, label in zip(batch["image"], batch["label"], strict=True)
        ]
    assert sorted(found) == expected
    large = prepare(Digits(image_size=12))
    batch = Batches(large.splits["test"], global_batch_size=4, seed=0, shuffle=False)[0]
    assert batch["image"].shape == (4, 12, 12, 1)
    assert large.fingerprint != dataset.fingerprint


def test_pictures_survive_png():
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    assert (decode_picture(encode_picture(picture), (9, 7, 3)) == picture).all()
    assert decode_picture(encode_picture(picture), (4, 5, 1)).shape == (4, 5, 1)
    with pytest.raises(ValueError, match="no picture"):
        decode_picture(b"nonsense", (8, 8, 1))


def test_the_standard_library_as_the_recipe_prepares_it():
    dataset = prepare(PythonStdlib())
    assert dataset.spec.model_arguments() == {"vocabulary_size": 4096, "max_length": 256}
    assert 1.8 < dataset.splits["validation"].gzip_bits_per_byte < 2.5
    assert dataset.splits["train"].bytes / dataset.splits["train"].targets > 3
    metadata = json.loads((dataset.splits["train"].path.parent / "metadata.json").read_text())
    (train,) = (part for part in metadata["parts"] if part["split"] == "train")
    assert train["counts"]["examples"] == dataset.splits["train"].examples


def test_nothing_is_left_outside_the_cache(settings, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    prepare(settings())
    assert not list(temporary.iterdir())
