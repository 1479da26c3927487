"""Decodes recordings to waveforms, float32 [samples] with full scale 1, and to log-mel frames.

A frame holds, for a short window of a recording, the logarithm of the power in each mel band.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from data.codecs.reasons import reason_of

Waveform = NDArray[np.float32]

_FLOOR = 1e-10  # least power of a band: below the rounding noise of 16 bits
_LEAST_DEVIATION = 1e-5  # added to every deviation, for constant bands
_TOLERATED = 0.01  # share of a recording that may be missing: some programs write wrong headers
_UNKNOWN_SIZE = 0x7FFF0000  # in a header, this size or a larger one means unknown
_PAGE = b"OggS"  # the first bytes of each page of an Ogg file
_MOST_CHANNELS = 16  # in bounded decoding
_LOUDEST = 2.0**32  # some programs write 32-bit integers as floats; louder values are an error


def decode_sound(
    encoded: bytes, sample_rate: int, *, most_seconds: float | None = None
) -> Waveform:
    """Decode a recording (WAV, FLAC, OGG, MP3, ...), resampled to `sample_rate`: float32 [samples].

    Channels are averaged. The resampler is soxr's HQ (band-limited, linear phase).

    most_seconds: a longer recording is refused before it is decoded.

    No more samples are decoded than the header announces.

    Raises ValueError if the recording is empty, cut off or too long, or can't be decoded. If
    `most_seconds` is given, MemoryError is raised if there is not enough memory.
    """
    import soundfile  # imported late, here and below: programs without audio start faster

    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            expected, rate = file.frames, file.samplerate
            if most_seconds is not None:
                _check_size(file, most_seconds)
            waveform = file.read(dtype="float32", always_2d=True).mean(axis=1)
    except Exception as error:  # soundfile raises several types
        is_full = isinstance(error, MemoryError) and most_seconds is not None
        if is_full or isinstance(error, TooLong):
            raise
        raise ValueError(_reason(encoded, error)) from error
    share = min(len(waveform) / expected if expected else 1, 1 - _missing(encoded))
    if share < 1 - _TOLERATED:
        raise ValueError(f"it is cut off: {share:.0%} of it are there")
    if encoded[:4] == _PAGE and not _ends(encoded):
        raise ValueError("it is cut off: its last page is not there")
    return to_rate(waveform, rate, sample_rate)


class TooLong(ValueError):
    """Raised for a recording that is longer than what is decoded."""


def _check_size(file: Any, most_seconds: float) -> None:
    """Raise ValueError for a recording with more than `most_seconds`, or many channels."""
    if file.channels > _MOST_CHANNELS:
        raise ValueError(f"it has {file.channels} channels, and at most {_MOST_CHANNELS} are mixed")
    if file.frames > most_seconds * file.samplerate:
        raise TooLong(f"it lasts longer than {most_seconds:g} seconds, the limit here")


def to_rate(waveform: Waveform, rate: float, sample_rate: float) -> Waveform:
    """Resample `waveform` from `rate` to `sample_rate`, both in Hz.

    Raises ValueError if the waveform is empty, or has values that are not finite or exceed 2**32.
    """
    if not len(waveform):
        raise ValueError("it is empty")
    if not np.isfinite(waveform).all():
        raise ValueError("it holds numbers that are not finite")
    if (loudest := np.abs(waveform).max()) > _LOUDEST:
        raise ValueError(f"it holds numbers as large as {loudest:.1g}, and 1 is the loudest sound")
    if rate == sample_rate:
        return waveform
    import soxr

    return soxr.resample(waveform, rate, sample_rate, "HQ")


def _reason(encoded: bytes, error: Exception) -> str:
    said = getattr(error, "error_string", None)
    reason = (reason_of(error) if said is None else " ".join(said.split())).removeprefix("Error : ")
    if not encoded:
        reason = "it is empty"
    elif reason.startswith("Format not recognised"):
        reason = "it is of no format that is known"
    return f"no recording that can be decoded: {reason.rstrip('.')}"


def _ends(encoded: bytes) -> bool:
    """Return whether an Ogg file's last page is complete and marked as the last (RFC 3533, 6)."""
    place = encoded.rfind(_PAGE)
    head = encoded[place : place + 27]
    if len(head) < 27 or not head[5] & 4:
        return False
    sizes = encoded[place + 27 : place + 27 + head[26]]
    return len(sizes) == head[26] and place + 27 + len(sizes) + sum(sizes) <= len(encoded)


def _missing(encoded: bytes) -> float:
    """Return the share of the samples announced by a WAV file's header that the file lacks; 0 for
    other formats."""
    place = 12
    while encoded[:4] == b"RIFF" and place + 8 <= len(encoded):
        kind, size = (
            encoded[place : place + 4],
            int.from_bytes(encoded[place + 4 : place + 8], "little"),
        )
        place += 8
        if kind == b"data":
            known = 0 < size < _UNKNOWN_SIZE
            return max(0, place + size - len(encoded)) / size if known else 0.0
        place += size + size % 2
    return 0.0


