"""Promises of samples in tar files: what is wrong with one is told, and nothing else is blamed."""

import bz2
import gzip
import tarfile

import pytest

from configs.schema.data import WebDataset, WebDatasetTable
from configs.schema.pictures import WebDatasetPictures
from data.sources.registry import open_source
from tests.data.test_webdataset import (
    TOKENS,
    add_links,
    pack,
    picture,
    pictures,
    refusal,
    text_samples,
    told,
)


@pytest.mark.parametrize(("kind", "name", "option"), [
    (tarfile.LNKTYPE, "hard", "--hard-dereference"), (tarfile.SYMTYPE, "symbolic", "--dereference"),
])  # fmt: skip
def test_a_sample_with_a_link_in_place_of_a_field_is_named_with_it(tmp_path, kind, name, option):
    files = [("000.png", picture(0)), ("000.cls", b"0"), ("001.png", picture(1))]
    path = pack(tmp_path / "a.tar", files)
    add_links(path, {"001.cls": kind})
    settings = WebDatasetPictures(path=str(path), validation_fraction=0.0)
    assert refusal(settings) == (
        f"{path}, sample 001: its 001.cls is a {name} link to 000.txt, which is not read: tar "
        f"{option} packs the file that it leads to"
    )


def test_one_bad_sample_of_many_is_named_and_no_field_is_blamed(tmp_path):
    files = [(name, of) for name, of in pictures() if name != "004.cls"]
    pack(tmp_path / "train-0.tar", files)
    settings = WebDatasetPictures(path=str(tmp_path))
    lacks = f"{tmp_path}/train-0.tar, sample {{}} has no field 'cls', but png: 11 of 12 samples"
    remedy = " here have it: complete this sample or leave it out"
    assert refusal(settings) == lacks.format("004") + remedy
    pack(tmp_path / "train-0.tar", pictures()[:-1])  # the last has a picture and no label
    pack(tmp_path / "train-1.tar", pictures(range(12, 20)))
    assert refusal(settings) == (
        f"{lacks.format('011')}{remedy} (it is the last one: was the shard cut off?)"
    )
    pack(tmp_path / "train-0.tar", pictures()[1:])  # the first has a label and no picture
    assert refusal(settings) == (
        f"{tmp_path}/train-0.tar, sample 000 has no field 'jpg;jpeg;png;webp', but cls: 11 of 12 "
        f"samples{remedy}"
    )


DOTTED = {
    "all in one sample": "img.{n}",
    "a sample each": "photo{n}.5mm_{n}",
    "in folders": "a.b/{n}/v1.{n}",
}


@pytest.mark.parametrize("case", DOTTED)
def test_samples_that_fall_apart_by_the_dots_of_their_names_are_explained(tmp_path, case):
    path = tmp_path / "a.tar"
    names = [DOTTED[case].format(n=n) for n in range(4)]
    files = [("png", picture(0)), ("cls", b"0")]
    pack(path, [(f"{name}.{field}", of) for name in names for field, of in files])
    message = refusal(WebDatasetPictures(path=str(path), validation_fraction=0.0))
    key, _, rest = names[0].rpartition(".")
    assert message.startswith(f"{path}, sample {key} has no field 'jpg;jpeg;png;webp', but {rest}.")
    assert message.endswith(
        "a field begins after the first dot of a file's name, so that samples named like "
        f"{names[0]}.png fall apart: put another sign for the dots inside of the name, "
        f"{key}_{rest}.png"
    )
    views = [(f"{n}.{side}.png", picture(n)) for n in range(4) for side in ("left", "right")]
    pack(path, sorted(views + [(f"{n}.cls", b"0") for n in range(4)]))
    settings = WebDatasetPictures(path=str(path), validation_fraction=0.0, image_field="png")
    assert refusal(settings).endswith("did you mean data.image_field=left.png?")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_fields_are_read_decompressed(tmp_path, compress):
    suffix = {gzip.compress: "gz", bz2.compress: "bz2"}[compress]
    files = [(f"0.txt.{suffix}", compress(b"one")), (f"0.json.{suffix}", compress(b'{"a": "x"}')),
             ("1.txt", b"two"), ("1.JSON", b'{"a": "y"}'),
             (f"2.TXT.{suffix}", b"three"), ("2.json", b'{"a": "x"}')]  # fmt: skip
    path = pack(tmp_path / "a.tar", files)
    settings = WebDatasetTable(path=str(path), validation_fraction=0.0, label_field="json.a")
    for field in ("txt", f"txt.{suffix}"):
        examples = open_source(settings.model_copy(update={"text_field": field})).splits["train"]
        found = [(one["text"], one["label"]) for one in examples]
        assert found == [("one", "x"), ("two", "y"), ("three", "x")]
    pack(path, [(f"0.txt.{suffix}", compress(b"one" * 99)[:-9]), ("0.json", b'{"a": "x"}')])
    assert refusal(settings).startswith(f"{path}, sample 0: field 'txt' is damaged after ")
    pack(path, [("0.txt", b"one"), (f"0.txt.{suffix}", compress(b"one")), ("0.json", b"{}")])
    assert refusal(settings) == f"{path} has 0.txt twice, once compressed"


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_an_archive_without_files_is_told_to_be_empty(tmp_path, compress):
    pack(tmp_path / "train-0.tar", text_samples("one", "two"))
    pack(tmp_path / "train-1.tar", [])
    (tmp_path / "train-1.tar").write_bytes(compress((tmp_path / "train-1.tar").read_bytes()))
    settings = WebDataset(path=str(tmp_path), validation_fraction=0.0, **TOKENS)
    assert told(settings) == [f"{tmp_path}/train-1.tar is empty: no file is in there"]
    (tmp_path / "train-1.tar").write_bytes(b"")
    assert refusal(settings) == f"{tmp_path}/train-1.tar is empty: write it again, or delete it"
