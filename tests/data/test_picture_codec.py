"""Promises of the codec of pictures: values of any range, transparency, odd headers, long notes."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from data.codecs.pictures import decode_picture, picture_size
from tests.data.test_bounded_decoding import peak
from tests.data.test_pictures import encoded

WIDTH, HEIGHT = 64, 48
RAMP = np.tile(np.arange(WIDTH) * 4, (HEIGHT, 1))  # 0 to 252


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(rows: np.ndarray, depth: int, color: int, *more: bytes) -> bytes:
    """A PNG of `rows`, whose bytes are packed already. more: chunks before the pixels."""
    width = rows.shape[1] * 8 // depth if depth < 8 else WIDTH
    head = struct.pack(">IIBBBBB", width, len(rows), depth, color, 0, 0, 0)
    pixels = b"".join(b"\0" + row.tobytes() for row in rows)
    data = (chunk(b"IHDR", head), *more, chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(data)


def tiff(values: np.ndarray, photometric: int = 1, **more: int) -> bytes:
    """A TIFF of grey values, as they are. more: further tags, `t281=4095`."""
    form = "uif".index(values.dtype.kind) + 1
    tags = {256: WIDTH, 257: HEIGHT, 258: 8 * values.itemsize, 259: 1, 262: photometric, 273: 0,
            277: 1, 278: HEIGHT, 279: values.nbytes, 339: form}  # fmt: skip
    tags |= {int(name[1:]): value for name, value in more.items()}
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", *(tag, 4, 1, tags[tag])) for tag in sorted(tags))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    return head + entries + bytes(4) + np.ascontiguousarray(values).tobytes()


def grey(content: bytes, **options) -> tuple[np.ndarray, list[str]]:
    """The pixels as they are stored, and the notes of the decoder."""
    notes: list[str] = []
    found = decode_picture(content, (HEIGHT, WIDTH, 1), notes=notes, **options)
    return found[..., 0], notes


RANGES = {
    "8 bits in 16": (encoded(Image.fromarray(RAMP.astype(np.uint16))), 255),
    "12 bits in 16": (encoded(Image.fromarray((RAMP * 16).astype(np.uint16))), 4095),
    "8 bits in 32": (encoded(Image.fromarray(RAMP.astype(np.int32)), "tiff"), 255),
    "12 bits in 32": (tiff((RAMP * 16).astype("<u4")), 4095),
    "16 bits in 32": (tiff((RAMP * 256).astype("<i4")), 65_535),
    "20 bits in 32": (tiff((RAMP * 4096).astype("<u4")), 2**20 - 1),
    "all of 32 bits": (tiff((RAMP * 2**24).astype("<u4")), 2**32 - 1),
}


@pytest.mark.parametrize("what", RANGES)
def test_of_an_unknown_range_the_largest_value_says_what_is_white(what):
    content, white = RANGES[what]
    found, notes = grey(content)
    assert (found == RAMP).all()
    assert len(notes) == 1 and f"data.max_value={white} would say so" in notes[0]
    assert (grey(content, max_value=float(white))[0] == RAMP).all()
    assert not grey(content, max_value=float(white))[1]


STATED = {
    "16 bits": encoded(Image.fromarray((RAMP * 256).astype(np.uint16))),
    "TIFF of 16 bits": tiff((RAMP * 256).astype("<u2")),
    "a tag": tiff((RAMP * 16).astype("<u2"), t281=4095),
    "a tag of few values": tiff((RAMP // 16 * 16).astype("<u4"), t281=255),
    "0 is white": tiff((65_535 - RAMP * 256).astype("<u2"), photometric=0),
    "PGM": b"P5 64 48 4095\n" + (RAMP * 16).astype(">u2").tobytes(),
}


@pytest.mark.parametrize("what", STATED)
def test_a_range_that_the_file_says_is_obeyed_without_a_word(what):
    found, notes = grey(STATED[what])
    assert np.abs(found.astype(int) - (RAMP // 16 * 16 if "few" in what else RAMP)).max() <= 1
    assert not notes


def test_a_dark_picture_stays_dark_if_its_range_is_known():
    dark = (RAMP // 16).astype(np.uint16) * 256
    assert (grey(encoded(Image.fromarray(dark)), max_value=65_535.0)[0] == RAMP // 16).all()
    found, notes = grey(encoded(Image.fromarray(np.zeros_like(dark))))
    assert not found.any() and not notes


def test_floating_point_pixels_need_a_range_and_negative_ones_are_black():
    content = tiff((RAMP / 255).astype("<f4"))
    with pytest.raises(ValueError, match=r"floating-point numbers: data\.max_value"):
        grey(content)
    assert np.abs(grey(content, max_value=1.0)[0].astype(int) - RAMP).max() <= 1
    found, notes = grey(tiff((RAMP * 16 - 2000).astype("<i2")), max_value=4095.0)
    assert (found[:, :31] == 0).all() and found[0, -1] > 100
    assert notes == ["have negative values, which become black"]


def test_colours_of_12_bits_in_16_are_told():
    rows = np.repeat((RAMP * 16)[..., None], 3, axis=2).astype(">u2")
    notes: list[str] = []
    decode_picture(png(rows, 16, 2), (HEIGHT, WIDTH, 3), notes=notes)
    assert len(notes) == 1 and "only the lowest 12" in notes[0]
    notes.clear()
    found = decode_picture(png((rows * 16).astype(">u2"), 16, 2), (HEIGHT, WIDTH, 3), notes=notes)
    assert (found[..., 0] == RAMP).all() and not notes


def test_a_transparent_value_of_any_depth_is_white():
    values = np.tile(np.array([0x8000] * 32 + [0x0102] * 32, ">u2"), (HEIGHT, 1))
    found, _ = grey(png(values, 16, 0, chunk(b"tRNS", b"\1\2")))
    assert (found[:, :32] == 0x80).all() and (found[:, 32:] == 255).all()

    colours = np.zeros((HEIGHT, WIDTH, 3), ">u2")
    colours[:, :32, 0] = 0x8000
    found = decode_picture(
        png(colours, 16, 2, chunk(b"tRNS", struct.pack(">HHH", 0x8000, 0, 0))), (HEIGHT, WIDTH, 3)
    )
    assert (found[:, :32] == 255).all() and (found[:, 32:] == 0).all()

    packed = np.full((HEIGHT, WIDTH // 2), 0x53, np.uint8)  # values of 4 bits: 5, 3, 5, 3, ...
    found, _ = grey(png(packed, 4, 0, chunk(b"tRNS", b"\0\5")))
    assert (found[:, ::2] == 255).all() and (found[:, 1::2] == 0x33).all()


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [0, 9, 10, 255, 1536])
def test_an_orientation_that_does_not_exist_turns_nothing(form, orientation):
    image = Image.new("RGB", (180, 60), "blue")
    image.paste("white", (80, 20, 100, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"jpeg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}
    content = encoded(image, form, exif=exif, **options.get(form, {}))
    assert picture_size(content) == (180, 60)
    bright = decode_picture(content, (60, 60, 3)).min(axis=2) > 128
    assert (bright.any(axis=0).sum(), bright.any(axis=1).sum()) == (20, 20)


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_damaged_exif_is_no_damaged_picture(form):
    image = Image.new("RGB", (180, 60), "blue")
    for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        content = encoded(image, form, exif=exif)
        assert picture_size(content) == (180, 60)
        assert decode_picture(content, (60, 180, 3)).shape == (60, 180, 3)


TEXT = b"workflow\0\0" + zlib.compress(b" " * 2_000_000)
NOTES = {
    "a packed text": chunk(b"zTXt", TEXT),
    "a text": chunk(b"tEXt", b"workflow\0" + b" " * 2_000_000),
    "a packed text in UTF-8": chunk(b"iTXt", b"workflow\0\1\0\0\0" + TEXT[10:]),
    "metadata of Adobe": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TEXT[10:]),
    "a colour profile": chunk(b"iCCP", b"x\0\0" + TEXT[10:]),
    "no colour profile": chunk(b"iCCP", b"x\0\7"),
}


@pytest.mark.parametrize("most_pixels", [None, 10_000])
@pytest.mark.parametrize("what", NOTES)
def test_texts_and_colour_profiles_of_any_size_are_no_damage(what, most_pixels):
    plain = png(RAMP.astype(np.uint8), 8, 0)
    place = plain.index(b"IDAT") - 4
    content = plain[:place] + NOTES[what] + plain[place:]
    assert picture_size(content) == (WIDTH, HEIGHT)
    assert (grey(content, most_pixels=most_pixels)[0] == RAMP).all()
    after = plain[:-12] + NOTES[what] + plain[-12:]
    assert (grey(after, most_pixels=most_pixels)[0] == RAMP).all()


def test_a_text_that_unpacks_without_end_takes_no_memory():
    bomb = zlib.compress(bytes(2**26))
    content = png(RAMP.astype(np.uint8), 8, 0, chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + bomb))
    assert peak(lambda: decode_picture(content[:-30], (8, 8, 1))) < 1 << 23


def test_the_orientation_in_a_text_is_obeyed():
    packet = b'<x:xmpmeta tiff:Orientation="6"/>'
    for content in (b"\0\0\0\0" + packet, b"\1\0\0\0" + zlib.compress(packet)):
        note = chunk(b"iTXt", b"XML:com.adobe.xmp\0" + content)
        assert picture_size(png(RAMP.astype(np.uint8), 8, 0, note)) == (HEIGHT, WIDTH)
