"""Promises of bounded decoding: headers that lie cost nothing, and what is decoded is the same."""

import io
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from data.codecs.pictures import decode_picture
from data.codecs.reasons import reason_of
from data.codecs.sound import LogMel, RecordingReader, TooLong, decode_sound

RATE = 8000
RNG = np.random.default_rng(0)


def recording(form, seconds=1.0, rate=RATE, channels=1):
    file = io.BytesIO()
    sound = RNG.uniform(-0.5, 0.5, (round(seconds * rate), channels)).astype(np.float32)
    soundfile.write(file, sound, rate, format=form)
    return file.getvalue()


def picture(width, height, form="PNG", mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, (width, height), 7).save(file, form)
    return file.getvalue()


def with_png_size(content, width, height):
    """Let the header of a PNG name another size."""
    head = content[12:16] + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]


def peak(function):
    """Return the most memory that Python and NumPy hold while a function fails."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_bounded_recording_is_the_same_bit_by_bit(form, channels):
    content = recording(form, 3.0, 22_050, channels)
    whole, bounded = (decode_sound(content, RATE, most_seconds=most) for most in (None, 3.5))
    assert whole.dtype == bounded.dtype and (whole == bounded).all()


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_longer_recording_is_refused(form):
    with pytest.raises(TooLong, match="longer than 2 seconds"):
        decode_sound(recording(form, 3.0), RATE, most_seconds=2.0)


def test_a_flac_that_claims_many_samples_takes_no_memory():
    content = bytearray(recording("FLAC"))
    content[21] |= 0x0F  # the 36 bits of the number of samples
    content[22:26] = b"\xff" * 4
    decode = lambda: decode_sound(bytes(content), RATE, most_seconds=0.9)  # noqa: E731
    assert peak(decode) < 1 << 23
    assert decode_sound(bytes(content), RATE, most_seconds=60.0).shape == (RATE,)


def test_many_channels_are_mixed_in_little_memory():
    content = recording("WAV", 0.1, channels=1000)
    assert decode_sound(content, RATE, most_seconds=1.0).shape == (800,)
    assert (decode_sound(content, RATE) == decode_sound(content, RATE, most_seconds=1.0)).all()


@pytest.mark.parametrize("size", [(100_000, 100_000), (1001, 1000), (2**31 - 1, 1)])
def test_a_picture_with_too_many_pixels_is_not_decoded(size):
    content = with_png_size(picture(8, 8), *size)
    decode = lambda: decode_picture(content, (8, 8, 3), most_pixels=1_000_000)  # noqa: E731
    with pytest.raises(ValueError, match="pixels"):
        decode()
    assert peak(decode) < 1 << 22


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_a_bounded_picture_is_the_same(form):
    file = io.BytesIO()
    pixels = RNG.integers(0, 256, (30, 20, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, form)
    whole, bounded = (
        decode_picture(file.getvalue(), (12, 12, 3), most_pixels=most) for most in (None, 600)
    )
    assert (whole == bounded).all()


def test_rare_formats_are_not_tried_if_bounded():
    content = picture(8, 8, "EPS")
    with pytest.raises(ValueError, match="of no format that is known"):
        decode_picture(content, (8, 8, 3), most_pixels=100)


def test_reasons_have_no_addresses_and_paths():
    assert reason_of(ValueError("cannot read <_io.BytesIO object at 0x7f12ab34cd56>\n now")) == (
        "cannot read it now"
    )
    assert reason_of(FileNotFoundError(2, "No such file", "/secret/path")) == "No such file"


def test_too_little_memory_is_told_apart_if_bounded(monkeypatch):
    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", full)
    with pytest.raises(ValueError):
        decode_picture(picture(8, 8), (8, 8, 3))
    with pytest.raises(MemoryError):
        decode_picture(picture(8, 8), (8, 8, 3), most_pixels=100)
    monkeypatch.setattr(soundfile.SoundFile, "read", full)
    with pytest.raises(ValueError):
        decode_sound(recording("WAV"), RATE)
    with pytest.raises(MemoryError):
        decode_sound(recording("WAV"), RATE, most_seconds=9.0)


def test_a_reader_can_be_pickled_and_tells_the_length():
    log_mel = LogMel(RATE, 8, 25.0, 10.0, "none")
    reader = pickle.loads(pickle.dumps(RecordingReader(log_mel, 300)))
    content = recording("WAV", 1.5)
    frames, seconds = reader.timed(content, 2.0)
    assert seconds == 1.5 and (frames == reader(content)).all()
    with pytest.raises(ValueError, match="takes 3"):
        reader(recording("WAV", 4.0))
