"""Promises of WebDataset's shards: the same examples as of other files; what is wrong is told."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import train
from configs.errors import UsageError
from configs.schema.data import Records, Table, TextFiles, WebDataset, WebDatasetTable
from configs.schema.pairs import ParallelText, WebDatasetPairs
from configs.schema.pictures import ImageFolder, WebDatasetPictures
from configs.schema.sound import (
    SoundLabels,
    SoundTranscripts,
    WebDatasetSoundLabels,
    WebDatasetSoundTranscripts,
)
from configs.schema.tokenizers import Bytes
from data import file_stat_cache
from data.batches import Batches
from data.dataset import Dataset
from data.preparation import prepare
from data.sources.registry import open_source
from tests.data.test_sound_codec import encoded, voice

LABELS = ("no", "yes", "perhaps")

Files = list[tuple[str, bytes]]
"""The files of an archive: their names and contents."""


def pack(path: Path, files: Files, **options) -> Path:
    """Write an archive."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def text_samples(*texts: str) -> Files:
    return [(f"{number:03}.txt", text.encode()) for number, text in enumerate(texts)]


def add_links(path: Path, kinds: Mapping[str, bytes]) -> None:
    """Append links to 000.txt, or other things that are no files, to an archive."""
    with tarfile.open(path, "a") as archive:
        for name, kind in kinds.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "000.txt"
            archive.addfile(member)


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pictures(numbers: range = range(12)) -> Files:
    """Samples with a picture and its label, a number of 0, 1 and 2."""
    return [
        file
        for n in numbers
        for file in ((f"{n:03}.png", picture(n)), (f"{n:03}.cls", str(n % 3).encode()))
    ]


def sound(number: int) -> bytes:
    return encoded(voice(0.4, 8000, pitch=150 + 20 * number), 8000, "FLAC")


# For each kind of data: what the two readers are told, and for each split the files of its samples,
# and what writes the same data as the other reader wants it.


def as_text(folder: Path, split: str, numbers: range) -> Files:
    texts = [f"the {n}th text of {split}\n" * (1 + n) for n in numbers]
    for n, text in zip(numbers, texts, strict=True):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / f"{n:03}.txt").write_text(text)
    return [(f"{n:03}.txt", text.encode()) for n, text in zip(numbers, texts, strict=True)]


def as_table(folder: Path, split: str, numbers: range) -> Files:
    rows = [(f"text {n}", LABELS[n % 3]) for n in numbers]
    lines = "".join(f"{text},{label}\n" for text, label in rows)
    (folder / f"{split}.csv").write_text(f"text,label\n{lines}")
    return [
        (f"a/{split}{n}.{field}", value.encode())
        for n, row in zip(numbers, rows, strict=True)
        for field, value in zip(("txt", "cls"), row, strict=True)
    ]


def as_pairs(folder: Path, split: str, numbers: range) -> Files:
    rows = [(f"number {n}", f"Nummer {n}") for n in numbers]
    (folder / f"{split}.tsv").write_text("en\tde\n" + "".join(f"{en}\t{de}\n" for en, de in rows))
    return [
        (f"{n}.{language}", text.encode())
        for n, row in zip(numbers, rows, strict=True)
        for language, text in zip(("en", "de"), row, strict=True)
    ]


def as_pictures(folder: Path, split: str, numbers: range) -> Files:
    files = []
    for label in sorted(LABELS):
        for n in numbers:
            if LABELS[n % 3] == label:
                path = folder / split / label / f"{n:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(n))
                files += [(f"./{n:03}.png", picture(n)), (f"./{n:03}.cls", label.encode())]
    return files


def as_sounds(folder: Path, split: str, numbers: range) -> Files:
    rows, files = [], []
    for n in numbers:
        (folder / f"{split} {n}.flac").write_bytes(sound(n))
        label = LABELS[n % 3]
        rows.append({"path": f"{split} {n}.flac", "text": label, "label": label})
        files += [(f"{n:03}.flac", sound(n)), (f"{n:03}.txt", label.encode())]
        files.append((f"{n:03}.cls", label.encode()))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text(lines)
    return files


