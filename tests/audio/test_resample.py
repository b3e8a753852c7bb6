from __future__ import annotations

import subprocess
import sys
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from audio.convert import convert, converter
from audio.formats import ALAW_8K, FRAME_MS, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat, Encoding
from audio.resample import Resampler

SLIN_48K = AudioFormat(Encoding.SLIN, 48000)
RATES_HZ = (8000, 16000, 24000, 48000)
every_pair = pytest.mark.parametrize(("source_hz", "target_hz"), list(permutations(RATES_HZ, 2)))


def tone(frequency_hz: float, rate_hz: int, amplitude: int = 10000) -> bytes:
    """One second."""
    return (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(rate_hz) / rate_hz)).round().astype("<i2").tobytes()


def noise(rate_hz: int, seconds: float = 1.0) -> bytes:
    return np.random.default_rng(7).normal(0, 3000, int(rate_hz * seconds)).astype("<i2").tobytes()


def samples(slin: bytes) -> NDArray[np.float64]:
    return np.frombuffer(slin, "<i2").astype(np.float64)


def frames(slin: bytes, rate_hz: int) -> list[bytes]:
    size = rate_hz * FRAME_MS // 1000 * 2
    return [slin[start : start + size] for start in range(0, len(slin), size)]


def gain_db(frequency_hz: float, source_hz: int, target_hz: int) -> float:
    resampler = Resampler(source_hz, target_hz)
    heard = samples(resampler.feed(tone(frequency_hz, source_hz)))[target_hz // 10 :]
    return float(20 * np.log10(np.sqrt(np.mean(heard**2)) / (10000 / np.sqrt(2)) + 1e-9))


@every_pair
def test_each_frame_in_gives_a_frame_out_from_the_second_on(source_hz: int, target_hz: int) -> None:
    resampler = Resampler(source_hz, target_hz)
    first, *later = [resampler.feed(frame) for frame in frames(noise(source_hz), source_hz)]
    frame_bytes = target_hz * FRAME_MS // 1000 * 2
    assert {len(frame) for frame in later} == {frame_bytes}
    held_back_ms = (frame_bytes - len(first)) / 2 / target_hz * 1000
    assert 0 < held_back_ms <= 3


@every_pair
def test_sound_comes_out_in_its_place_once_the_lag_is_drained(source_hz: int, target_hz: int) -> None:
    resampler = Resampler(source_hz, target_hz)
    heard = samples(resampler.feed(tone(440, source_hz)) + resampler.drain())
    expected = samples(tone(440, target_hz))
    assert len(heard) == len(expected)
    middle = slice(target_hz // 50, -target_hz // 50)
    error = heard[middle] - expected[middle]
    assert 10 * np.log10(np.mean(expected**2) / np.mean(error**2)) > 70


@every_pair
def test_loudness_stays_up_to_the_telephones_3400_hz_of_4000(source_hz: int, target_hz: int) -> None:
    nyquist_hz = min(source_hz, target_hz) / 2
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.85):
        assert abs(gain_db(share * nyquist_hz, source_hz, target_hz)) < 0.1


@pytest.mark.parametrize(("source_hz", "target_hz"), [(a, b) for a, b in permutations(RATES_HZ, 2) if a > b])
def test_what_would_fold_down_is_stopped(source_hz: int, target_hz: int) -> None:
    worst_db = max(
        gain_db(hz, source_hz, target_hz) for hz in np.linspace(target_hz / 2 * 1.05, source_hz / 2 - 50, 40)
    )
    assert worst_db < -65


@pytest.mark.parametrize(("source_hz", "target_hz"), [(a, b) for a, b in permutations(RATES_HZ, 2) if a < b])
def test_a_higher_rate_has_no_images(source_hz: int, target_hz: int) -> None:
    window = slice(target_hz // 10, target_hz // 10 + target_hz // 2)
    frequencies_hz = np.fft.rfftfreq(target_hz // 2, 1 / target_hz)
    for frequency_hz in np.linspace(200, source_hz / 2 * 0.95, 20):
        heard = samples(Resampler(source_hz, target_hz).feed(tone(frequency_hz, source_hz)))[window]
        power = np.abs(np.fft.rfft(heard * np.blackman(len(heard)))) ** 2
        images_db = 10 * np.log10(power[frequencies_hz > source_hz / 2 * 1.04].max() / power.max())
        assert images_db < -65, frequency_hz


@pytest.mark.parametrize(("source_hz", "target_hz"), [(24000, 8000), (8000, 24000), (44100, 8000)])
@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 6000), max_size=12))
def test_slin_may_be_cut_anywhere(source_hz: int, target_hz: int, cuts: list[int]) -> None:
    sound = noise(source_hz, 0.125)
    edges = [0, *sorted(min(cut, len(sound)) for cut in cuts), len(sound)]
    resampler, whole = Resampler(source_hz, target_hz), Resampler(source_hz, target_hz)
    pieces = [resampler.feed(sound[start:end]) for start, end in pairwise(edges)]
    assert b"".join(pieces) + resampler.drain() == whole.feed(sound) + whole.drain()


