"""Promises of pictures: folders of any files, broken ones named and of no weight, one decoding."""

import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.errors import UsageError
from configs.schema.pictures import Augmentation, Digits, ImageFolder
from data.batches import Batches
from data.codecs.pictures import decode_picture
from data.dataset import Dataset
from data.prefetch import stream
from data.preparation import prepare
from data.show import data_table
from data.sources.registry import open_source

ROOT = Path(__file__).parents[2]
SIZE = 48


def picture(seed: int, width: int = 60, height: int = 44, mode: str = "RGB") -> Image.Image:
    """Something smooth, that JPEG keeps."""
    rows, columns = np.mgrid[:height, :width]
    levels = [100 + 80 * np.sin((rows * (1 + c) + columns * (1 + seed % 5)) / 40) for c in range(3)]
    return Image.fromarray(np.stack(levels, -1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, form: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of twelve pictures of several sizes."""
    for taller, label in enumerate(("cat", "dog")):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(12):
            image = picture(number, 60 + number, 44 + 2 * number + taller)
            image.save(tmp_path / "set" / label / f"{number:02}.jpg", quality=95)
    return tmp_path / "set"


def settings(folder: Path, **changes) -> ImageFolder:
    cache = str(folder.parent / "cache")
    options = {"image_size": SIZE, "broken_fraction": 0.3, "cache_dir": cache} | changes
    return ImageFolder(path=str(folder), **options)


def stored(dataset: Dataset, split: str = "train") -> dict:
    """All examples of a split, as evaluation sees them."""
    one = dataset.splits[split]
    return Batches(one, global_batch_size=one.examples, seed=0, shuffle=False)[0]


def refusal(folder: Path, **changes) -> str:
    with pytest.raises(UsageError) as raised:
        prepare(settings(folder, **changes))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def warnings(folder: Path, **changes) -> list[str]:
    told: list[str] = []
    prepare(settings(folder, **changes), warn=told.append)
    return told


def test_every_picture_is_in_one_split_with_its_class(folder):
    dataset = prepare(settings(folder, validation_fraction=0.25))
    assert dataset.spec.classes == ("cat", "dog")
    assert dataset.spec.model_arguments() == {"num_classes": 2, "image_shape": (SIZE, SIZE, 3)}
    source = open_source(settings(folder, validation_fraction=0.25))
    names = [one["name"] for split in source.splits.values() for one in split]
    assert sorted(names) == [f"{c}/{n:02}.jpg" for c in ("cat", "dog") for n in range(12)]
    for split, pictures in source.splits.items():
        batch = stored(dataset, split)
        assert dataset.splits[split].names() == [one["name"] for one in pictures]
        for image, label, one in zip(batch["image"], batch["label"], pictures, strict=True):
            path = Path(one["path"])
            assert dataset.spec.classes[label] == path.parent.name
            assert (image == decode_picture(path.read_bytes(), (SIZE, SIZE, 3))).all()


def test_a_folder_may_hold_its_splits(folder, tmp_path):
    for split in ("train", "validation", "test"):
        shutil.copytree(folder, tmp_path / "parts" / split)
    (tmp_path / "parts" / "test" / "dog" / "00.jpg").unlink()
    splits = open_source(settings(tmp_path / "parts")).splits
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 24,
        "validation": 24,
        "test": 23,
    }


MODES = {
    "grey.png": (picture(1, mode="L"), {}),
    "palette.gif": (picture(1, mode="P"), {}),
    "transparent.png": (picture(1).convert("RGBA"), {}),
    "ink.jpg": (picture(1, mode="CMYK"), {}),
    "lossy.webp": (picture(1), {}),
    "plain.bmp": (picture(1), {}),
    "paper.tiff": (picture(1), {}),
    "UPPER.JPEG": (picture(1), {}),
    "sixteen.png": (Image.fromarray(np.asarray(picture(1, mode="L")).astype(np.uint16) * 257), {}),
    "bits.png": (picture(1, mode="1"), {}),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_and_format_is_decoded(folder, name):
    image, options = MODES[name]
    image.save(folder / "cat" / name, **options)
    dataset = prepare(settings(folder, validation_fraction=0.0))
    examples = open_source(settings(folder, validation_fraction=0.0)).splits["train"]
    place = [Path(one["path"]).name for one in examples].index(name)
    batch = stored(dataset)
    assert batch["weights"].all()
    mode = "L" if image.mode.startswith(("I", "1")) else image.mode
    plain = picture(1, mode="1" if image.mode == "1" else mode).convert("RGB")
    expected = decode_picture(encoded(plain), (SIZE, SIZE, 3)).astype(int)
    assert np.abs(batch["image"][place] - expected).mean() < 6


def test_what_is_transparent_is_white_and_the_first_frame_counts():
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert (decode_picture(encoded(clear), (8, 8, 3)) == 255).all()
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    moving = encoded(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (decode_picture(moving, (8, 8, 3))[0, 0] == (255, 0, 0)).all()


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_obeyed(form, orientation):
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 16, 16))  # the corner that a reader begins at
    exif = Image.Exif()
    exif[0x0112] = orientation
    shape = (32, 64, 3) if orientation < 5 else (64, 32, 3)
    found = decode_picture(encoded(image, form, exif=exif), shape)
    corners = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1),
               8: (-1, 0)}  # fmt: skip
    assert found[corners[orientation]].min() > 200
    others = {(0, 0), (0, -1), (-1, -1), (-1, 0)} - {corners[orientation]}
    assert all(found[corner].max() < 60 for corner in others)


def test_evaluation_sees_the_middle():
    image = Image.new("RGB", (200, 100), "black")
    image.paste("white", (50, 0, 150, 100))
    assert decode_picture(encoded(image), (50, 50, 3)).min() > 230
    image.paste("red", (75, 25, 125, 75))
    assert (decode_picture(encoded(image), (50, 50, 3), crop_ratio=0.5) == (255, 0, 0)).all()


def test_evaluation_may_see_all_of_a_picture_squeezed():
    image = Image.new("RGB", (200, 100), "black")
    image.paste("white", (0, 0, 50, 100))
    found = decode_picture(encoded(image), (40, 40, 3), resize="squeeze")
    assert found[:, :8].min() > 230 and found[:, 12:].max() < 25
    parts = decode_picture(encoded(image), (40, 40, 3), resize="squeeze", crop_ratio=0.5)
    assert parts.max() < 25 and np.array_equal(
        decode_picture(encoded(image), (1, 1, 3), interpolation="nearest").ravel(), (0, 0, 0)
    )


@pytest.mark.parametrize("decoded", ["arrays", "files"])
def test_how_pictures_are_resized_is_part_of_what_is_prepared(folder, decoded):
    usual = prepare(settings(folder, decoded=decoded))
    view = {"resize": "squeeze", "interpolation": "bilinear"}
    squeezed = prepare(settings(folder, decoded=decoded, **view))
    assert usual.fingerprint != squeezed.fingerprint
    source = open_source(settings(folder, **view))
    for split, pictures in source.splits.items():
        for row, one in enumerate(pictures):
            expected = decode_picture(one["image"], (SIZE, SIZE, 3), **view)
            assert np.array_equal(stored(squeezed, split)["image"][row], expected)


def test_a_large_jpeg_is_decoded_small_and_looks_the_same():
    image = picture(3, 800, 600)
    small = decode_picture(encoded(image, "jpeg", quality=95), (SIZE, SIZE, 3)).astype(int)
    assert np.abs(small - decode_picture(encoded(image), (SIZE, SIZE, 3))).max() < 12


def test_pictures_of_one_small_size_keep_it(folder, tmp_path):
    for path in folder.rglob("*.jpg"):
        picture(1, 40, 24).save(path)
    dataset = prepare(ImageFolder(path=str(folder)))
    assert dataset.spec.image_shape == (24, 40, 3)
    for width in (41, 65):
        for path in folder.glob("cat/*.jpg" if width == 41 else "*/*.jpg"):
            picture(1, width, 24).save(path)
        assert prepare(ImageFolder(path=str(folder))).spec.image_shape == (224, 224, 3)
    assert prepare(ImageFolder(path=str(folder), channels=1)).spec.image_shape == (224, 224, 1)


def bomb() -> bytes:
    """A PNG that says it has 20,000 times 20,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(9)))


