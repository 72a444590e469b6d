"""Log-mel sequences against a hand computation and slow loops; wav files good and bad."""

import math
import wave
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from mmbench.data.sound import FLOOR, log_mel, read_wav, triangles

RATE = 8_000


def mel(f):
    return 2595 * math.log10(1 + f / 700)


def hertz(m):
    return 700 * (10 ** (m / 2595) - 1)


def test_a_step_is_what_the_definition_gives_term_by_term():
    """Window of 200 values, transform of 256, 3 bands: every sum written out."""
    rng = np.random.default_rng(0)
    sound = rng.normal(size=290).astype(np.float32)  # two steps; the last 10 values fill none
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / 200) for n in range(200)]
    edges = [hertz(k * mel(4_000) / 4) for k in range(5)]
    expected = np.zeros((2, 3))
    for step in range(2):
        frame = [hann[n] * float(sound[80 * step + n]) for n in range(200)]
        for band in range(3):
            low, centre, high = edges[band : band + 3]
            total = 0.0
            for k in range(129):
                f = k * RATE / 256
                weight = max(0.0, min((f - low) / (centre - low), (high - f) / (high - centre)))
                term = sum(frame[n] * np.exp(-2j * math.pi * k * n / 256) for n in range(200))
                total += weight * abs(term) ** 2
            expected[step, band] = math.log(total)
    np.testing.assert_allclose(log_mel(sound, RATE, mels=3), expected, rtol=1e-5)


def test_a_tone_is_loudest_in_the_band_that_holds_it():
    time = np.arange(RATE) / RATE
    for band in (5, 20, 38):
        centre = hertz((band + 1) * mel(4_000) / 41)
        steps = log_mel(np.sin(2 * np.pi * centre * time), RATE)
        assert set(steps.argmax(axis=1)) == {band}
        assert len(steps) == 1 + (RATE - 200) // 80


def test_twice_the_wave_is_log_4_more_and_silence_is_the_floor():
    sound = np.random.default_rng(1).normal(size=1_000)
    np.testing.assert_allclose(
        log_mel(2 * sound, RATE) - log_mel(sound, RATE), math.log(4), rtol=1e-4
    )
    assert log_mel(np.zeros(50), RATE) == pytest.approx(math.log(FLOOR))  # shorter than a window


def test_neighbouring_triangles_add_up_to_one_between_the_outer_centres():
    weights = triangles(RATE, 256, 10)
    f = np.fft.rfftfreq(256, 1 / RATE)
    inner = (f >= hertz(mel(4_000) / 11)) & (f <= hertz(10 * mel(4_000) / 11))
    np.testing.assert_allclose(weights[inner].sum(axis=1), 1)


def test_more_bands_than_the_transform_can_tell_apart_are_refused():
    with pytest.raises(ValueError, match="200 bands are too many for sound of 8000 Hz"):
        log_mel(np.ones(400), RATE, mels=200)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_whole_numbers_of_any_width_become_the_same_wave(tmp_path, bits):
    sound = 0.5 * np.sin(np.arange(400) / 9)
    stored = {8: np.uint8, 16: np.int16, 32: np.int32}[bits]
    values = np.round(sound * 2 ** (bits - 1)) + (128 if bits == 8 else 0)
    wavfile.write(tmp_path / "a.wav", RATE, values.astype(stored))
    np.testing.assert_allclose(read_wav(tmp_path / "a.wav", RATE), sound, atol=2.0**-bits * 1.1)


def test_channels_are_averaged_and_another_rate_is_resampled(tmp_path):
    time = np.arange(2 * RATE) / (2 * RATE)
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    wavfile.write(tmp_path / "a.wav", 2 * RATE, np.stack([tone, np.zeros_like(tone)], axis=1))
    found = read_wav(tmp_path / "a.wav", RATE)
    assert len(found) == RATE
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    np.testing.assert_allclose(found[100:-100], expected[100:-100], atol=2e-3)


def test_an_archived_recording_reads_as_the_file_does(tmp_path):
    path = tmp_path / "a.wav"
    wavfile.write(path, RATE, np.arange(900, dtype=np.int16))
    np.testing.assert_array_equal(
        read_wav(Path("of.tar/a.wav"), RATE, content=path.read_bytes()), read_wav(path, RATE)
    )


def test_what_is_no_recording_is_refused_in_a_line_that_names_it(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"ID3 no wav at all")
    with pytest.raises(ValueError, match=r"a.wav is no readable wav file"):
        read_wav(path, RATE)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(2_000))
    path.write_bytes(path.read_bytes()[:1_000])  # cut off
    with pytest.raises(ValueError, match=r"a.wav is no readable wav file: .*EOF"):
        read_wav(path, RATE)
    wavfile.write(path, RATE, np.array([0.0, np.nan], np.float32))
    with pytest.raises(ValueError, match="NaN or infinity"):
        read_wav(path, RATE)
    wavfile.write(path, RATE, np.zeros(0, np.int16))
    with pytest.raises(ValueError, match="holds no sound"):
        read_wav(path, RATE)
    wavfile.write(path, 1, np.zeros(2**19, np.int16))  # an hour's worth of a rate of 1 Hz
    with pytest.raises(ValueError, match="MMBENCH_UNPACK_MIB"):
        read_wav(path, RATE)
