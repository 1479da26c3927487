"""Mends what the headers of recordings say of their length, and parts files that hold several.

Decoders hear as much as the first header says. A program that writes into a pipe, or that crashes,
leaves no length or a wrong one; and files are joined by writing one after the other.
"""

import re
import struct
from collections.abc import Iterator

UNKNOWN_SIZE = 0x7FFF0000
"""In a header, this size or number of samples, or a larger one, means that it is unknown."""

_PAGE = b"OggS"  # the first bytes of each page of an Ogg file

_HEADS = {
    b"RIFF": re.compile(rb"RIFF.{4}WAVE(?:fmt |JUNK|bext|LIST)", re.DOTALL),
    b"fLaC": re.compile(rb"fLaC\0\0\0\x22"),
    _PAGE: re.compile(rb"OggS\0[\2\3\6\7]"),
}
"""How a recording begins, by the first bytes of its format."""

_MP3_HEAD = re.compile(rb"\xff[\xe2-\xff].{2}.{0,2}?\0{9,32}(?:Xing|Info)", re.DOTALL)
_MP3_FIRST = 2048  # an MP3's own head, if it has one, is in as many bytes from its first frame
_CHUNKS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"cue ", b"smpl", b"fact", b"JUNK")

_KILOBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}


def streams(encoded: bytes) -> Iterator[bytes]:
    """Yield the recordings in a file, each with a header by which a decoder hears all of it."""
    starts = [found.start() for found in _heads(encoded)]
    for start, stop in zip([0, *starts], [*starts, len(encoded)], strict=True):
        part = encoded[start:stop]
        if part[:4] == b"RIFF":
            yield _whole_wav(part)
        elif part[:4] == b"fLaC" and part[-128:-125] == b"TAG":  # of ID3, which decoders take amiss
            yield part[:-128]
        elif part[:3] == b"ID3" or part[:1] == b"\xff":
            yield _counted_mp3(part)
        else:
            yield part


def is_cut_ogg(encoded: bytes) -> bool:
    """Return whether an Ogg file lacks its last page, complete and marked as last (RFC 3533, 6)."""
    if encoded[:4] != _PAGE:
        return False
    place = encoded.rfind(_PAGE)
    head = encoded[place : place + 27]
    if len(head) < 27 or not head[5] & 4:
        return True
    sizes = encoded[place + 27 : place + 27 + head[26]]
    return len(sizes) < head[26] or place + 27 + len(sizes) + sum(sizes) > len(encoded)


def missing(encoded: bytes) -> float:
    """Return the share of the samples announced by the header of a WAV or AIFF file that the file
    lacks; 0 for other formats."""
    place, size = _data_chunk(encoded)
    return max(0, place + size - len(encoded)) / size if 0 < size < UNKNOWN_SIZE else 0.0


def _heads(encoded: bytes) -> Iterator[re.Match[bytes]]:
    """Yield the places where recordings after the first one begin."""
    pattern, first = _HEADS.get(encoded[:4]), 1
    if pattern is None:
        if encoded[:3] != b"ID3" and encoded[:1] != b"\xff":
            return
        pattern, first = _MP3_HEAD, _after_tag(encoded, 0) + _MP3_FIRST
    for found in pattern.finditer(encoded, first):
        before = encoded.rfind(_PAGE, 0, found.start())
        if encoded[:4] != _PAGE or encoded[before + 5] & 4:  # else it is another track beside it
            yield found


def _data_chunk(encoded: bytes) -> tuple[int, int]:
    """Return where the samples of a WAV or AIFF file begin, and their size in bytes by its header;
    zeros if it has none, or is of another format."""
    place, heads = 12, {b"RIFF": "<4sI", b"FORM": ">4sI"}
    while encoded[:4] in heads and place + 8 <= len(encoded):
        kind, size = struct.unpack_from(heads[encoded[:4]], encoded, place)
        place += 8
        if kind in (b"data", b"SSND"):
            return place, size
        place += size + size % 2
    return 0, 0