BROKEN = {
    "empty.jpg": b"",
    "nonsense.png": b"<html>404 not found</html>",
    "truncated.jpg": encoded(picture(1), "jpeg")[:-300],
    "truncated.png": encoded(picture(1))[:-300],
    "bomb.png": bomb(),
}


def test_what_is_large_but_not_too_large_is_read_without_a_word():
    read = "from data.codecs.pictures import *; print(picture_size(b'P5 12000 12000 255 '))"
    found = subprocess.run([sys.executable, "-c", read], capture_output=True, cwd=ROOT)
    assert (found.stdout, found.stderr) == (b"(12000, 12000)\n", b"")


@pytest.mark.parametrize("decoded", ["arrays", "files"])
def test_broken_pictures_are_named_and_have_no_weight(folder, decoded):
    whole = stored(prepare(settings(folder, validation_fraction=0.0, decoded=decoded)))
    for name, content in BROKEN.items():
        (folder / "cat" / f"x{name}").write_bytes(content)
    told = warnings(folder, validation_fraction=0.0, decoded=decoded)
    for name in BROKEN:
        assert (
            len([line for line in told if line.startswith(str(folder / "cat" / f"x{name}"))]) == 1
        )
    assert "5 of 29 pictures are broken, and count for nothing" in told
    assert warnings(folder, validation_fraction=0.0, decoded=decoded) == told  # prepared or not

    dataset = prepare(settings(folder, validation_fraction=0.0, decoded=decoded))
    assert ("broken", "5") in data_table(dataset)
    batch = stored(dataset)
    assert batch["weights"].tolist() == 12 * [1] + 5 * [0] + 12 * [1]
    assert not batch["image"][12:17].any()
    kept = batch["weights"] > 0
    for name in batch:
        assert (batch[name][kept] == whole[name]).all()


