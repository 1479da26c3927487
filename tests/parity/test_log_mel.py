"""The front end of sound, and what transformers makes of the same waveforms."""

import numpy as np
import pytest

from data.codecs.sound import LogMel

audio_utils = pytest.importorskip("transformers.audio_utils")


@pytest.mark.parametrize(
    ("rate", "mels", "fft_size"),
    [(16_000, 80, 512), (8_000, 40, 256), (8_000, 80, 512), (22_050, 64, 1024)],
)
@pytest.mark.parametrize("kind", ["noise", "tone", "speechlike"])
def test_frames(rate, mels, fft_size, kind):
    random, times = np.random.default_rng(0), np.arange(rate) / rate
    waveform = {
        "noise": random.normal(size=rate),
        "tone": np.sin(2 * np.pi * 440 * times),  # beside which all other bands are soft
        "speechlike": sum(np.sin(2 * np.pi * 120 * n * times) / n for n in range(1, 30))
        * np.sin(2 * np.pi * 3 * times) ** 2 + 1e-4 * random.normal(size=rate),
    }[kind].astype(np.float32)  # fmt: skip
    ours = LogMel(rate, mels, 25.0, 10.0, "none")
    assert ours.fft_size == fft_size
    filters = audio_utils.mel_filter_bank(
        1 + fft_size // 2, mels, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney"
    )
    window = audio_utils.window_function(ours.window, "hann", periodic=True)
    theirs = audio_utils.spectrogram(
        waveform, window, frame_length=ours.window, hop_length=ours.hop, fft_length=fft_size,
        power=2.0, center=False, mel_filters=filters, mel_floor=1e-10, log_mel="log",
    )  # fmt: skip
    found = ours(waveform)
    assert found.shape == theirs.T.shape
    np.testing.assert_allclose(found, theirs.T, rtol=0, atol=1e-4)