def _whole_wav(encoded: bytes) -> bytes:
    """Return a WAV whose header counts all samples, if it counts none, or too few: the samples are
    then followed by what is no chunk."""
    place, size = _data_chunk(encoded)
    rest = encoded[place + size :] if place else b""
    if (
        not rest
        or _is_chunk(rest)
        or _is_chunk(rest[size % 2 :])
        or (size and (len(rest) < size / 100 or not any(rest)))
    ):
        return encoded
    return encoded[: place - 4] + struct.pack("<I", size + len(rest)) + encoded[place:]


def _is_chunk(content: bytes) -> bool:
    """Return whether a part of a WAV file begins with a chunk: a usual one, or a whole one."""
    name, size = content[:4], int.from_bytes(content[4:8], "little")
    is_name = name.isascii() and name.decode().isprintable()
    return name in _CHUNKS or (is_name and 8 + size <= len(content))


def _after_tag(encoded: bytes, place: int) -> int:
    """Return where the tag (ID3v2) of an MP3 at `place` ends, whose size has 7 bits a byte; `place`
    if there is none."""
    if encoded[place : place + 3] != b"ID3":
        return place
    size = encoded[place + 6 : place + 10]
    return place + 10 + sum((byte & 127) << 7 * (3 - n) for n, byte in enumerate(size))


def _counted_mp3(encoded: bytes) -> bytes:
    """Return an MP3 with a head that counts its frames, if its own head counts fewer, or if it has
    none and its bit rate varies: the length would be guessed from the first bit rates."""
    first = place = _after_tag(encoded, 0)
    count, rates = 0, set[int]()
    while frame := _mp3_frame(encoded, place):
        kilobits, size = frame
        rates.add(kilobits)
        count, place = count + 1, _after_tag(encoded, place + size)
    if not count or len(encoded) - place > max(len(encoded) / 100, 4096):
        return encoded
    head = encoded[first : first + 64].ljust(64, b"\0")
    if own := _MP3_HEAD.match(head):
        flags, counted = struct.unpack_from(">II", head, own.end())
        _, size = _mp3_frame(head, 0) or (0, 0)
        if not flags & 1 or count - 1 <= counted + 1:
            return encoded
        return encoded[:first] + _mp3_head(head, count - 1) + encoded[first + size :]
    if len(rates) < 2:
        return encoded
    return encoded[:first] + _mp3_head(head, count) + encoded[first:]


def _mp3_head(frame: bytes, count: int) -> bytes:
    """Return a frame that counts `count` frames like `frame`. It holds no sound."""
    _, second, third, fourth = frame[:4]
    head = bytes((255, second | 1, 9 << 4 | third & 12, fourth))  # no checksum; 80 or 128 kbit/s
    is_mono, is_mpeg1 = fourth >> 6 == 3, bool(second & 8)
    side = (17 if is_mono else 32) if is_mpeg1 else (9 if is_mono else 17)
    _, size = _mp3_frame(head, 0) or (0, 0)
    return (head + bytes(side) + b"Xing" + struct.pack(">II", 1, count)).ljust(size, b"\0")


def _mp3_frame(encoded: bytes, place: int) -> tuple[int, int] | None:
    """Return the bit rate in kbit/s and the size in bytes of the frame at `place`; None if there is
    no frame of MPEG layer III."""
    head = int.from_bytes(encoded[place : place + 4].ljust(4, b"\0"))
    version, layer, kilobits = head >> 19 & 3, head >> 17 & 3, head >> 12 & 15
    if head >> 21 != 0x7FF or layer != 1 or version == 1 or kilobits in (0, 15):
        return None
    if head >> 10 & 3 == 3:
        return None
    rate, hertz = _KILOBITS[version == 3][kilobits], _HERTZ[version][head >> 10 & 3]
    return rate, (144 if version == 3 else 72) * 1000 * rate // hertz + (head >> 9 & 1)
