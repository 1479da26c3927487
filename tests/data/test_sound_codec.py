"""Promises of the codec of sound: any file, one rate; damage is told; frames as the page says."""

import io
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import soundfile

from data.codecs import streams
from data.codecs.sound import LogMel, TooLong, decode_sound

RATE = 8000


def voice(seconds: float = 0.5, rate: int = RATE, pitch: float = 200.0) -> np.ndarray:
    """Something that is below half of any rate: float32 [samples]."""
    times = np.arange(round(seconds * rate)) / rate
    parts = (np.sin(2 * np.pi * pitch * n * times) / n for n in range(1, 6))
    return (0.3 * sum(parts) * np.sin(np.pi * times / seconds) ** 2).astype(np.float32)


def encoded(waveform: np.ndarray, rate: int = RATE, form: str = "WAV", **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=form, **options)
    return file.getvalue()


@pytest.mark.parametrize(("form", "subtype", "error"), [
    ("WAV", "PCM_16", 2**-15), ("WAV", "PCM_24", 2**-22), ("WAV", "FLOAT", 0),
    ("WAV", "PCM_U8", 2**-6), ("FLAC", "PCM_16", 2**-15), ("OGG", "VORBIS", 0.05),
    ("MP3", None, 0.05)])  # fmt: skip
def test_every_format_is_decoded(form, subtype, error):
    found = decode_sound(encoded(voice(), form=form, subtype=subtype), RATE)
    assert found.dtype == np.float32
    assert np.abs(found[: len(voice())] - voice()[: len(found)]).max() <= error


@pytest.mark.parametrize("rate", [6000, 16_000, 22_050, 44_100, 48_000])
def test_another_rate_gives_the_same_sound(rate):
    found = decode_sound(encoded(voice(rate=rate), rate, subtype="FLOAT"), RATE)
    assert abs(len(found) - len(voice())) <= 1
    assert np.abs(found[:4000] - voice()[: len(found)]).max() < 2e-3


def test_of_several_channels_it_is_the_mean():
    one, other = voice(pitch=200), voice(pitch=300)
    stereo = np.stack([one, other], axis=1)
    found = decode_sound(encoded(stereo, subtype="FLOAT"), RATE)
    np.testing.assert_allclose(found, (one + other) / 2, atol=1e-7)


def counting(content: bytes, samples: int) -> bytes:
    """A WAV or a FLAC whose header counts another number of samples."""
    if content.startswith(b"fLaC"):
        counted = struct.pack(">Q", samples | content[21] >> 4 << 36)[3:]
        return content[:21] + counted + content[26:]
    return content[:40] + struct.pack("<I", min(2 * samples, 2**32 - 1)) + content[44:]


@pytest.mark.parametrize("samples", [0, 2**36 - 1])
@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_a_recording_is_heard_to_its_end_if_its_header_does_not_know_its_length(form, samples):
    content = encoded(voice(), form=form, subtype="PCM_16")
    found = decode_sound(counting(content, samples), RATE)
    assert (found == decode_sound(content, RATE)).all()
    limited = decode_sound(counting(content, samples), RATE, most_seconds=0.6)
    assert (found == limited).all()
    with pytest.raises(TooLong):
        decode_sound(counting(content, samples), RATE, most_seconds=0.4)


def test_an_mp3_whose_head_counts_too_few_frames_is_heard_whole():
    content = encoded(voice(2.0), form="MP3")
    place = content.find(b"Xing") + 8
    for counted in (0, 5):
        short = content[:place] + struct.pack(">I", counted) + content[place + 4 :]
        assert 2.0 <= len(decode_sound(short, RATE)) / RATE < 2.3
    _, size = streams._mp3_frame(content, 0)
    tag = b"ID3\3\0\0\0\0\2\0" + bytes(256)
    assert 4.0 <= len(decode_sound(content + tag + content[size:], RATE)) / RATE < 4.5


def test_a_wav_whose_header_counts_too_few_samples_is_heard_whole():
    content = encoded(voice(), subtype="PCM_16")
    whole = decode_sound(content, RATE)
    assert (decode_sound(counting(content, 2000), RATE) == whole).all()
    for more in (b"LIST\4\0\0\0INFO", b"id3 \4\0\0\0abcd", bytes(4096)):  # as programs append
        assert (decode_sound(content + more, RATE) == whole).all()
    with pytest.raises(ValueError, match="it is empty"):
        decode_sound(counting(content[:44], 0) + b"LIST\4\0\0\0INFO", RATE)


def test_a_flac_with_a_tag_at_its_end_is_no_damage():
    content = encoded(voice(), form="FLAC")
    for one in (content, counting(content, 0)):
        found = decode_sound(one + b"TAG" + bytes(125), RATE)
        assert (found == decode_sound(content, RATE)).all()