TOKENS = {"tokenizer": Bytes(), "sequence_length": 16}
FRAMES = {"sample_rate": 8000, "num_mels": 20}
KINDS = {
    "text": (WebDataset, TextFiles, as_text, TOKENS),
    "labelled text": (WebDatasetTable, Table, as_table, TOKENS),
    "pairs": (WebDatasetPairs, ParallelText, as_pairs, {"tokenizer": Bytes()}),
    "pictures": (WebDatasetPictures, ImageFolder, as_pictures, {}),
    "transcripts": (WebDatasetSoundTranscripts, SoundTranscripts, as_sounds, FRAMES),
    "labels of sounds": (WebDatasetSoundLabels, SoundLabels, as_sounds, FRAMES),
}


def stored(dataset: Dataset, split: str) -> Mapping[str, np.ndarray]:
    """All examples of a split, as evaluation sees them."""
    one = dataset.splits[split]
    return Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]


def told(settings) -> list[str]:
    lines: list[str] = []
    prepare(settings, warn=lines.append)
    return lines


def refusal(settings) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_the_examples_that_other_readers_make_of_the_same_data(tmp_path, kind):
    of_shards, of_files, make, options = KINDS[kind]
    plain, shards = tmp_path / "plain", tmp_path / "shards"
    plain.mkdir()
    for split, numbers in {"train": range(12), "validation": range(12, 18)}.items():
        files = make(plain, split, numbers)
        half = len(files) // 2
        pack(shards / f"{split}-000000.tar", files[:half])
        pack(shards / f"{split}-000001.tar", files[half:])
    expected = prepare(of_files(path=str(plain), **options))
    dataset = prepare(of_shards(path=str(shards), **options))
    assert [*dataset.splits] == [*expected.splits] == ["train", "validation"]
    assert dataset.spec == expected.spec
    for split in dataset.splits:
        found, wanted = stored(dataset, split), stored(expected, split)
        assert [*found] == [*wanted]
        for name, array in wanted.items():
            assert np.array_equal(found[name], array), name
    assert dataset.places["train"] == "train-000000.tar and train-000001.tar"


def test_examples_are_named_after_the_shard_and_the_key(tmp_path):
    pack(tmp_path / "train-0.tar", [(f"./more/{name}", of) for name, of in pictures()])
    pack(tmp_path / "test-0.tar.gz", pictures(range(3)))
    settings = WebDatasetPictures(path=str(tmp_path), validation_fraction=0.3)
    dataset = prepare(settings)
    assert dataset.splits["test"].names() == [f"test-0.tar.gz:00{n}" for n in range(3)]
    names = [*dataset.splits["train"].names(), *dataset.splits["validation"].names()]
    assert sorted(names) == [f"train-0.tar:more/{n:03}" for n in range(12)]
    assert dataset.spec.classes == ("0", "1", "2")


@pytest.mark.parametrize("layout", [
    ("train-000000.tar", "val-000000.tar", "test-000000.tar"),
    ("imagenet-train-0000.tar", "imagenet-validation-00.tar", "imagenet-test-00.tar"),
    ("train/00000.tar", "valid/00000.tar", "test/00000.tar"),
    ("data/train-00000-of-00001.tar", "data/dev-00000-of-00001.tar", "data/test.tgz"),
])  # fmt: skip
def test_shards_are_assigned_to_splits_by_their_names(tmp_path, layout):
    for name in layout:
        pack(tmp_path / name, text_samples(f"text of {name}"))
    (tmp_path / "00000_stats.json").write_text("{}")  # as img2dataset leaves beside its shards
    splits = open_source(WebDataset(path=str(tmp_path))).splits
    assert {split: [one["text"] for one in of] for split, of in splits.items()} == {
        split: [f"text of {name}"]
        for split, name in zip(("train", "validation", "test"), layout, strict=True)
    }


def test_braces_in_a_path_stand_for_names(tmp_path):
    for number in range(12):
        pack(tmp_path / f"a-{number:03}.tar", text_samples(f"text {number}"))

    def texts(path: str) -> list[str]:
        settings = WebDataset(path=str(tmp_path / path), validation_fraction=0.0)
        return [one["text"] for one in open_source(settings).splits["train"]]

    assert texts("a-{002..004}.tar") == ["text 2", "text 3", "text 4"]
    assert texts("a-00{1,7}.tar") == ["text 1", "text 7"]
    assert texts("{a,a}-{000..001}.tar") == ["text 0", "text 1"]
    assert texts("a-{009..010}*") == ["text 9", "text 10"]
    with pytest.raises(UsageError, match=r"a-012\.tar is not there, one of 3 of 5 names"):
        texts("a-{010..014}.tar")
    with pytest.raises(UsageError, match="no file matches"):
        texts("b-{000..002}.tar")
    (tmp_path / "a-{000..001}.tar").write_bytes((tmp_path / "a-005.tar").read_bytes())
    assert texts("a-{000..001}.tar") == ["text 5"]  # a file with this name comes first


