"""What is refused of WebDataset shards, and with which words; damage is named with its place."""

import gzip
from types import SimpleNamespace

import pytest

from configs.errors import UsageError
from configs.reading.inputs import check_inputs
from configs.schema.conversations import Conversations
from configs.schema.data import TextFiles, WebDataset, WebDatasetTable
from configs.schema.pictures import WebDatasetPictures
from data.preparation import prepare
from data.sources.registry import open_source
from tests.data.test_webdataset import (
    OTHERS,
    pack,
    picture,
    pictures,
    refusal,
    stored,
    text_samples,
    told,
)


def test_a_sample_without_a_field_is_named_with_what_it_has(tmp_path):
    files = [("000.png", picture(0)), ("000.cls", b"0"), ("001.png", picture(1)),
             ("001.json", b'{"label": 1}')]  # fmt: skip
    path = pack(tmp_path / "a.tar", files)
    settings = WebDatasetPictures(path=str(path), validation_fraction=0.0)
    lacks = f"{path}, sample 001 has no field {{!r}}, but png, json.label: "
    others = (
        "1 of 2 samples here have it: complete this sample or leave it out (it is the last one: "
        "was the shard cut off?)"
    )
    assert refusal(settings) == lacks.format("cls") + others
    change = {"label_field": "cls;json.lable"}
    assert refusal(settings.model_copy(update=change)) == (
        f"{lacks.format('cls;json.lable')}{others}, or also read its json.label, "
        "data.label_field='cls;json.lable;json.label'"
    )
    change = {"label_field": "json.lable"}
    assert refusal(settings.model_copy(update=change)).endswith(
        "sample 000 has no field 'json.lable', but png, cls: 1 of 2 samples here have it: complete "
        "this sample or leave it out"
    )
    change = {"label_field": "cls;json.label", "image_field": "jpg"}
    assert refusal(settings.model_copy(update=change)) == (
        f"{path}, sample 000 has no field 'jpg', but png, cls: did you mean data.image_field=png?"
    )


@pytest.mark.parametrize(("label", "expected"), [
    (b" ", "sample 001: field 'cls' is empty: every row needs a label"),
    (b"\xff\xd8", "sample 001: field 'cls' is not UTF-8 text: byte 0xff"),
])  # fmt: skip
def test_what_is_no_label_is_refused(tmp_path, label, expected):
    files = [
        ("000.png", picture(0)),
        ("000.cls", b"0"),
        ("001.png", picture(1)),
        ("001.cls", label),
    ]
    path = pack(tmp_path / "a.tar", files)
    assert expected in refusal(WebDatasetPictures(path=str(path)))


@pytest.mark.parametrize(("content", "expected"), [
    (b"[1, 2]", "sample 001: field 'json' holds an array, not an object"),
    (b"{'label': 1}", "sample 001: field 'json' is no JSON: Expecting property name"),
    (b"[" * 100_000, "sample 001: field 'json' is no JSON: "),
    (b'{"label": [1]}', "sample 001: field 'json.label' holds an array, not a label"),
])  # fmt: skip
def test_json_that_says_no_label_is_refused(tmp_path, content, expected):
    files = [("000.png", picture(0)), ("000.json", b'{"label": "a"}'), ("001.png", picture(1)),
             ("001.json", content)]  # fmt: skip
    path = pack(tmp_path / "a.tar", files)
    assert expected in refusal(WebDatasetPictures(path=str(path), label_field="json.label"))


def test_files_of_a_sample_in_several_places_are_refused(tmp_path):
    settings = WebDatasetTable(path=str(tmp_path), validation_fraction=0.0)
    pack(tmp_path / "a.tar", [("0.txt", b"a"), ("1.txt", b"b"), ("0.cls", b"1")])
    assert "a.tar has files of the sample 0 in two places: " in refusal(settings)
    pack(tmp_path / "a.tar", [("0.txt", b"a"), ("0.TXT", b"b")])
    assert refusal(settings) == f"{tmp_path}/a.tar has 0.txt twice"
    files = [("0.txt", b"a"), ("0.cls", b"b"), ("1.txt", b"a"), ("1.cls", b"b")]
    pack(tmp_path / "a.tar", files[:3])
    pack(tmp_path / "b.tar", files[3:])
    for changed in (settings, WebDatasetPictures(path=str(tmp_path), image_field="txt")):
        assert refusal(changed) == (
            f"the sample 1 is split over two shards: {tmp_path}/a.tar has its txt, and "
            f"{tmp_path}/b.tar its cls"
        )


