"""Recordings as log-mel sequences: how loud each band of frequencies is, step by step."""

import math
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from mmbench.data.files import reading
from mmbench.data.unpacking import require_size

SOUNDS = (".wav",)
WINDOW_S, HOP_S = 0.025, 0.010  # of a step, and from one to the next
MELS = 40
FLOOR = 1e-10  # of power, where silence is digital


def read_wav(
    path: Path, rate_hz: int, *, content: bytes | None = None
) -> Float32[np.ndarray, " time"]:
    """Read a recording as one channel at a rate: several are averaged, another rate is resampled.

    Args:
        path: Of a wav file; whole numbers of 8 to 32 bits, or floats.
        rate_hz: Wanted rate, >= 1.
        content: Of the file, if it lies in an archive.

    Returns:
        The wave, in [-1, 1] for files of whole numbers.

    Raises:
        ValueError: If it is no such file, is cut off or empty, or holds NaN or infinity.
    """
    rate, mono = _mono(path, content)
    if rate != rate_hz:
        from scipy.signal import resample_poly

        if content is None:
            require_size(path, 4 * len(mono) * rate_hz // rate)  # a rate of 1 Hz would fill memory
        common = math.gcd(rate, rate_hz)
        mono = resample_poly(mono, rate_hz // common, rate // common)
    return mono.astype(np.float32)


def steps_of(path: Path, rate_hz: int) -> int:
    """Steps of the log-mel sequence of a recording, which is read but not transformed.

    Raises:
        ValueError: See `read_wav`.
    """
    rate, mono = _mono(path, None)
    values = -(-len(mono) * rate_hz // rate)  # as a resampled wave has, rounded up
    window, hop = round(WINDOW_S * rate_hz), round(HOP_S * rate_hz)
    return 1 + max(0, values - window) // hop


def _mono(path: Path, content: bytes | None) -> tuple[int, Float[np.ndarray, " time"]]:
    """Rate of a file, and its wave as one channel."""
    from scipy.io import wavfile

    with reading(path, "wav file"), warnings.catch_warnings():
        warnings.simplefilter("error", wavfile.WavFileWarning)  # it goes on where data end early
        warnings.filterwarnings("ignore", r"Chunk \(non-data\) not understood")
        rate, wave = wavfile.read(path if content is None else BytesIO(content))
        if not wave.size:
            raise ValueError("it holds no sound")
        x = _unit(wave)
        if not np.isfinite(x).all():
            raise ValueError("it holds NaN or infinity")
    return rate, x.mean(axis=1) if x.ndim == 2 else x


def _unit(wave: NDArray[np.generic]) -> NDArray[np.float64]:
    """Samples as fractions of the largest; 8 bits have no sign."""
    x: NDArray[np.float64] = wave.astype(np.float64)
    if wave.dtype.kind == "f":
        return x
    half = 2.0 ** (8 * wave.dtype.itemsize - 1)
    if wave.dtype.kind == "u":
        x -= half
    return x / half


def log_mel(
    wave: Float[np.ndarray, " time"], rate_hz: int, *, mels: int = MELS
) -> Float32[np.ndarray, "step mel"]:
    """Logarithm of the power in bands of equal width on the mel scale.

    Power of the Fourier transform of Hann windows of 25 ms every 10 ms, summed by triangles that
    rise from the centre of the band before and fall to that of the next, with mel = 2595
    log10(1 + f / 700) from 0 to half the rate. What is left at the end that fills no window is
    left out; a recording shorter than one window is filled up with silence.

    Source: Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word
    Recognition", IEEE TASSP 1980; scale and triangles as in HTK.

    Args:
        wave: Of one channel, at least one value.
        rate_hz: Its rate.
        mels: Bands, >= 1.

    Raises:
        ValueError: If a band is so narrow that it holds no frequency of the transform.
    """
    from scipy.signal import get_window

    window, hop = round(WINDOW_S * rate_hz), round(HOP_S * rate_hz)
    size = 2 ** math.ceil(math.log2(window))
    weights = triangles(rate_hz, size, mels)
    padded = np.pad(wave, (0, max(0, window - len(wave))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    power = np.abs(np.fft.rfft(windows * get_window("hann", window), n=size)) ** 2
    loudness: NDArray[np.float64] = np.log(np.maximum(power @ weights, FLOOR))
    return loudness.astype(np.float32)


def triangles(rate_hz: int, size: int, mels: int) -> Float[np.ndarray, "frequency mel"]:
    """Weight of each frequency of a transform of `size` values in each band, in [0, 1].

    Raises:
        ValueError: If a band has none.
    """
    top = 2595 * math.log10(1 + rate_hz / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)  # in Hz
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    f = np.fft.rfftfreq(size, 1 / rate_hz)[:, None]
    weights: NDArray[np.float64] = np.minimum(
        (f - low) / (centre - low), (high - f) / (high - centre)
    ).clip(min=0)
    if not weights.any(axis=0).all():
        raise ValueError(
            f"{mels} bands are too many for sound of {rate_hz} Hz in windows of "
            f"{1000 * WINDOW_S:g} ms: one holds no frequency"
        )
    return weights
