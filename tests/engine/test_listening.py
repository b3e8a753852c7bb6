"""The call's own detector reports the edges of the caller's speech, for providers that leave turns to it."""

from __future__ import annotations

import math
from array import array

import pytest

from audio.convert import converter
from audio.formats import ALAW_8K, SLIN_8K, ULAW_8K, AudioFormat
from engine.listening import END_OF_TURN_MS, TurnListener
from providers.base import (
    CallerSpeechDismissed,
    CallerSpeechStarted,
    CallerSpeechStopped,
    ProviderEvent,
)

FRAME_MS = 20


def buzz(ms: int) -> bytes:
    """What a throat does: a chord of harmonics of 120 Hz that swells and sinks like syllables."""
    return array(
        "h",
        (
            int(
                (0.55 - 0.45 * math.cos(2 * math.pi * n / 8 / 250))
                * sum(9000 / k * math.sin(2 * math.pi * 120 * k * n / 8000) for k in (1, 2, 3, 4, 5, 6))
            )
            for n in range(8 * ms)
        ),
    ).tobytes()


def silence(ms: int) -> bytes:
    return bytes(16 * ms)


class Listener:
    """A TurnListener, and what it passed on and reported, with the number of frames heard by then."""

    def __init__(self, audio_format: AudioFormat = ULAW_8K) -> None:
        self.format = audio_format
        self.passed: list[bytes] = []
        self.events: list[ProviderEvent] = []
        self.frames_at: list[int] = []
        self._listener = TurnListener(audio_format, self.passed.append, self._note)

    def _note(self, event: ProviderEvent) -> None:
        self.events.append(event)
        self.frames_at.append(len(self.passed))

    def hear(self, *slin: bytes) -> None:
        data = converter(SLIN_8K, self.format)(b"".join(slin))
        size = self.format.frame_bytes
        for at in range(0, len(data) - size + 1, size):
            self._listener.hear(data[at : at + size])


@pytest.mark.parametrize("audio_format", [ULAW_8K, ALAW_8K, SLIN_8K], ids=str)
def test_a_turn_is_suspected_proven_and_ended(audio_format: AudioFormat) -> None:
    listener = Listener(audio_format)
    listener.hear(silence(1000), buzz(1000), silence(1000))
    suspected, proven, stopped = listener.events
    assert suspected == CallerSpeechStarted(certain=False)
    assert proven == CallerSpeechStarted(certain=True)
    assert isinstance(stopped, CallerSpeechStopped)
    assert END_OF_TURN_MS <= stopped.since_voice_ms <= END_OF_TURN_MS + FRAME_MS
    suspected_ms, proven_ms, stopped_ms = (FRAME_MS * frames for frames in listener.frames_at)
    assert 1040 <= suspected_ms <= 1160
    assert proven_ms - suspected_ms == 140
    assert abs(stopped_ms - stopped.since_voice_ms - 2000) <= 100


def test_a_short_sound_is_dismissed() -> None:
    listener = Listener()
    listener.hear(silence(1000), buzz(140), silence(1000))
    assert listener.events == [CallerSpeechStarted(certain=False), CallerSpeechDismissed()]


def test_a_breath_does_not_end_the_turn() -> None:
    listener = Listener()
    listener.hear(silence(1000), buzz(800), silence(300), buzz(800), silence(1000))
    assert [type(event) for event in listener.events] == [
        CallerSpeechStarted,
        CallerSpeechStarted,
        CallerSpeechStopped,
    ]


def test_a_second_turn_follows() -> None:
    listener = Listener()
    listener.hear(silence(1000), buzz(600), silence(800), buzz(600), silence(800))
    assert [type(event) for event in listener.events] == 2 * [
        CallerSpeechStarted,
        CallerSpeechStarted,
        CallerSpeechStopped,
    ]


def test_silence_says_nothing() -> None:
    listener = Listener()
    listener.hear(silence(3000))
    assert listener.events == []


def test_every_frame_is_passed_on_before_it_is_judged() -> None:
    listener = Listener()
    sound = silence(500) + buzz(500) + silence(800)
    listener.hear(sound)
    assert b"".join(listener.passed) == converter(SLIN_8K, ULAW_8K)(sound)
    order: list[str] = []
    pass_first = TurnListener(ULAW_8K, lambda _: order.append("frame"), lambda _: order.append("event"))
    for frame in listener.passed:
        pass_first.hear(frame)
    assert order[0] == "frame"
    assert all(order[at - 1] == "frame" for at, what in enumerate(order) if what == "event")