def test_damage_is_told_with_its_place(tmp_path):
    path, files = tmp_path / "a.tar", text_samples("one", "two" * 1000, "three")
    whole = pack(path, files).read_bytes()
    settings = WebDataset(path=str(path), validation_fraction=0.0)
    damaged = f"{path} is damaged or cut off, at or after its file"
    path.write_bytes(whole[:2000])  # in the content of the second file
    assert refusal(settings) == f"{damaged} 001.txt at byte 1,024: unexpected end of data"
    start = 1024 + 512 + 3072
    path.write_bytes(whole[: start + 100])  # in the header of the third
    assert refusal(settings) == f"{damaged} 001.txt at byte 1,024: truncated header"
    path.write_bytes(whole[:start] + b"?" + whole[start + 1 :])
    assert refusal(settings) == f"{damaged} 001.txt at byte 1,024: bad checksum"
    path.write_bytes(gzip.compress(whole)[:-20])
    assert f"{path} is damaged after " in refusal(settings)
    path.write_bytes(whole[:start])  # as where a writer was killed
    assert f"{path} has no mark at its end: were all samples written?" in told(settings)


@pytest.mark.parametrize(("content", "expected"), [
    (b"", "a.tar is empty: write it again, or delete it"),
    (b"<html>not found</html>" * 99, "is no tar file: invalid header"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of Git LFS"),
    (bytes(10_240), "holds no sample for train"),
    (gzip.compress(b"", mtime=0), "a.tar is empty: write it again, or delete it"),
])  # fmt: skip
def test_what_is_no_tar_is_refused(tmp_path, content, expected):
    (tmp_path / "a.tar").write_bytes(content)
    assert expected in refusal(WebDataset(path=str(tmp_path)))


def test_a_folder_without_shards_is_refused(tmp_path):
    (tmp_path / "000.txt").write_text("unpacked")
    assert "holds no shard of WebDataset: .tar" in refusal(WebDataset(path=str(tmp_path)))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_other_sources_name_the_one_that_reads_shards(tmp_path, kind, suffix):
    path = pack(tmp_path / f"train-000{suffix}", text_samples("one"))
    if suffix != ".tar":
        path.write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "train-000_stats.json").write_text("{}")  # as img2dataset leaves beside its shards
    for given in (tmp_path, path, f"{tmp_path}/*{suffix}"):
        settings = kind(path=str(given))
        with pytest.raises(UsageError) as raised:
            check_inputs(SimpleNamespace(data=settings))
            open_source(settings)
        assert "\n" not in str(raised.value)
        assert str(raised.value).endswith(f" are read by data.source={OTHERS[kind]}")


def test_no_source_of_shards_is_named_where_there_are_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfea\0")
    with pytest.raises(UsageError, match="iconv") as raised:
        open_source(TextFiles(path=str(tmp_path)))
    assert "webdataset" not in str(raised.value)
    path = pack(tmp_path / "chat.tar", text_samples("one"))
    with pytest.raises(UsageError) as raised:
        open_source(Conversations(path=str(path)))
    assert "webdataset" not in str(raised.value)


def test_a_label_that_training_never_shows_is_refused(tmp_path):
    pack(tmp_path / "train.tar", pictures())
    pack(tmp_path / "test.tar", [("0.png", picture(0)), ("0.cls", b"7")])
    assert "test has the label 7, which no training" in refusal(
        WebDatasetPictures(path=str(tmp_path))
    )


def test_broken_pictures_are_named_and_keep_their_places(tmp_path):
    files = [(name, b"?" if name == "007.png" else of) for name, of in pictures()]
    path = pack(tmp_path / "a.tar", files)
    settings = WebDatasetPictures(
        path=str(path), validation_fraction=0.0, broken_fraction=0.5, image_size=8
    )
    assert any("a.tar:007" in line for line in told(settings))
    weights = stored(prepare(settings), "train")["weights"]
    assert weights.tolist() == [float(n != 7) for n in range(12)]
