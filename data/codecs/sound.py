"""Decodes recordings to waveforms, float32 [samples] with full scale 1, and to log-mel frames.

A frame holds, for a short window of a recording, the logarithm of the power in each mel band.
"""

import io
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from data.codecs.streams import UNKNOWN_SIZE, is_cut_ogg, missing, streams

Waveform = NDArray[np.float32]

LONGEST_SECONDS = 14_400.0
"""A longer recording is refused where no other limit is given: memory has to hold it."""

_FLOOR = 1e-10  # least power of a band: below the rounding noise of 16 bits
_LEAST_DEVIATION = 1e-5  # added to every deviation, for constant bands
_TOLERATED = 0.01  # share of a recording that may be missing: some programs write wrong headers
_BLOCK = 2**18  # samples of all channels that are decoded at once
_LOUDEST = 2.0**32  # some programs write 32-bit integers as floats; louder values are an error


def decode_sound(
    encoded: bytes, sample_rate: int, *, most_seconds: float | None = None
) -> Waveform:
    """Decode a recording (WAV, FLAC, OGG, MP3, ...), resampled to `sample_rate`: float32 [samples].

    Channels are averaged. The resampler is soxr's HQ (band-limited, linear phase).

    most_seconds: a longer recording is refused; None: `LONGEST_SECONDS`.

    The recording is read to its end, in blocks: its header may count no samples, or far too many.
    Several recordings in one file, one after the other, are joined.

    Raises ValueError if the recording is empty, cut off, too long (`TooLong`) or can't be decoded.
    If `most_seconds` is given, MemoryError is raised if there is not enough memory.
    """
    limit = LONGEST_SECONDS if most_seconds is None else most_seconds
    waveforms, seconds = list[Waveform](), 0.0
    try:
        for stream in streams(encoded):
            waveform, rate = _read(stream, limit - seconds)
            seconds += len(waveform) / rate
            if len(waveform):
                waveforms.append(to_rate(waveform, rate, sample_rate))
    except TooLong:
        raise TooLong(f"it lasts longer than {limit:g} seconds, the limit here") from None
    except MemoryError:
        if most_seconds is not None:
            raise
        raise ValueError("there is not enough memory to decode it") from None
    if not waveforms:
        raise ValueError("it is empty")
    return waveforms[0] if len(waveforms) == 1 else np.concatenate(waveforms)


class TooLong(ValueError):
    """Raised for a recording that is longer than what is decoded."""


def _read(encoded: bytes, most_seconds: float) -> tuple[Waveform, int]:
    """Decode one recording. Return its waveform, and its sample rate in Hz.

    Raises ValueError if it is cut off or can't be decoded, `TooLong`, or MemoryError.
    """
    import soundfile  # imported late, here and below: programs without audio start faster

    blocks, count, rate = list[Waveform](), 0, 1
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as opened:
            file: Any = opened
            file.seekable = lambda: False  # it would seek after each block, which GSM can't
            rate, size = file.samplerate, max(_BLOCK // file.channels, 1)
            expected = file.frames if file.frames < UNKNOWN_SIZE else 0
            while max(count, expected) <= most_seconds * rate:
                # Not more than is there: what follows the samples may be taken for damage.
                wanted = min(size, expected - count) if expected else size
                block = file.read(wanted, dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(block.mean(axis=1))
                count += len(block)
            else:
                raise TooLong
    except (TooLong, MemoryError):
        raise
    except Exception as error:  # soundfile raises several types
        raise ValueError(_reason(encoded, error)) from error
    share = min(count / expected if expected else 1, 1 - missing(encoded))
    if share < 1 - _TOLERATED:
        raise ValueError(f"it is cut off: {share:.0%} of it are there")
    if is_cut_ogg(encoded):
        raise ValueError("it is cut off: its last page is not there")
    return np.concatenate([np.zeros(0, np.float32), *blocks]), rate


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
    """Return why a recording can't be decoded."""
    said = str(getattr(error, "error_string", error)).lower()
    if not encoded:
        reason = "it is empty"
    elif getattr(error, "code", None) == 1:  # SF_ERR_UNRECOGNISED_FORMAT
        reason = "it is of no format that is known: WAV, FLAC, OGG and MP3 are"
    elif re.search("unimplemented|unsupported|not supported|unknown format", said):
        reason = "its encoding is not supported: store it as WAV or FLAC"
    else:
        reason = "it is damaged, or cut off"
    return f"no recording that can be decoded: {reason}"


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