@pytest.mark.parametrize("loud_first", [True, False])
@pytest.mark.parametrize(("rate", "channels"), [(44_100, 1), (44_100, 2), (16_000, 1), (8000, 2)])
def test_an_mp3_that_does_not_count_its_frames_is_heard_whole(rate, channels, loud_first):
    """Of varying bit rate: a quiet and a loud part, of which the first foretells nothing."""
    noise = np.random.default_rng(0).uniform(-0.8, 0.8, (4 * rate, channels))
    noise[2 * rate :] = 0
    file = io.BytesIO()
    options = {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.2}
    soundfile.write(file, noise if loud_first else noise[::-1], rate, **options)
    content = file.getvalue()
    _, size = streams._mp3_frame(content, 0)
    assert content.find(b"Xing", 0, size) > 0
    found = decode_sound(content[size:], RATE)
    assert 3.9 < len(found) / RATE < 4.4
    half = found[: len(found) // 2], found[len(found) // 2 :]
    assert (np.abs(half[0]).mean() > np.abs(half[1]).mean()) == loud_first


@pytest.mark.parametrize("subtype", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "ULAW"])
def test_recordings_of_telephones_are_heard(subtype):
    found = decode_sound(encoded(voice(), subtype=subtype), RATE)
    assert len(voice()) <= len(found) < len(voice()) + 1100  # whole blocks
    assert np.corrcoef(found[:4000], voice())[0, 1] > 0.8


JOINED = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]


@pytest.mark.parametrize(("form", "subtype"), JOINED)
@pytest.mark.parametrize("rates", [(16_000, 16_000, 16_000), (48_000, 16_000)])
def test_joined_recordings_are_heard_whole(form, subtype, rates):
    parts = [
        encoded(voice(1.0, rate, 200 + 50 * number), rate, form, subtype=subtype)
        for number, rate in enumerate(rates)
    ]
    found = decode_sound(b"".join(parts), RATE)
    assert (found == np.concatenate([decode_sound(part, RATE) for part in parts])).all()
    assert abs(len(found) / RATE - len(rates)) < 0.1
    with pytest.raises(TooLong, match=r"longer than 1\.5 seconds"):
        decode_sound(b"".join(parts), RATE, most_seconds=1.5)


def test_a_tag_between_joined_mp3s_is_not_heard():
    part = encoded(voice(1.0), form="MP3")
    tag = b"ID3\3\0\0\0\0\2\0" + b"TIT2" + bytes(252)
    whole = decode_sound(tag + part + tag + part, RATE)
    assert (whole == np.tile(decode_sound(part, RATE), 2)).all()


def test_a_long_recording_is_decoded_in_blocks():
    content = encoded(np.zeros((RATE * 600, 2), np.int16), form="FLAC")  # ten minutes of silence
    assert len(content) < 100_000
    tracemalloc.start()
    with pytest.raises(TooLong):
        decode_sound(counting(content, 0), RATE, most_seconds=2.0)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