def test_too_many_broken_pictures_end_it(folder):
    for name, content in BROKEN.items():
        (folder / "cat" / f"x{name}").write_bytes(content)
    message = refusal(folder, broken_fraction=0.17)
    assert "5 of 29 pictures are broken, more than data.broken_fraction=0.17 allows" in message
    assert "xtruncated.jpg" in message
    assert refusal(folder, broken_fraction=0.18).startswith(
        "all 1 pictures of validation are broken: "
    )
    whole = settings(folder, broken_fraction=0.18, validation_fraction=0.0)
    assert prepare(whole).splits["train"].broken == 5
    assert "more than data.broken_fraction=0.1 allows" in refusal(folder, broken_fraction=0.1)
    for path in folder.rglob("*.jpg"):
        path.write_bytes(b"")
    assert "10 of 29" not in refusal(folder)  # it ends before the last
    assert "such" not in refusal(folder)


@pytest.mark.parametrize("crop", ["none", "padded", "random_resized"])
@pytest.mark.parametrize("image_size", [SIZE, 64])
def test_pixels_and_files_give_the_same_pictures(folder, crop, image_size):
    """But random-resized crops of pictures that would be made smaller: of them files are kept."""
    options = {"augmentation": Augmentation(crop=crop, flip_probability=0.5),
               "image_size": image_size}  # fmt: skip
    files, pixels = (
        prepare(settings(folder, decoded=decoded, **options)) for decoded in ("files", "auto")
    )
    for shuffle in (True, False):
        one, other = (
            Batches(of.splits["train"], global_batch_size=16, seed=1, shuffle=shuffle)[0]
            for of in (files, pixels)
        )
        assert all((one[name] == other[name]).all() for name in one)
    for shuffle in (True, False):
        of = prepare(settings(folder, decoded="arrays", **options)).splits["train"]
        batch = Batches(of, global_batch_size=16, seed=1, shuffle=shuffle)[0]
        assert batch["image"].shape == (16, image_size, image_size, 3)
        assert batch["weights"].all()


def test_pixels_that_do_not_fit_stay_files(folder):
    few = prepare(settings(folder, decoded_bytes=1000)).splits["train"]
    many = prepare(settings(folder)).splits["train"]
    assert few.codec.dtype == object
    assert many.codec.dtype != object
    assert not Batches(few, global_batch_size=4, seed=0, shuffle=True).in_memory
    assert Batches(many, global_batch_size=4, seed=0, shuffle=True).in_memory


def test_what_is_no_picture_is_told(folder):
    (folder / "readme.txt").write_text("x")
    (folder / "dog" / "labels.csv").write_text("x")
    (folder / ".DS_Store").write_text("x")
    (folder / "fox").mkdir()
    told = warnings(folder, validation_fraction=0.0)
    assert [line for line in told if line.startswith("2 files in") and "labels.csv" in line]
    assert [line for line in told if str(folder / "fox") in line and "it is no class" in line]
    assert len(told) == 2


def test_of_what_is_left_out_each_kind_is_named(folder):
    for name in ("a.heic", "b.heic", "c.txt"):
        (folder / "cat" / name).write_text("x")
    (told,) = warnings(folder, validation_fraction=0.0)
    assert told.endswith(f"such as {folder}/cat/a.heic, {folder}/cat/c.txt")


