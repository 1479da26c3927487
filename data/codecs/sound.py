"""Recordings as waveforms, float32 [samples], 1 the loudest that a file can say; and as frames.

A frame is what a piece of a recording sounds like: the logarithm of its power in each of some
bands, of about the width that the ear tells apart.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Waveform = NDArray[np.float32]

_FLOOR = 1e-10  # least power of a band: less than rounding to 16 bits leaves in it
_LEAST_DEVIATION = 1e-5  # added to each, for bands that never change
_TOLERATED = 0.01  # share of a recording that may be missing: some programs write wrong heads
_UNKNOWN_SIZE = 0x7FFF0000  # from here on a head says that its writer did not know
_PAGE = b"OggS"  # how each page of an Ogg file begins
_LOUDEST = 2.0**32  # some programs write 32-bit integers as floats: what is louder is no sound


def decode_sound(encoded: bytes, sample_rate: int) -> Waveform:
    """Return the recording in `encoded` (WAV, FLAC, OGG, MP3, ...) at `sample_rate`: float32
    [samples].

    Of several channels it is the mean; another rate is resampled (soxr's HQ: band-limited, of
    linear phase). Raises ValueError where it is no whole recording, or is empty.
    """
    import soundfile  # here and below what would slow the start of those who hear nothing

    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as file:
            expected, rate = file.frames, file.samplerate
            channels = file.read(dtype="float32", always_2d=True)
    except Exception as error:  # soundfile raises several kinds
        raise ValueError(_reason(encoded, error)) from error
    share = min(len(channels) / expected if expected else 1, 1 - _missing(encoded))
    if share < 1 - _TOLERATED:
        raise ValueError(f"it is cut off: {share:.0%} of it are there")
    if encoded[:4] == _PAGE and not _ends(encoded):
        raise ValueError("it is cut off: its last page is not there")
    return to_rate(channels.mean(axis=1), rate, sample_rate)


def to_rate(waveform: Waveform, rate: float, sample_rate: float) -> Waveform:
    """`waveform`, of `rate` samples a second, at `sample_rate`.

    Raises ValueError where it is empty, or holds what is no number.
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
    reason = " ".join(getattr(error, "error_string", str(error)).split()).removeprefix("Error : ")
    if not encoded:
        reason = "it is empty"
    elif reason.startswith("Format not recognised"):
        reason = "it is of no format that is known"
    return f"no recording that can be decoded: {reason.rstrip('.')}"


def _ends(encoded: bytes) -> bool:
    """Return whether an Ogg file's last page is whole and marked as the last (RFC 3533, 6)."""
    place = encoded.rfind(_PAGE)
    head = encoded[place : place + 27]
    if len(head) < 27 or not head[5] & 4:
        return False
    sizes = encoded[place + 27 : place + 27 + head[26]]
    return len(sizes) == head[26] and place + 27 + len(sizes) + sum(sizes) <= len(encoded)


def _missing(encoded: bytes) -> float:
    """Return the share of the samples in a WAV file's head that the file lacks."""
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
    """The frames of waveforms: `LogMel(...)(waveform)` is float32 [frames, num_mels].

    With W and H samples in `window_milliseconds` and `hop_milliseconds`, rounded, frame t is of
    the samples from t H to t H + W, without any before the first or after the last: N samples
    make 1 + (N - W) // H frames, and none where N < W. The frame is weighted by a periodic Hann
    window, filled up with zeros to F samples and Fourier transformed; |X|^2 of its 1 + F / 2 bins
    is its power. F is the least power of two, at least W, whose bins lie no further apart than the
    bands below 1 kHz.

    Bands are triangles from 0 Hz to half the rate, of area 1 over frequency in Hz, whose
    `num_mels` + 2 corners are evenly spaced on Slaney's mel scale: 3 f / 200 below 1 kHz, and
    15 + 27 ln(f / 1000) / ln 6.4 above (as librosa and Whisper have it). A frame is the natural
    logarithm of the power in each, 1e-10 at least.

    normalization="bands": from each band its mean over the recording is taken, and it is divided
    by its standard deviation plus 1e-5. "recording": the same with mean and deviation of all bands
    together, so that what sounds all the time is kept. "none": neither.
    """

    sample_rate: int
    num_mels: int
    window_milliseconds: float
    hop_milliseconds: float
    normalization: str

    @classmethod
    def of(cls, settings: Any) -> Self:
        """Return the frames that `settings` (the configuration's `data`) ask for."""
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
        # In double precision: rounding would drown soft bands beside loud ones.
        spectrum = np.fft.rfft(windows * self._hann, self.fft_size)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        # Sparse, and so without the threads of BLAS, which wait long where training has all cores.
        levels = np.log(np.maximum((self._bands @ power.T).T, np.float32(_FLOOR)))
        if self.normalization != "none":
            over = 0 if self.normalization == "bands" else None
            levels -= levels.mean(axis=over)
            levels /= levels.std(axis=over) + np.float32(_LEAST_DEVIATION)
        return np.ascontiguousarray(levels)

    def frames(self, samples: ArrayLike) -> Any:
        """Return the frames of a waveform of `samples`, a number or several."""
        return np.maximum(1 + (np.asarray(samples) - self.window) // self.hop, 0)

    def most_samples(self, frames: int) -> int:
        """Return the number of samples in the longest waveform of so many frames."""
        return self.window + frames * self.hop - 1

    def seconds(self, frames: int) -> float:
        """Return the length of a recording of so many frames, or a little less."""
        return (self.window + (frames - 1) * self.hop) / self.sample_rate

    @property
    def window(self) -> int:
        """Samples of a frame."""
        return round(self.sample_rate * self.window_milliseconds / 1000)

    @property
    def hop(self) -> int:
        """Samples from the beginning of a frame to that of the next."""
        return max(1, round(self.sample_rate * self.hop_milliseconds / 1000))

    @cached_property
    def fft_size(self) -> int:
        """Samples that are Fourier transformed together."""
        distance = self._corners[1]  # between the first corners, in Hz
        return max(_power_of_two(self.window), _power_of_two(self.sample_rate / distance))

    @property
    def _corners(self) -> NDArray[np.float64]:
        """The corners of the bands, in Hz."""
        highest = _mels(self.sample_rate / 2)
        return _hertz(np.linspace(0, highest, self.num_mels + 2))

    @cached_property
    def _hann(self) -> NDArray[np.float64]:
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)

    @cached_property
    def _bands(self) -> Any:
        """Weight of each bin in each band, sparse [num_mels, bins]."""
        from scipy.sparse import csr_array

        low, middle, high = (self._corners[n : n + self.num_mels, None] for n in range(3))
        bins = np.arange(1 + self.fft_size // 2) * self.sample_rate / self.fft_size
        rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
        weights = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
        return csr_array(weights.astype(np.float32))


def _mels(hertz: float) -> float:
    if hertz < 1000:
        return 3 * hertz / 200
    return float(15 + 27 * np.log(hertz / 1000) / np.log(6.4))


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, 200 * mels / 3, 1000 * 6.4 ** ((mels - 15) / 27))


def _power_of_two(number: float) -> int:
    """Return the least that is no smaller."""
    return 2 ** int(np.ceil(np.log2(number)))
