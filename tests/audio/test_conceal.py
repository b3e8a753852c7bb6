"""Concealing lost packets: seamless, fading, and better than doing without."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from pesq import pesq

from audio.conceal import FADE_MS, Concealer
from audio.convert import converter
from audio.formats import ALAW_8K, FRAME_MS, SLIN_8K, SLIN_16K, ULAW_8K, AudioFormat, Encoding
from testkit.speech import speak

FORMATS = (ULAW_8K, ALAW_8K, SLIN_8K, SLIN_16K)


def tone(audio_format: AudioFormat, frames: int, frequency_hz: float = 150.0, amplitude: int = 8000) -> list[bytes]:
    """A sine in frames."""
    linear = AudioFormat(Encoding.SLIN, audio_format.rate_hz)
    turn = 2 * math.pi * frequency_hz / audio_format.rate_hz
    samples = array("h", (round(amplitude * math.sin(turn * n)) for n in range(frames * linear.frame_samples)))
    sound = converter(linear, audio_format)(samples.tobytes())
    size = audio_format.frame_bytes
    return [sound[start : start + size] for start in range(0, len(sound), size)]


def linear(audio_format: AudioFormat, sound: bytes) -> array[int]:
    return array("h", converter(audio_format, AudioFormat(Encoding.SLIN, audio_format.rate_hz))(sound))


def peak(audio_format: AudioFormat, sound: bytes) -> int:
    return max(abs(sample) for sample in linear(audio_format, sound))


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
def test_what_arrives_is_passed_on_untouched(audio_format: AudioFormat) -> None:
    concealer = Concealer(audio_format)
    for frame in tone(audio_format, 20):
        assert concealer.hear(frame) is frame


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
@pytest.mark.parametrize("samples_ms", [10, 20, 30, 60])
def test_a_loss_is_as_long_as_what_is_made_up(audio_format: AudioFormat, samples_ms: int) -> None:
    concealer = Concealer(audio_format)
    samples = audio_format.rate_hz * samples_ms // 1000
    for frame in tone(audio_format, 5):
        concealer.hear(frame)
    assert audio_format.samples(len(concealer.conceal(samples))) == samples
    (frame,) = tone(audio_format, 1)
    assert len(concealer.hear(frame)) == len(frame)


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
@pytest.mark.parametrize("frequency_hz", [70, 100, 155.5, 199, 330])
def test_a_tone_goes_on_without_a_click(audio_format: AudioFormat, frequency_hz: float) -> None:
    """No step between two samples is bigger than about what the tone itself makes, over both joints."""
    amplitude = 8000
    concealer = Concealer(audio_format)
    frames = tone(audio_format, 20, frequency_hz, amplitude)
    heard = b"".join(
        concealer.conceal(audio_format.frame_samples) if number in (9, 15) else concealer.hear(frame)
        for number, frame in enumerate(frames)
    )
    samples = linear(audio_format, heard)
    steepest = amplitude * 2 * math.pi * frequency_hz / audio_format.rate_hz
    # Companding steps at the tone's crest are 1/16 of it.
    slack = amplitude / 16 if audio_format.encoding is not Encoding.SLIN else 0
    assert max(abs(later - earlier) for earlier, later in pairwise(samples)) < (1.6 * steepest + slack)
    assert peak(audio_format, heard) < 1.05 * amplitude
    # And it does go on: the middle of the loss is not silent.
    lost = linear(audio_format, heard[9 * audio_format.frame_bytes :][: audio_format.frame_bytes])
    assert max(lost) > amplitude / 2


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
def test_what_lasts_fades_to_silence(audio_format: AudioFormat) -> None:
    concealer = Concealer(audio_format)
    for frame in tone(audio_format, 5):
        concealer.hear(frame)
    made_up = [concealer.conceal(audio_format.frame_samples) for _ in range(10)]
    levels = [peak(audio_format, frame) for frame in made_up]
    faded = FADE_MS // FRAME_MS
    assert levels[0] > 6000
    assert levels[:faded] == sorted(levels[:faded], reverse=True)
    assert 0 < levels[faded - 1] < 4000
    # A-law has no zero: its smallest value stands for it.
    assert max(levels[faded:]) <= 8
    # What comes then sets in gently, and is itself from its fourth millisecond on.
    frame = tone(audio_format, 1)[0]
    back = concealer.hear(frame)
    head = audio_format.silence(audio_format.rate_hz * 3 // 1000)
    assert back[: len(head)] != frame[: len(head)]
    assert back[len(head) :] == frame[len(head) :]
    assert concealer.hear(frame) is frame


@pytest.mark.parametrize("audio_format", FORMATS, ids=str)
def test_nothing_makes_it_fail(audio_format: AudioFormat) -> None:
    chance = random.Random(7)
    loudest = b"\x80" * audio_format.frame_bytes
    sounds = [
        audio_format.silent_frame,
        loudest,
        audio_format.silence(1),
        audio_format.silence(audio_format.rate_hz // 100),
        bytes(chance.choices(range(256), k=audio_format.frame_bytes)),
    ]
    # The very first packet may be a lost one, too.
    concealer = Concealer(audio_format)
    assert peak(audio_format, concealer.conceal(audio_format.frame_samples)) <= 8
    for _ in range(300):
        if chance.random() < 0.5:
            samples = chance.choice([1, 80, 160, 480])
            assert audio_format.samples(len(concealer.conceal(samples))) == samples
        else:
            sound = chance.choice(sounds)
            assert len(concealer.hear(sound)) == len(sound)


def test_silence_is_continued_by_silence() -> None:
    concealer = Concealer(ULAW_8K)
    for _ in range(5):
        concealer.hear(ULAW_8K.silent_frame)
    assert concealer.conceal(160) == ULAW_8K.silent_frame


# --- what it is worth

SENTENCES = (
    ("The train to Berlin leaves at seventeen minutes past nine from platform four.", "rms"),
    ("Good morning, thank you for calling. How may I help you today?", "slt"),
    ("We are open from Monday to Friday between eight in the morning and six in the evening.", "awb"),
)


def lossy(frames: list[bytes], loss: float, seed: int) -> Iterator[bytes | None]:
    """The frames, None for lost ones; never one of the first."""
    chance = random.Random(seed)
    for number, frame in enumerate(frames):
        yield None if number > 5 and chance.random() < loss else frame


def score(loss: float, way: str) -> float:
    """The mean PESQ-NB of the sentences when their losses are made up for in some way."""
    scores = []
    for seed, (text, voice) in enumerate(SENTENCES):
        clip = speak(text, voice)
        frames = [clip[start : start + 160] for start in range(0, len(clip) - 159, 160)]
        concealer = Concealer(ULAW_8K)
        heard, last = b"", b""
        for frame in lossy(frames, loss, seed):
            match way:
                case "conceal":
                    last = concealer.conceal(160) if frame is None else concealer.hear(frame)
                case "repeat":
                    last = last if frame is None else frame
                case _:
                    last = ULAW_8K.silent_frame if frame is None else frame
            heard += last
        original, degraded = (np.array(linear(ULAW_8K, sound)) for sound in (b"".join(frames), heard))
        scores.append(pesq(SLIN_8K.rate_hz, original, degraded, "nb"))
    return sum(scores) / len(scores)


@pytest.mark.parametrize(
    ("loss", "least", "over_repeating", "over_silence"),
    [(0.01, 4.05, 0.2, 0.2), (0.03, 3.4, 0.5, 0.6), (0.1, 2.6, 0.5, 0.8)],
)
def test_speech_is_better_concealed_than_repeated_or_silent(
    loss: float, least: float, over_repeating: float, over_silence: float
) -> None:
    concealed = score(loss, "conceal")
    assert concealed > least
    assert concealed > score(loss, "repeat") + over_repeating
    assert concealed > score(loss, "silence") + over_silence
