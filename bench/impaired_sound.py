"""What came of sound on a bad path: heard or missing, how late, and how good it still is."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from audio.conceal import Concealer
from audio.convert import convert
from audio.formats import FRAME_MS, SLIN_8K, ULAW_8K
from bench.impaired_leg import FRAME, Heard
from testkit.fidelity import pesq_nb
from testkit.rtp import RtpPacket
from testkit.speech import RATE_HZ, speak_slin

TEXT = (
    "The opening hours are nine to six from Monday to Friday. Your parcel has left our warehouse this morning. "
    "Please hold the line while I look for your appointment."
)
AFTERMATH_TEXT = "I am sorry, I did not understand the last part of that."
AFTERMATH_FRAMES = 75
"""Said when the path is calm again; the last third of them tells what the trouble has left behind."""
DEEPEST_BUFFER_MS = 300
"""Of the reference phone."""

_BLENDED_BYTES = 40
"""A frame's beginning, which may be blended with what was made up before it: the rest tells which one it is."""
_LINE_NOISE = 30
"""Of 16-bit samples, either way: hardly to be heard, and no two frames are alike. Flite's pauses are all zeros."""


class Clip:
    """What is said: frames that can be told from each other, the last of them when the path is calm again."""

    def __init__(self, text: str = TEXT, seed: int = 0) -> None:
        chance = random.Random(seed)
        self.words = _spoken(text, chance)
        """μ-law, whole frames; said over the bad path."""
        self.aftermath = _spoken(AFTERMATH_TEXT, chance)[: AFTERMATH_FRAMES * FRAME]
        self.frames = len(self.words) // FRAME
        """Of the words."""
        sound = self.words + self.aftermath
        self._places = {_key(sound[start : start + FRAME]): start // FRAME for start in range(0, len(sound), FRAME)}
        if len(self._places) < len(sound) // FRAME:
            raise ValueError("two frames of the clip are alike")

    def times(self, frames: Sequence[Heard]) -> Mapping[int, float]:
        """When each frame of this clip first was among ``frames``, by its place."""
        found: dict[int, float] = {}
        for at, frame in frames:
            place = self._places.get(_key(frame))
            if place is not None:
                found.setdefault(place, at)
        return found

    def pesq_nb(self, heard: bytes) -> float:
        """How good the words still are in μ-law that was heard."""
        return pesq_nb(convert(self.words, ULAW_8K, SLIN_8K), convert(heard, ULAW_8K, SLIN_8K))


def _spoken(text: str, chance: random.Random) -> bytes:
    samples = memoryview(speak_slin(text, RATE_HZ)).cast("h")
    noisy = (max(-0x8000, min(0x7FFF, sample + chance.randint(-_LINE_NOISE, _LINE_NOISE))) for sample in samples)
    ulaw = convert(b"".join(sample.to_bytes(2, "little", signed=True) for sample in noisy), SLIN_8K, ULAW_8K)
    return ulaw[: len(ulaw) - len(ulaw) % FRAME]


def _key(frame: bytes) -> bytes:
    return frame[_BLENDED_BYTES:]


@dataclass(slots=True, frozen=True)
class PlayedOut:
    """What a phone's listener hears. ``frames`` are μ-law; ``buffer_ms`` is how long the fastest packet waited."""

    frames: Sequence[Heard]
    buffer_ms: float


def play_out(packets: Sequence[RtpPacket]) -> PlayedOut:
    """Plays μ-law by its timestamps at an even pace, making up what is not there in time.

    A phone that knows beforehand how deep its buffer has to be, up to ``DEEPEST_BUFFER_MS``: what adaptive ones aim at.
    """
    first = packets[0].timestamp
    slots: dict[int, RtpPacket] = {}
    for packet in packets:
        ticks = ((packet.timestamp - first + 2**31) & 0xFFFFFFFF) - 2**31
        slots.setdefault(ticks // ULAW_8K.frame_samples, packet)
    delays_s = {slot: packet.arrived_at - slot * FRAME_MS / 1000 for slot, packet in slots.items()}
    fastest_s = min(delays_s.values())
    buffer_s = min(max(delays_s.values()) - fastest_s, DEEPEST_BUFFER_MS / 1000)
    concealer = Concealer(ULAW_8K)
    frames: list[Heard] = []
    for slot in range(min(slots), max(slots) + 1):
        if slot in slots and delays_s[slot] - fastest_s <= buffer_s:
            frame = concealer.hear(slots[slot].payload)
        else:
            frame = concealer.conceal(ULAW_8K.frame_samples)
        frames.append((fastest_s + buffer_s + slot * FRAME_MS / 1000, frame))
    return PlayedOut(frames, 1000 * buffer_s)


@dataclass(slots=True, frozen=True)
class Take:
    """What happened in one direction of a call."""

    said: Sequence[Heard]
    """By the speaker."""
    arrived: Sequence[Heard]
    """For the listener."""
    heard: Sequence[Heard]
    """By the listener, in this order."""
    lost: int
    """By the path."""
    calm_delay_ms: float
    """Of the path without its trouble."""
    buffer_ms: float = 0.0


@dataclass(slots=True, frozen=True)
class Outcome:
    """Of one direction of a call. Shares are of the frames that were said over the bad path; times in milliseconds."""

    lost: float
    """By the path."""
    missing: float
    """Not heard, but made up or left out."""
    longest_hole_ms: float
    """Missing in a row."""
    longest_wait_ms: float
    """From one frame's coming to the next one's; 20 on a calm path."""
    delay_p50_ms: float
    """From a frame's leaving the speaker to the listener's having it, above the calm path's delay."""
    delay_p95_ms: float
    aftermath_p50_ms: float
    """The same once the path has been calm again for a second."""
    buffer_ms: float
    """What the listener waits besides for an even flow. The phone does; who listens to the port needs not."""
    pesq: float
    pesq_worst: float
    """Of several calls."""


def judge(clip: Clip, take: Take) -> Outcome:
    """Takes a good part of a second, so it is for when no call stands."""
    left, came, played = clip.times(take.said), clip.times(take.arrived), clip.times(take.heard)
    delays = {place: 1000 * (at - left[place]) - take.calm_delay_ms for place, at in came.items()}
    troubled = [delay for place, delay in delays.items() if place < clip.frames]
    late_places = range(clip.frames + 2 * AFTERMATH_FRAMES // 3, clip.frames + AFTERMATH_FRAMES)
    holes = [len(list(run)) for there, run in groupby(place in played for place in range(clip.frames)) if not there]
    times = [at for at, _ in take.arrived if min(came.values()) <= at <= max(came.values())]
    score = clip.pesq_nb(b"".join(frame for _, frame in take.heard))
    return Outcome(
        lost=take.lost / clip.frames,
        missing=sum(holes) / clip.frames,
        longest_hole_ms=FRAME_MS * max(holes, default=0),
        longest_wait_ms=1000 * max(later - earlier for earlier, later in pairwise(times)),
        delay_p50_ms=statistics.median(troubled),
        delay_p95_ms=statistics.quantiles(troubled, n=20)[-1],
        aftermath_p50_ms=statistics.median(delays[place] for place in late_places if place in delays),
        buffer_ms=take.buffer_ms,
        pesq=score,
        pesq_worst=score,
    )


def pool(outcomes: Sequence[Outcome]) -> Outcome:
    """Several calls as one: means, and the worst of what is a worst."""

    def mean(name: str) -> float:
        return statistics.fmean(getattr(outcome, name) for outcome in outcomes)

    return Outcome(
        lost=mean("lost"),
        missing=mean("missing"),
        longest_hole_ms=max(outcome.longest_hole_ms for outcome in outcomes),
        longest_wait_ms=max(outcome.longest_wait_ms for outcome in outcomes),
        delay_p50_ms=mean("delay_p50_ms"),
        delay_p95_ms=mean("delay_p95_ms"),
        aftermath_p50_ms=mean("aftermath_p50_ms"),
        buffer_ms=mean("buffer_ms"),
        pesq=mean("pesq"),
        pesq_worst=min(outcome.pesq_worst for outcome in outcomes),
    )