@pytest.mark.parametrize("rate_hz", [11025, 22050, 44100])
def test_recordings_of_other_rates_come_out_as_long_as_they_are(rate_hz: int) -> None:
    heard = convert(tone(1000, rate_hz), AudioFormat(Encoding.SLIN, rate_hz), SLIN_8K)
    assert len(heard) == 16000
    assert np.argmax(np.abs(np.fft.rfft(samples(heard)))) == 1000


def test_nothing_drifts_in_ten_minutes() -> None:
    resampler = Resampler(24000, 8000)
    frame = bytes(960)
    total = sum(len(resampler.feed(frame)) for _ in range(30_000)) + len(resampler.drain())
    assert total == 30_000 * 320


def test_loud_sound_is_clipped_and_never_wraps() -> None:
    square = np.tile(np.repeat(np.array([32767, -32768], "<i2"), 48), 300).tobytes()
    for source_hz, target_hz in ((24000, 8000), (8000, 24000)):
        heard = samples(Resampler(source_hz, target_hz).feed(square))[200:-200]
        period = 96 * target_hz / source_hz
        phase = np.arange(len(heard)) + 200
        assert heard.max() == 32767
        assert heard.min() == -32768
        # Away from the edges of the square every sample has its sign: a wrapped one would not.
        position = (phase % period) / period
        assert (heard[(position > 0.1) & (position < 0.4)] > 25000).all()
        assert (heard[(position > 0.6) & (position < 0.9)] < -25000).all()


def test_draining_ends_a_stream_and_begins_another() -> None:
    change = converter(SLIN_24K, ULAW_8K)
    one, other = noise(24000, 0.1), tone(700, 24000)
    first = change(one) + change.drain()
    second = change(other) + change.drain()
    assert first == convert(one, SLIN_24K, ULAW_8K)
    assert second == convert(other, SLIN_24K, ULAW_8K)
    assert change.drain() == b""


def test_an_abandoned_utterance_leaves_nothing_for_the_next() -> None:
    change = converter(SLIN_24K, SLIN_8K)
    change(tone(700, 24000) + b"\x11")
    change.drain()
    silence = change(bytes(9600)) + change.drain()
    assert silence == bytes(3200)


def test_nothing_gives_nothing() -> None:
    resampler = Resampler(24000, 8000)
    assert resampler.feed(b"") == b""
    assert resampler.feed(b"\x01") == b""
    assert resampler.drain() == b""


@pytest.mark.parametrize("narrow", [ULAW_8K, ALAW_8K, SLIN_8K], ids=str)
@pytest.mark.parametrize("wide", [SLIN_16K, SLIN_24K, SLIN_48K], ids=str)
def test_each_encoding_reaches_each_rate_and_comes_back(narrow: AudioFormat, wide: AudioFormat) -> None:
    sound = convert(tone(1000, 8000), SLIN_8K, narrow)
    there = convert(sound, narrow, wide)
    assert wide.samples(len(there)) == 8000 * wide.rate_hz // 8000
    back = samples(convert(convert(there, wide, narrow), narrow, SLIN_8K))[200:-200]
    expected = samples(convert(sound, narrow, SLIN_8K))[200:-200]
    assert np.mean((back - expected) ** 2) < np.mean(expected**2) / 1000


def test_wideband_companding_converts_as_well() -> None:
    ulaw_16k = AudioFormat(Encoding.ULAW, 16000)
    assert len(convert(bytes(1600), ulaw_16k, ALAW_8K)) == 800


def test_no_thread_is_started() -> None:
    count = (
        "import os\n"
        "from audio.convert import converter\n"
        "from audio.formats import SLIN_24K, ULAW_8K\n"
        "kept = [converter(SLIN_24K, ULAW_8K) for _ in range(20)]\n"
        "[change(bytes(960)) for change in kept]\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    ended = subprocess.run([sys.executable, "-c", count], check=True, capture_output=True, text=True, timeout=30)
    assert int(ended.stdout) == 1


def test_pyav_is_imported_with_the_first_resampler_only() -> None:
    look = (
        "import sys\n"
        "import audio.convert, audio.vad, audio.g722, audio.wav\n"
        "from audio.formats import SLIN_8K, SLIN_24K, ULAW_8K\n"
        "audio.convert.converter(SLIN_8K, ULAW_8K)\n"
        "assert 'av' not in sys.modules\n"
        "audio.convert.converter(SLIN_24K, ULAW_8K)\n"
        "assert 'av' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", look], check=True, timeout=30)