@pytest.mark.parametrize("compress", [
    gzip.compress, bz2.compress, lzma.compress,
    lambda content: pa.Codec("zstd").compress(content, asbytes=True),
])  # fmt: skip
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_any_tar_is_read_compressed_or_not_whatever_its_name_is(tmp_path, compress, form):
    long = "/".join(["folder"] * 15)
    files = [(f"{long}/{n}.txt", b"text " * n) for n in range(1, 4)]
    plain = pack(tmp_path / "a.tar", files, format=form).read_bytes()
    (tmp_path / "b.tar").write_bytes(compress(plain))
    for name in ("a.tar", "b.tar"):
        settings = WebDataset(path=str(tmp_path / name), validation_fraction=0.0)
        examples = [*open_source(settings).splits["train"]]
        assert [one["text"] for one in examples] == ["text " * n for n in range(1, 4)]
        assert examples[0]["document"] == f"{name}:{long}/1"


def test_a_field_is_what_follows_the_first_dot_and_may_have_alternatives(tmp_path):
    samples = [
        ("a.b/000.left.PNG", picture(0)), ("a.b/000.json", b'{"label": {"name": "cat"}}'),
        ("a.b/001.jpg", b"no picture"), ("a.b/001.png", picture(1)),
        ("a.b/001.json", b'\xef\xbb\xbf{"label": {"name": "dog"}, "many": ' + b"9" * 5000 + b"}"),
        ("a.b/002.webp", picture(2)), ("a.b/002.name.txt", b"cat\n"),
    ]  # fmt: skip
    pack(tmp_path / "a.tar", samples)
    settings = WebDatasetPictures(
        path=str(tmp_path / "a.tar"), validation_fraction=0.0,
        image_field="left.png;png;webp", label_field="name.txt;json.label.name",
    )  # fmt: skip
    source = open_source(settings)
    assert source.classes == ("cat", "dog")
    assert [*source.splits["train"]] == [
        {"image": picture(0), "label": 0, "name": "a.tar:a.b/000"},
        {"image": picture(1), "label": 1, "name": "a.tar:a.b/001"},
        {"image": picture(2), "label": 0, "name": "a.tar:a.b/002"},
    ]
    assert "fields that are not read: jpg" in told(settings)


def test_what_is_no_file_of_a_sample_is_left_out_and_told(tmp_path):
    hidden = [("._000.txt", b"of a Mac"), ("__MACOSX/000.txt", b"too"), (".git/a.txt", b""),
              ("__meta__/about.json", b"{}"), ("__info__", b"")]  # fmt: skip
    pack(tmp_path / "a.tar", [*hidden, ("README", b"of what"), *text_samples("one", "two")])
    kinds = {"folder.d": tarfile.DIRTYPE, "002.txt": tarfile.SYMTYPE, "003.txt": tarfile.LNKTYPE,
             "004.txt": tarfile.FIFOTYPE}  # fmt: skip
    add_links(tmp_path / "a.tar", kinds)
    settings = WebDataset(path=str(tmp_path / "a.tar"), validation_fraction=0.0, **TOKENS)
    examples = [*open_source(settings).splits["train"]]
    assert [one["text"] for one in examples] == ["one", "two"]
    assert told(settings) == [
        f"1 file is left out, such as {tmp_path}/a.tar:README: no field follows a dot in its name",
        f"1 file is left out, such as {tmp_path}/a.tar:002.txt: it is a symbolic link (tar "
        "--dereference packs the file that it leads to)",
        f"1 file is left out, such as {tmp_path}/a.tar:003.txt: it is a hard link (tar "
        "--hard-dereference packs the file that it leads to)",
        f"1 file is left out, such as {tmp_path}/a.tar:004.txt: it is no regular file",
    ]