@dataclass(frozen=True)
class LogMel:
    """Computes log-mel frames of waveforms: `LogMel(...)(waveform)` is float32 [frames, num_mels].

    W and H are the numbers of samples in `window_milliseconds` and `hop_milliseconds`, rounded.
    Frame t covers the samples from t H to t H + W. There is no padding: N samples have
    1 + (N - W) // H frames, or none if N < W. Each frame is multiplied by a periodic Hann window,
    zero-padded to F samples and Fourier transformed. Its power is |X|^2 of the 1 + F / 2 bins. F is
    the smallest power of two that is at least W and for which bins are no further apart than the
    corners of the bands below 1 kHz.

    Bands are triangular filters from 0 Hz to half the sample rate; each has area 1 over frequency
    in Hz. Their `num_mels` + 2 corners are evenly spaced on Slaney's mel scale: 3 f / 200 below
    1 kHz, and 15 + 27 ln(f / 1000) / ln 6.4 above (as in librosa and Whisper). The result is the
    natural logarithm of the power in each band; a power below 1e-10 counts as 1e-10.

    normalization="bands": subtract each band's mean over the recording, and divide by its standard
    deviation plus 1e-5. "recording": the same with one mean and deviation for all bands, which
    keeps the spectrum of a constant sound. "none": no normalization.
    """

    sample_rate: int
    num_mels: int
    window_milliseconds: float
    hop_milliseconds: float
    normalization: str

    @classmethod
    def of(cls, settings: Any) -> Self:
        """Build a `LogMel` from `settings` (the configuration's `data`)."""
        return cls(
            settings.sample_rate,
            settings.num_mels,
            settings.window_milliseconds,
            settings.hop_milliseconds,
            settings.normalization,
        )

    def __call__(self, waveform: Waveform) -> NDArray[np.float32]:
        if not self.frames(len(waveform)):
            return np.zeros((0, self.num_mels), np.float32)
        windows = sliding_window_view(waveform, self.window)[:: self.hop]
        # In double precision: float32 rounding errors of loud bands would hide soft bands.
        spectrum = np.fft.rfft(windows * self._hann, self.fft_size)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        # A sparse product needs no BLAS threads, which wait long if training uses all cores.
        levels = np.log(np.maximum((self._bands @ power.T).T, np.float32(_FLOOR)))
        if self.normalization != "none":
            over = 0 if self.normalization == "bands" else None
            levels -= levels.mean(axis=over)
            levels /= levels.std(axis=over) + np.float32(_LEAST_DEVIATION)
        return np.ascontiguousarray(levels)

    def frames(self, samples: ArrayLike) -> Any:
        """Return how many frames `samples` samples have. Works elementwise on arrays."""
        return np.maximum(1 + (np.asarray(samples) - self.window) // self.hop, 0)

    def most_samples(self, frames: int) -> int:
        """Return the number of samples of the longest waveform with `frames` frames."""
        return self.window + frames * self.hop - 1

    def seconds(self, frames: int) -> float:
        """Return the length, in seconds, of the shortest recording with `frames` frames."""
        return (self.window + (frames - 1) * self.hop) / self.sample_rate

    @property
    def window(self) -> int:
        """Samples per frame."""
        return round(self.sample_rate * self.window_milliseconds / 1000)

    @property
    def hop(self) -> int:
        """Samples from the beginning of a frame to the beginning of the next."""
        return max(1, round(self.sample_rate * self.hop_milliseconds / 1000))

    @cached_property
    def fft_size(self) -> int:
        """Samples per Fourier transform: the zero-padded window."""
        distance = self._corners[1]  # between the first corners, in Hz
        return max(_power_of_two(self.window), _power_of_two(self.sample_rate / distance))

    @property
    def _corners(self) -> NDArray[np.float64]:
        """The corners of the bands in Hz, [num_mels + 2]."""
        highest = _mels(self.sample_rate / 2)
        return _hertz(np.linspace(0, highest, self.num_mels + 2))

    @cached_property
    def _hann(self) -> NDArray[np.float64]:
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)

    @cached_property
    def _bands(self) -> Any:
        """The weight of each FFT bin in each band, sparse [num_mels, bins]."""
        from scipy.sparse import csr_array

        low, middle, high = (self._corners[n : n + self.num_mels, None] for n in range(3))
        bins = np.arange(1 + self.fft_size // 2) * self.sample_rate / self.fft_size
        rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
        weights = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
        return csr_array(weights.astype(np.float32))


@dataclass(frozen=True)
class RecordingReader:
    """Turns a file's content into frames: `RecordingReader(...)(content)` is float32 [frames, mel
    bands].

    most_frames: longer recordings are refused.

    Raises ValueError for content that is not a recording, and for a recording shorter than a frame
    or longer than `most_frames`.
    """

    log_mel: LogMel
    most_frames: int

    def __call__(self, content: bytes) -> NDArray[np.float32]:
        return self.timed(content)[0]

    def timed(
        self, content: bytes, most_seconds: float | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """Return the frames, and the length of the recording in seconds.

        most_seconds: as in `decode_sound`.
        """
        log_mel = self.log_mel
        waveform = decode_sound(content, log_mel.sample_rate, most_seconds=most_seconds)
        frames = int(log_mel.frames(len(waveform)))
        if not frames:
            raise ValueError(
                f"shorter than a frame of {log_mel.window_milliseconds:g} milliseconds"
            )
        if frames > self.most_frames:
            lasts, most = (round(log_mel.seconds(n), 3) for n in (frames, self.most_frames))
            raise ValueError(
                f"it lasts {lasts:g} seconds, and this model takes {most:g} at most: "
                "cut it into parts"
            )
        return log_mel(waveform), len(waveform) / log_mel.sample_rate


def _mels(hertz: float) -> float:
    if hertz < 1000:
        return 3 * hertz / 200
    return float(15 + 27 * np.log(hertz / 1000) / np.log(6.4))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, 200 * mels / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def _power_of_two(number: float) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 2 ** int(np.ceil(np.log2(number)))