WAV, FLAC, MP3, AIFF = (encoded(voice(1.0), form=form) for form in ("WAV", "FLAC", "MP3", "AIFF"))
OGG = encoded(np.tile(voice(1.0), 20), form="OGG")
DAMAGED = {
    "empty": (b"", "it is empty"),
    "a page": (
        b"<html>404 not found</html>",
        "it is of no format that is known: WAV, FLAC, OGG and MP3 are",
    ),
    "half a WAV": (WAV[: len(WAV) // 2], "it is cut off: 50% of it are there"),
    "half an AIFF": (AIFF[: len(AIFF) // 2], "it is cut off: 50% of it are there"),
    "half a FLAC": (
        FLAC[: len(FLAC) // 2],
        "no recording that can be decoded: it is damaged, or cut off",
    ),
    "half an MP3": (MP3[: len(MP3) // 2], "it is cut off"),
    "a garbled FLAC": (
        FLAC[:3000] + b"\0" * 500 + FLAC[3500:],
        "no recording that can be decoded: it is damaged",
    ),
    "half an OGG": (encoded(voice(), form="OGG")[:2000], ""),
    "an OGG without its end": (OGG[: OGG.rfind(b"OggS")], "it is cut off: its last page is not"),
    "a page too short": (OGG[:-1], "it is cut off: its last page is not there"),
    "thunder": (encoded(voice() * np.float32(1e30), subtype="FLOAT"), "as large as "),
    "only a head": (WAV[:44], "it is cut off"),
    "no sample": (encoded(voice()[:0]), "it is empty"),
    "no numbers": (encoded(voice() * np.float32(np.nan), subtype="FLOAT"), "not finite"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_told_in_words(what):
    content, words = DAMAGED[what]
    with pytest.raises(ValueError) as raised:
        decode_sound(content, RATE)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value) and "object at" not in str(raised.value)


def test_a_decoders_own_words_are_not_shown():
    for content in (*(damaged for damaged, _ in DAMAGED.values()), WAV[:20], FLAC[:50], MP3[:9]):
        with pytest.raises(ValueError) as raised:
            decode_sound(content, RATE)
        told = str(raised.value).lower()
        for word in ("psf_", "libsndfile", "array", "decoder", "internal", "malformed"):
            assert word not in told


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3", "joined"])
def test_damage_of_any_kind_is_a_value_error(form):
    """Bytes that are changed, cut off or put in, mostly near the beginning."""
    random = np.random.default_rng(0)
    part = encoded(voice(0.1), form="MP3" if form == "joined" else form)
    content = part + part if form == "joined" else part
    for _ in range(300):
        one, place = bytearray(content), int(len(content) * random.random() ** 4)
        for _ in range(random.integers(1, 4)):
            one[place : place + random.integers(0, 5)] = random.bytes(random.integers(0, 5))
        try:
            decode_sound(bytes(one[: random.integers(1, 2 * len(one))]), RATE, most_seconds=9.0)
        except ValueError as error:
            assert "\n" not in str(error)


def plain_frames(waveform: np.ndarray, rate: int, num_mels: int) -> np.ndarray:
    """The front end frame by frame and band by band, as its docstring has it."""
    window, hop = rate * 25 // 1000, rate // 100
    highest = 15 + 27 * np.log(rate / 2 / 1000) / np.log(6.4)
    corners = []
    for mel in np.linspace(0, highest, num_mels + 2):
        corners.append(mel * 200 / 3 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
    size = 1
    while size < window or rate / size > corners[1] - corners[0]:
        size *= 2
    frames = []
    for start in range(0, len(waveform) - window + 1, hop):
        piece = np.zeros(size)
        for n in range(window):
            piece[n] = waveform[start + n] * (0.5 - 0.5 * np.cos(2 * np.pi * n / window))
        power = np.abs(np.fft.fft(piece)[: size // 2 + 1]) ** 2
        bands = []
        for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
            total = 0.0
            for k, of_bin in enumerate(power):
                hertz = k * rate / size
                if low < hertz <= middle:
                    total += of_bin * (hertz - low) / (middle - low) * 2 / (high - low)
                elif middle < hertz < high:
                    total += of_bin * (high - hertz) / (high - middle) * 2 / (high - low)
            bands.append(np.log(max(total, 1e-10)))
        frames.append(bands)
    return np.array(frames)


@pytest.mark.parametrize(("rate", "mels"), [(8000, 40), (8000, 80), (16_000, 80)])
def test_frames_are_those_of_the_plain_definition(rate, mels):
    waveform = voice(0.2, rate) + 1e-3 * np.random.default_rng(0).normal(size=rate // 5)
    waveform = waveform.astype(np.float32)
    plain = plain_frames(waveform, rate, mels)
    log_mel = LogMel(rate, mels, 25.0, 10.0, "none")
    np.testing.assert_allclose(log_mel(waveform), plain, rtol=0, atol=1e-4)
    normalised = (plain - plain.mean(axis=0)) / (plain.std(axis=0) + 1e-5)
    log_mel = LogMel(rate, mels, 25.0, 10.0, "bands")
    np.testing.assert_allclose(log_mel(waveform), normalised, rtol=0, atol=1e-3)
    normalised = (plain - plain.mean()) / (plain.std() + 1e-5)
    log_mel = LogMel(rate, mels, 25.0, 10.0, "recording")
    np.testing.assert_allclose(log_mel(waveform), normalised, rtol=0, atol=1e-3)


def test_every_band_hears_something_and_knows_high_from_low():
    log_mel = LogMel(8000, 80, 25.0, 10.0, "none")
    random = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    assert log_mel(random).min() > -15  # the floor is at -23
    loudest = [log_mel(voice(0.1, pitch=p)).mean(axis=0).argmax() for p in (100, 300, 700)]
    assert loudest == sorted(loudest) and len({*loudest}) == 3


@pytest.mark.parametrize("samples", [0, 1, 199, 200, 279, 280, 281, 4000])
def test_so_many_samples_make_so_many_frames(samples):
    log_mel = LogMel(8000, 40, 25.0, 10.0, "bands")
    frames = log_mel(voice()[:samples])
    assert frames.shape == (log_mel.frames(samples), 40)
    assert len(frames) == sum(start + 200 <= samples for start in range(0, 4000, 80))
    if len(frames):
        longest = log_mel.most_samples(len(frames))
        assert log_mel.frames(longest) == len(frames) == log_mel.frames(longest + 1) - 1
        assert log_mel.seconds(len(frames)) <= samples / 8000


@pytest.mark.parametrize(("normalization", "axis"), [("bands", 0), ("recording", None)])
def test_normalization_takes_loudness_out_and_silence_is_nothing(normalization, axis):
    log_mel = LogMel(8000, 40, 25.0, 10.0, normalization)
    noisy = voice() + 0.01 * np.random.default_rng(0).normal(size=4000).astype(np.float32)
    frames = log_mel(noisy)
    np.testing.assert_allclose(frames.mean(axis=axis), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(axis=axis), 1, atol=1e-4)
    np.testing.assert_allclose(log_mel(noisy), log_mel(4 * noisy), atol=1e-4)
    assert not log_mel(np.zeros(4000, np.float32)).any()


def test_it_can_be_sent_to_a_worker():
    log_mel = LogMel(8000, 40, 25.0, 10.0, "bands")
    assert (pickle.loads(pickle.dumps(log_mel))(voice()) == log_mel(voice())).all()