COPIED = {"labelled text": "texts", "pairs": "pairs", "pictures": "pictures",
          "transcripts": "recordings", "labels of sounds": "recordings"}  # fmt: skip


@pytest.mark.parametrize("kind", COPIED)
def test_samples_that_are_in_train_too_are_told_as_other_readers_tell_them(tmp_path, kind):
    of_shards, of_files, make, options = KINDS[kind]
    plain, shards = tmp_path / "plain", tmp_path / "shards"
    plain.mkdir()
    for split, numbers in {"train": range(12), "test": range(10, 16)}.items():
        pack(shards / f"{split}-0.tar", make(plain, split, numbers))
    options = options | {"validation_fraction": 0.0}

    def copies(settings) -> str:
        (line,) = [line for line in told(settings) if "in train too" in line]
        return line

    start = f"2 of 6 {COPIED[kind]} of test are in train too, such as "
    end = ": what they measure was learnt by heart"
    line = copies(of_shards(path=str(shards), **options))
    assert line.startswith(f"{start}test-0.tar:") and line.endswith(end)
    line = copies(of_files(path=str(plain), **options))
    assert line.startswith(start) and line.endswith(end)
    assert line == copies(of_files(path=str(plain), **options))  # of what is prepared already, too


def test_joined_archives_are_read_to_their_end(tmp_path):
    first = pack(tmp_path / "a.tar", text_samples("one", "two")).read_bytes()
    second = pack(tmp_path / "b.tar", [("more.txt", b"three")]).read_bytes()
    (tmp_path / "c.tar").write_bytes(first + second)
    settings = WebDataset(path=str(tmp_path / "c.tar"), validation_fraction=0.0)
    examples = [*open_source(settings).splits["train"]]
    assert [one["text"] for one in examples] == ["one", "two", "three"]


OTHERS = {
    TextFiles: "webdataset",
    Records: "webdataset",
    Table: "webdataset_table",
    ParallelText: "webdataset_pairs",
    ImageFolder: "webdataset_pictures",
    SoundTranscripts: "webdataset_sound_transcripts",
    SoundLabels: "webdataset_sound_labels",
}


def test_a_shard_that_has_not_changed_is_not_read_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(file_stat_cache, "SETTLED_SECONDS", -1)
    path = pack(tmp_path / "a.tar", pictures(range(99)))
    settings = WebDatasetPictures(path=str(path))
    headers: list[tarfile.TarInfo | None] = []
    following = tarfile.TarFile.next
    monkeypatch.setattr(
        tarfile.TarFile, "next", lambda self: headers.append(following(self)) or headers[-1]
    )
    first = open_source(settings)
    assert len(headers) > 198
    headers.clear()
    again = open_source(settings)
    assert len(headers) < 10  # those of a sample
    assert again.key == first.key and again.classes == first.classes == ("0", "1", "2")
    assert [*map(str, again.splits["train"])] == [*map(str, first.splits["train"])]


def test_memory_does_not_grow_with_a_shard(tmp_path):
    content = b"x" * 2**18
    path = pack(tmp_path / "a.tar", [(f"{n:03}.txt", content) for n in range(64)])
    source = open_source(WebDataset(path=str(path), validation_fraction=0.0))
    tracemalloc.start()
    try:
        assert sum(len(one["text"]) for one in source.splits["train"]) == 2**24
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_the_command_line_reads_shards_and_says_what_is_missing(tmp_path, capsys):
    given = ["--config=configs/digits_cnn.py", "--show_batch", "--config.data.global_batch_size=2",
             "--config.mesh.data=1", "--config.data.source=webdataset_pictures"]  # fmt: skip
    with pytest.raises(UsageError, match=r"^data\.path is not given: say where the shards are"):
        train.main(given)
    pack(tmp_path / "train-000.tar", pictures())
    path = f"--config.data.path={tmp_path}/train-{{000..001}}.tar"
    with pytest.raises(UsageError, match=r"train-001\.tar is not there, one of 1 of 2 names"):
        train.main([*given, path])
    pack(tmp_path / "train-001.tar", pictures(range(12, 24)))
    assert train.main([*given, path]) == 0
    shown = capsys.readouterr()
    assert "image" in shown.out and "uint8 [2, 8, 8, 3]" in shown.out
