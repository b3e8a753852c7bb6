"""The call that both the floor and the engine are measured with, and what it showed.

Everything is scheduled beforehand and looked at afterwards: measuring costs the calls nothing.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate, pairwise

from testkit.caller import SipCaller
from testkit.hearing import clip_arrived_at, is_voice
from testkit.openai_realtime import Reply, Script
from testkit.rtp_stream import Utterance
from testkit.speech import noise

GREETING = noise(1500, seed=1)
REPLY = noise(3000, seed=2)
QUESTION_MS, INTERRUPTION_MS = 600, 400
SILENCE_MS = 200
"""After which the double takes the caller's turn to be over."""
CYCLE_S = 7.0
DIALS_PER_S = 20
FRAME = 160

SCRIPT = Script(
    greeting=Reply(audio=GREETING),
    replies=(Reply(audio=REPLY),),
    burst_factor=6.0,
    chunk_ms=100,
    speech_started_after_ms=30,
    speech_stopped_after_ms=SILENCE_MS,
)


@dataclass(slots=True)
class Session:
    """What the double saw of one call."""

    sound: bytes
    append_times: Sequence[float]
    append_ends: Sequence[int]
    first_byte_sent_at: Sequence[float]

    @classmethod
    def read(cls, entry: dict[str, object], sound: bytes) -> Session:
        times, sizes = entry["append_times"], entry["append_sizes"]
        assert isinstance(times, list)
        assert isinstance(sizes, list)
        first = entry["first_byte_sent_at"]
        assert isinstance(first, list)
        return cls(sound, times, list(accumulate(sizes)), first)

    def frames(self) -> set[bytes]:
        """What came, each as it came."""
        return {self.sound[start:end] for start, end in pairwise((0, *self.append_ends))}

    def heard_at(self, sound: bytes) -> float | None:
        """When the first sample of this sound arrived."""
        offset = self.sound.find(sound)
        return None if offset < 0 else self.append_times[bisect_right(self.append_ends, offset)]


@dataclass(slots=True)
class CallRecord:
    """One call as the caller had it."""

    call: SipCaller
    spoken: list[Utterance] = field(default_factory=list)
    """Question, interruption, question, interruption …"""


@dataclass(slots=True)
class Samples:
    """Measurements of many calls, in milliseconds unless named otherwise."""

    first_byte_to_ear: list[float] = field(default_factory=list)
    voice_to_provider: list[float] = field(default_factory=list)
    interruption_to_silence: list[float] = field(default_factory=list)
    answer_to_greeting: list[float] = field(default_factory=list)
    frames_expected: int = 0
    frames_heard: int = 0
    """Of the agent's, by the caller."""
    frames_spoken: int = 0
    frames_understood: int = 0
    """Of the caller's, by the provider."""

    @property
    def heard_share(self) -> float:
        return self.frames_heard / self.frames_expected if self.frames_expected else 0.0

    @property
    def understood_share(self) -> float:
        return self.frames_understood / self.frames_spoken if self.frames_spoken else 0.0

    def add(self, other: Samples) -> None:
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


def p50(values: Iterable[float]) -> float:
    """Not a number where there are none."""
    return statistics.median(list(values) or [math.nan])


def p95(values: Sequence[float]) -> float:
    """By the nearest rank; not a number where there are none."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1] if values else math.nan


async def warm_up(server: tuple[str, int]) -> None:
    """One call that nobody measures: the first one of a process pays for much that later ones find there."""
    async with SipCaller(server=server, extension="100") as call:
        await call.dial(timeout_s=30)
        await asyncio.sleep(1)


async def make_call(number: int, server: tuple[str, int], cycles: int, talking: asyncio.Barrier) -> CallRecord:
    """Dials, then asks and interrupts ``cycles`` times once everybody is connected, then hangs up."""
    await asyncio.sleep(number % (talking.parties - 1) / DIALS_PER_S)
    async with SipCaller(server=server, extension="100") as call:
        record = CallRecord(call)
        await call.dial(timeout_s=30)
        await talking.wait()
        await asyncio.sleep(2 + number % 20 / 20)
        for cycle in range(cycles):
            seed = 1000 * number + 2 * cycle + 10
            record.spoken.append(call.speak(noise(QUESTION_MS, seed)))
            # A second and a half into the reply the caller interrupts it, and then hears the next one whole.
            record.spoken.append(call.speak(noise(INTERRUPTION_MS, seed + 1), after_s=2.3))
            await asyncio.sleep(CYCLE_S)
        await talking.wait()
        return record


def measure(records: Sequence[CallRecord], sessions: Sequence[Session]) -> Samples:
    """Puts what callers and the double saw side by side."""
    samples = Samples()
    for record in records:
        session = _session_of(record, sessions)
        understood = session.frames() if session is not None else set()
        for utterance in record.spoken:
            spoken = _frames(utterance.sound)
            samples.frames_spoken += len(spoken)
            samples.frames_understood += sum(frame in understood for frame in spoken)
        _count_heard(GREETING, [packet.payload for packet in record.call.received], samples)
        if session is not None:
            _measure_call(record, session, samples)
    return samples


def _session_of(record: CallRecord, sessions: Sequence[Session]) -> Session | None:
    """The provider's side of a call, told by anything of what the caller said that came through whole."""
    for utterance in record.spoken:
        for session in sessions:
            if utterance.sound in session.sound:
                return session
    return None


def _measure_call(record: CallRecord, session: Session, samples: Samples) -> None:
    packets = record.call.received
    greeted = clip_arrived_at(packets, GREETING[:FRAME])
    assert record.call.answered_at is not None
    if greeted is not None:
        samples.answer_to_greeting.append(1000 * (greeted - record.call.answered_at))
    for utterance in record.spoken:
        assert utterance.started.at is not None
        arrived = session.heard_at(utterance.sound)
        if arrived is not None:
            samples.voice_to_provider.append(1000 * (arrived - utterance.started.at))
    starts = [packet.arrived_at for packet in packets if packet.payload == REPLY[:FRAME]]
    for sent_at in session.first_byte_sent_at[1:]:
        heard_at = next((at for at in starts if at >= sent_at), None)
        if heard_at is not None:
            samples.first_byte_to_ear.append(1000 * (heard_at - sent_at))
    for interruption in record.spoken[1::2]:
        cut_at = interruption.started.at
        assert cut_at is not None
        next_reply = next((at for at in starts if at > cut_at), float("inf"))
        late = [p.arrived_at for p in packets if cut_at < p.arrived_at < next_reply and is_voice(p.payload)]
        samples.interruption_to_silence.append(1000 * (late[-1] - cut_at) if late else 0.0)
        whole = [p.payload for p in packets if next_reply <= p.arrived_at < next_reply + 3.6]
        _count_heard(REPLY, whole, samples)


def _count_heard(clip: bytes, heard: Sequence[bytes], samples: Samples) -> None:
    frames, present = _frames(clip), set(heard)
    samples.frames_expected += len(frames)
    samples.frames_heard += sum(frame in present for frame in frames)


def _frames(clip: bytes) -> list[bytes]:
    return [clip[start : start + FRAME] for start in range(0, len(clip), FRAME)]
