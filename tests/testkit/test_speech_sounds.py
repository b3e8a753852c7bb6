"""Sounds to say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from testkit import speech
from testkit.hearing import is_voice
from testkit.speech import noise, speak, speak_slin, tone

AMBIGUOUS = 0x7F


def test_generated_sounds_have_their_length_and_no_ambiguous_zero() -> None:
    assert len(noise(500, seed=1)) == len(tone(440, 500)) == 4000
    assert AMBIGUOUS not in noise(5000, seed=2)
    assert AMBIGUOUS not in tone(440, 5000)


def test_noise_is_its_seed() -> None:
    assert noise(100, seed=1) == noise(100, seed=1) != noise(100, seed=2)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
@pytest.mark.parametrize("voice", ["rms", "kal"], ids=["16 kHz", "8 kHz"])
def test_a_sentence_is_spoken_and_kept(voice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "CACHE", tmp_path)
    spoken = speak("What are your opening hours?", voice)
    assert 1.0 < len(spoken) / speech.RATE_HZ < 4.0
    frames = [spoken[start : start + 160] for start in range(0, len(spoken), 160)]
    assert sum(is_voice(frame) for frame in frames) > len(frames) / 2
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(bytes(320))
    assert speak("What are your opening hours?", voice) == b"\xff" * 160


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_a_sentence_is_as_long_at_any_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speech, "CACHE", tmp_path)
    durations_s = [len(speak_slin("Good morning.", rate_hz)) / 2 / rate_hz for rate_hz in (8000, 16000, 24000)]
    assert durations_s == pytest.approx([durations_s[0]] * 3, abs=0.001)