def test_what_is_beside_the_splits_is_told(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "parts" / "train")
    assert warnings(tmp_path / "parts") == []
    (tmp_path / "parts" / "notes").mkdir()
    (tmp_path / "parts" / ".hidden").mkdir()
    picture(3).save(tmp_path / "parts" / "train" / "cat" / "new.png")
    assert warnings(tmp_path / "parts") == [f"in {tmp_path}/parts only train is read, not notes"]


def test_classes_alike_and_pictures_that_are_measured_on_too_are_told(folder, tmp_path):
    (folder / "dog").rename(folder / "CAT")
    shutil.copytree(folder, tmp_path / "parts" / "train")
    (tmp_path / "parts" / "test" / "CAT").mkdir(parents=True)
    (tmp_path / "parts" / "test" / "cat").mkdir()
    picture(50).save(tmp_path / "parts" / "test" / "cat" / "other.png")
    shutil.copy(folder / "cat" / "03.jpg", tmp_path / "parts" / "test" / "cat" / "again.jpg")
    told = warnings(tmp_path / "parts", validation_fraction=0.0)
    assert "classes that differ in capitals or spaces alone are told apart: 'CAT' and 'cat'" in told
    assert (
        "1 of 2 pictures of test are in train too, such as test/cat/again.jpg: what they measure "
        "was learnt by heart" in told
    )


@pytest.mark.parametrize("decoded", ["arrays", "files"])
def test_a_range_that_was_guessed_is_told_and_can_be_given(folder, decoded):
    ramp = np.tile(np.arange(SIZE), (SIZE, 1))
    for number in range(3):
        Image.fromarray((16 * ramp).astype(np.int32)).save(folder / "dog" / f"wide{number}.tif")
    changes = {"validation_fraction": 0.0, "decoded": decoded}
    (told,) = warnings(folder, **changes)
    assert told == (
        "3 of 27 pictures of train have values of more than 8 bits, and do not say which one is "
        "white: it is taken to be 4095, as none is larger (data.max_value=4095 would say so); such "
        f"as {folder}/dog/wide0.tif"
    )
    guessed = prepare(settings(folder, **changes))
    assert (stored(guessed)["image"][-1, ..., 0] == ramp).all()
    assert not warnings(folder, max_value=4095.0, **changes)
    given = prepare(settings(folder, max_value=1023.0, **changes))
    assert (stored(given)["image"][-1, ..., 0] == 4 * ramp).all()
    assert given.fingerprint != guessed.fingerprint


def test_a_class_in_two_unicode_forms_is_one_and_told(folder, tmp_path):
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (folder / "cat").rename(folder / apart)
    assert open_source(settings(folder)).classes == (composed, "dog")
    told = "classes written in two forms of Unicode count as one: 'café'"
    shutil.copytree(folder, tmp_path / "mixed")
    (tmp_path / "mixed" / composed).mkdir()
    picture(1).save(tmp_path / "mixed" / composed / "one.png")
    source = open_source(settings(tmp_path / "mixed", validation_fraction=0.0))
    assert source.classes == (composed, "dog") and told in source.warnings
    assert [one["label"] for one in source.splits["train"]].count(0) == 13

    shutil.copytree(folder, tmp_path / "parts" / "train")
    shutil.copytree(folder, tmp_path / "parts" / "validation")
    (tmp_path / "parts" / "train" / apart).rename(tmp_path / "parts" / "train" / composed)
    source = open_source(settings(tmp_path / "parts"))
    assert source.classes == (composed, "dog") and source.warnings.count(told) == 1
    assert {one["label"] for one in source.splits["validation"]} == {0, 1}


def test_the_folder_of_a_class_may_be_a_link(folder, tmp_path):
    (tmp_path / "some").mkdir()
    for name, label in (("cat", "cat"), ("dog", "hound")):
        (tmp_path / "some" / label).symlink_to(folder / name)
    dataset = prepare(settings(tmp_path / "some", validation_fraction=0.0))
    assert dataset.spec.classes == ("cat", "hound")
    assert dataset.splits["train"].names()[-1] == "hound/11.jpg"
    assert (
        stored(dataset)["image"]
        == stored(prepare(settings(folder, validation_fraction=0.0)))["image"]
    ).all()


