"""The voice detector hears speech where there is some, and nothing where there is only noise."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio._audioop import audioop
from audio.convert import converter
from audio.formats import ALAW_8K, SLIN_8K, ULAW_8K, AudioFormat
from audio.vad import VoiceDetector, VoiceDetectorOptions, VoiceStarted, VoiceStopped
from audio.wav import read_wav

SENTENCE = "I would like to know your opening hours please."
PER_MS = 8


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A sentence as slin at 8 kHz, with some silence before and after it."""
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    path = tmp_path_factory.mktemp("speech") / "sentence.wav"
    subprocess.run(["flite", "-voice", "kal", "-t", SENTENCE, "-o", str(path)], check=True)
    samples, audio_format = read_wav(path)
    assert audio_format == SLIN_8K
    return samples[: len(samples) - len(samples) % 320]


def silence(ms: int) -> bytes:
    return bytes(2 * PER_MS * ms)


def noise(ms: int, level: float, seed: int = 1) -> bytes:
    rng = random.Random(seed)
    return array("h", (max(-32768, min(32767, int(rng.gauss(0, level)))) for _ in range(PER_MS * ms))).tobytes()


def tone(ms: int, *frequencies_hz: int, level: int = 8000) -> bytes:
    return array(
        "h",
        (
            int(sum(level * math.sin(2 * math.pi * hz * n / 8000) for hz in frequencies_hz) / len(frequencies_hz))
            for n in range(PER_MS * ms)
        ),
    ).tobytes()


class Heard:
    """What a detector reports of a stretch of sound; all in ms."""

    def __init__(self, slin: bytes, audio_format: AudioFormat = ULAW_8K) -> None:
        detector = VoiceDetector(audio_format)
        data = converter(SLIN_8K, audio_format)(slin)
        size = audio_format.frame_bytes
        self.runs: list[tuple[float, float]] = []
        self.delays: list[float] = []
        self.voiced_ms = 0
        for at in range(0, len(data) - size + 1, size):
            match detector.feed(data[at : at + size]):
                case VoiceStarted(first_sample=first):
                    self.started = first / PER_MS
                case VoiceStopped(last_sample=last):
                    self.runs.append((self.started, last / PER_MS))
                    self.delays.append(detector.samples / PER_MS - last / PER_MS)
                    self.voiced_ms += detector.voiced_ms
        self.still_on = detector.voice


@pytest.mark.parametrize("audio_format", [ULAW_8K, ALAW_8K, SLIN_8K], ids=str)
def test_a_sentence_is_one_run_of_voice(spoken: bytes, audio_format: AudioFormat) -> None:
    heard = Heard(silence(1000) + spoken + silence(1000), audio_format)
    length_ms = len(spoken) / 2 / PER_MS
    assert len(heard.runs) == 1
    started, stopped = heard.runs[0]
    assert 1000 <= started <= 1300
    assert 1000 + length_ms - 450 <= stopped <= 1000 + length_ms
    assert heard.voiced_ms > 0.7 * (length_ms - 400)


def test_the_end_is_reported_when_the_hangover_is_over(spoken: bytes) -> None:
    heard = Heard(silence(500) + spoken + silence(1000))
    assert all(200 <= delay <= 220.2 for delay in heard.delays)


@pytest.mark.parametrize("part", [0.1, 0.3])
def test_a_quiet_caller_is_heard(spoken: bytes, part: float) -> None:
    heard = Heard(silence(1000) + audioop.mul(spoken, 2, part) + silence(1000))
    assert heard.runs
    assert heard.voiced_ms > 1000


@pytest.mark.parametrize("snr_db", [20, 15])
def test_noise_on_the_line_hides_no_speech_and_is_none(spoken: bytes, snr_db: int) -> None:
    sound = silence(2000) + spoken + silence(2000)
    level = audioop.rms(spoken, 2) / 10 ** (snr_db / 20)
    heard = Heard(audioop.add(sound, noise(len(sound) // 2 // PER_MS, level), 2))
    length_ms = len(spoken) / 2 / PER_MS
    assert all(started >= 2000 and stopped <= 2000 + length_ms for started, stopped in heard.runs)
    assert heard.voiced_ms > 0.5 * length_ms


@pytest.mark.parametrize(
    "sound",
    [silence(8000), noise(8000, 10), noise(8000, 500)],
    ids=["silence", "hiss", "loud hiss"],
)
def test_silence_and_hiss_are_no_voice(sound: bytes) -> None:
    heard = Heard(sound)
    assert heard.runs == []
    assert not heard.still_on


@pytest.mark.parametrize(
    "sound",
    [noise(8000, 3000), tone(8000, 440), tone(8000, 770, 1336), tone(8000, 50, 150)],
    ids=["roar", "tone", "key", "hum"],
)
@pytest.mark.parametrize("quiet_ms", [0, 3000])
def test_steady_sound_is_no_voice_for_long(sound: bytes, quiet_ms: int) -> None:
    heard = Heard(silence(quiet_ms) + sound)
    assert not heard.still_on
    assert heard.voiced_ms <= 2200


def test_a_voice_over_steady_noise_that_set_in_during_the_call_is_heard(spoken: bytes) -> None:
    level = audioop.rms(spoken, 2) / 10
    sound = silence(4000) + spoken + silence(1000)
    noisy = audioop.add(sound, silence(1000) + noise(len(sound) // 2 // PER_MS - 1000, level), 2)
    runs = [run for run in Heard(noisy).runs if run[0] > 3500]
    assert runs
    assert 4000 <= runs[0][0] <= 4400


def test_a_click_is_no_voice() -> None:
    heard = Heard(silence(1000) + array("h", [20000] * 100).tobytes() + silence(1000 - 13))
    assert heard.runs == []


def test_voice_counts_without_its_gaps(spoken: bytes) -> None:
    heard = Heard(silence(500) + spoken + silence(1000))
    (started, stopped) = heard.runs[0]
    assert 0 < heard.voiced_ms <= stopped - started + 1


def test_silence_is_counted_from_the_last_voiced_sample(spoken: bytes) -> None:
    detector = VoiceDetector(SLIN_8K, VoiceDetectorOptions(hangover_ms=100))
    sound = silence(500) + spoken + silence(1000)
    last = None
    for at in range(0, len(sound) - 319, 320):
        edge = detector.feed(sound[at : at + 320])
        if isinstance(edge, VoiceStopped):
            last = edge.last_sample
            assert detector.silence_ms == (detector.samples - 1 - last) / PER_MS == 100
    assert last is not None
    assert detector.silence_ms == (detector.samples - 1 - last) / PER_MS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=400), st.binary(min_size=160, max_size=160)), max_size=60))
def test_any_bytes_are_heard_and_edges_alternate(frames: list[bytes]) -> None:
    for audio_format in (ULAW_8K, SLIN_8K):
        detector = VoiceDetector(audio_format)
        samples = 0
        on = False
        newest = -1
        for frame in frames:
            edge = detector.feed(frame)
            samples += audio_format.samples(len(frame))
            assert detector.samples == samples
            match edge:
                case VoiceStarted(first_sample=first):
                    assert not on
                    assert newest < first < samples or not samples
                    on = True
                case VoiceStopped(last_sample=last):
                    assert on
                    assert last < samples
                    on, newest = False, last
            assert detector.voice == on
            assert detector.silence_ms >= 0