def test_names_that_are_no_utf8_are_spelt_out(folder):
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/l\xf6we"))
    try:
        strange.mkdir()
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    shutil.copy(folder / "cat" / "03.jpg", strange / os.fsdecode(b"gro\xdf.jpg"))
    (strange / os.fsdecode(b"kl\xe9in.png")).write_bytes(b"")
    dataset = prepare(settings(folder, validation_fraction=0.0))
    assert dataset.spec.classes == ("cat", "dog", "l\\xf6we")
    names = dataset.splits["train"].names()
    assert names[-2:] == ["l\\xf6we/gro\\xdf.jpg", "l\\xf6we/kl\\xe9in.png"]
    assert stored(dataset)["weights"][-2:].tolist() == [1, 0]
    assert prepare(settings(folder)).splits["validation"].examples  # by a hash of the names


def test_a_folder_that_can_not_be_read_is_named(folder):
    with tempfile.TemporaryDirectory() as name:  # that of the test's user is for no other one
        shutil.copytree(folder, Path(name) / "set")
        closed = Path(name) / "set" / "cat" / "more"
        closed.mkdir(0)
        os.chmod(name, 0o755)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        try:
            assert refusal(closed.parents[1]) == f"{closed} can't be read: Permission denied"
        finally:
            if was_root:
                os.seteuid(0)
            closed.chmod(0o755)


def test_a_folder_that_is_no_set_is_refused(folder, tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert "there is no picture" in refusal(tmp_path / "empty")
    picture(1).save(tmp_path / "empty" / "cat" / "a.png")
    assert "of one class, cat" in refusal(tmp_path / "empty")
    assert "or data.path" not in refusal(tmp_path / "empty")
    shutil.copytree(folder, tmp_path / "wrapped" / "images")
    assert refusal(tmp_path / "wrapped").endswith(f", or data.path={tmp_path}/wrapped/images")
    (tmp_path / "wrapped" / "images" / "cat").rename(tmp_path / "wrapped" / "Train")
    assert prepare(settings(tmp_path / "wrapped")).spec.classes == ("Train", "images")
    (tmp_path / "wrapped" / "images").rename(tmp_path / "wrapped" / "Test")
    assert f"its class, {tmp_path}/wrapped/Train/CLASS/NAME.jpg" in refusal(tmp_path / "wrapped")
    for split in ("train", "test"):
        shutil.copytree(folder, tmp_path / "parts" / split)
    (tmp_path / "parts" / "test" / "dog").rename(tmp_path / "parts" / "test" / "wolf")
    assert "classes differ: test has wolf, which train has not" in refusal(tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "test" / "wolf")
    assert "test has no dog (an empty folder would do)" in refusal(tmp_path / "parts")
    (tmp_path / "parts" / "test" / "dog").mkdir()
    assert prepare(settings(tmp_path / "parts")).splits["test"].examples == 12
    (tmp_path / "parts" / "test").rename(tmp_path / "parts" / "validation")
    shutil.rmtree(tmp_path / "parts" / "train")
    assert "holds validation, but no train" in refusal(tmp_path / "parts")


def test_it_is_prepared_once_and_again_where_a_file_changed(folder):
    stages: list[str] = []
    first = prepare(settings(folder), progress=lambda stage, *_: stages.append(stage))
    assert {*stages} == {"decoding train", "decoding validation"}
    stages.clear()
    again = prepare(settings(folder, augmentation=Augmentation(flip_probability=0.5)),
                         progress=lambda stage, *_: stages.append(stage))  # fmt: skip
    assert again.fingerprint == first.fingerprint
    assert stages == []
    picture(9).save(folder / "cat" / "03.jpg")
    assert prepare(settings(folder)).fingerprint != first.fingerprint


def test_digits_have_all_of_it():
    dataset = prepare(Digits(image_size=None, channels=3, decoded="files"))
    assert dataset.spec.image_shape == (8, 8, 3)
    assert (stored(dataset, "test")["image"] == stored(prepare(Digits()), "test")["image"]).all()


@pytest.mark.parametrize("decoded", ["arrays", "files"])
def test_the_last_batch_is_filled_up_and_every_picture_counts_once(folder, decoded):
    split = prepare(settings(folder, validation_fraction=0.0, decoded=decoded)).splits["train"]
    batches = Batches(split, global_batch_size=10, seed=0, shuffle=False)
    found = list(stream(batches, 0, len(batches), 0))
    assert [len(batch["image"]) for batch in found] == [10, 10, 10]
    assert [batch["weights"].sum() for batch in found] == [10, 10, 4]
    assert not found[-1]["image"][4:].any()
    big = Batches(split, global_batch_size=50, seed=0, shuffle=True)[3]
    assert big["weights"].all()
