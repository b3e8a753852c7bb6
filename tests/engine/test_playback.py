"""The playback manager, tick by tick, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.formats import SLIN_8K, ULAW_8K, AudioFormat
from engine.cushion import Cushioning
from engine.playback import StreamingPlaybackManager
from engine.playout import (
    AgentSilenced,
    Cut,
    PlaybackState,
    PlayoutDrained,
    PlayoutEvent,
    PlayoutFinished,
    PlayoutStalled,
    PlayoutStarted,
)

FRAME = ULAW_8K.frame_bytes


@dataclass
class Wire:
    format: AudioFormat = ULAW_8K
    frames: list[bytes] = field(default_factory=list)
    flushes: int = 0

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def flush(self) -> None:
        self.flushes += 1


class Stage:
    """A playback manager with its wire, its events and its clock."""

    def __init__(self, wire_format: AudioFormat = ULAW_8K, **cushioning: int) -> None:
        self.now = 100.0
        self.wire = Wire(wire_format)
        self.events: list[PlayoutEvent] = []
        self.playback = StreamingPlaybackManager(
            self.wire, self.events.append, cushioning=Cushioning(**cushioning), clock=lambda: self.now
        )

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.playback.tick()
            self.now += 0.02

    def voiced(self) -> bytes:
        """Everything that was sent, less the frames of pure silence."""
        return b"".join(f for f in self.wire.frames if f != self.wire.format.silent_frame)


def speech(frames: float, seed: int = 1) -> bytes:
    """Sound without a silent byte, each frame different."""
    return bytes(1 + (seed * 31 + n) % 250 for n in range(int(frames * FRAME)))


def test_a_burst_is_played_from_the_first_tick_bit_for_bit() -> None:
    stage = Stage()
    sound = speech(250)
    stage.playback.enqueue("a", sound)
    stage.playback.complete("a")
    stage.tick(250)
    assert b"".join(stage.wire.frames) == sound
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]
    assert stage.playback.state is PlaybackState.IDLE


def test_silence_is_sent_while_nobody_speaks_and_counted_on_the_clock() -> None:
    stage = Stage()
    stage.tick(5)
    assert stage.wire.frames == [ULAW_8K.silent_frame] * 5
    assert stage.playback.ledger.sent_samples == 5 * 160


@given(st.lists(st.integers(1, 700), min_size=1, max_size=30))
def test_any_chunking_gives_the_same_sound_padded_to_a_whole_frame(sizes: list[int]) -> None:
    stage = Stage()
    sound = speech(sum(sizes) / FRAME + 1)[: sum(sizes)]
    offset = 0
    for size in sizes:
        stage.playback.enqueue("a", sound[offset : offset + size])
        offset += size
    stage.playback.complete("a")
    stage.tick(len(sound) // FRAME + 2)
    heard = b"".join(stage.wire.frames)
    padding = -len(sound) % FRAME
    assert heard[: len(sound) + padding] == sound + b"\xff" * padding
    assert all(len(frame) == FRAME for frame in stage.wire.frames)
    item = stage.playback.ledger.items["a"]
    assert item.played_samples == item.generated_samples == len(sound)
    assert stage.playback.ledger.sent_samples == 160 * len(stage.wire.frames)


def test_linear_samples_are_counted_as_samples_not_bytes() -> None:
    stage = Stage(SLIN_8K)
    stage.playback.enqueue("a", bytes(640))
    stage.playback.complete("a")
    stage.tick(2)
    assert stage.playback.ledger.heard_ms("a") == 40


def test_items_follow_each_other_without_a_gap_and_are_booked_apart() -> None:
    stage = Stage()
    first, second = speech(1.5, seed=1), speech(1.5, seed=2)
    stage.playback.enqueue("a", first)
    stage.playback.complete("a")
    stage.playback.enqueue("b", second)
    stage.playback.complete("b")
    stage.tick(3)
    assert b"".join(stage.wire.frames) == first + second
    assert [(s.item_id, s.first_sample, s.samples) for s in stage.playback.ledger.segments] == [
        ("a", 0, 240),
        ("b", 240, 240),
    ]
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutStarted("b"),
        PlayoutFinished("a"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]


def test_pause_takes_effect_at_the_next_tick_and_resume_goes_on_with_the_very_next_sample() -> None:
    stage = Stage()
    sound = speech(10)
    stage.playback.enqueue("a", sound)
    stage.playback.complete("a")
    stage.tick(3)
    stage.playback.pause()
    stage.tick(4)
    assert stage.wire.frames[3:] == [ULAW_8K.silent_frame] * 4
    stage.playback.resume()
    stage.tick(7)
    assert stage.voiced() == sound
    silenced = [event for event in stage.events if isinstance(event, AgentSilenced)]
    assert len(silenced) == 1


def test_a_cut_tells_what_was_heard_drops_the_rest_and_ignores_what_still_comes() -> None:
    stage = Stage()
    stage.playback.enqueue("a", speech(10))
    stage.playback.enqueue("b", speech(10))
    stage.tick(4)
    assert stage.playback.cut() == [Cut("a", heard_ms=80), Cut("b", heard_ms=0)]
    stage.playback.enqueue("a", speech(5))
    stage.playback.enqueue("b", speech(5))
    stage.tick(3)
    assert stage.wire.frames[4:] == [ULAW_8K.silent_frame] * 3
    assert stage.playback.stats.late_chunks == 2
    assert stage.playback.stats.flushed_frames == 16
    assert stage.wire.flushes == 1
    assert stage.playback.cut() == []


def test_a_reply_after_a_cut_is_heard() -> None:
    stage = Stage()
    stage.playback.enqueue("a", speech(10))
    stage.tick(2)
    stage.playback.cut()
    reply = speech(3, seed=9)
    stage.playback.enqueue("c", reply)
    stage.playback.complete("c")
    stage.tick(3)
    assert b"".join(stage.wire.frames[2:]) == reply


def test_a_cut_before_the_first_sample_means_nothing_was_heard() -> None:
    stage = Stage()
    stage.playback.enqueue("a", speech(10))
    assert stage.playback.cut() == [Cut("a", heard_ms=0)]


def test_an_item_that_ran_dry_goes_on_from_its_low_watermark_and_the_cushion_grows() -> None:
    stage = Stage(low_watermark_ms=60, min_start_ms=60)
    stage.playback.enqueue("a", speech(2))
    stage.tick(3)
    assert stage.playback.state is PlaybackState.STARVED
    stage.playback.enqueue("a", speech(2))
    stage.tick()
    assert stage.playback.state is PlaybackState.STARVED, "two frames are less than the watermark"
    stage.playback.enqueue("a", speech(2))
    stage.tick()
    assert stage.playback.state is PlaybackState.PLAYING
    assert stage.playback.stats.underruns == 1
    stage.playback.complete("a")
    stage.tick(6)
    stage.playback.enqueue("b", speech(2))
    stage.tick(2)
    assert stage.playback.state is PlaybackState.FILLING, "a provider that ran dry gets a cushion"


def test_a_fast_provider_needs_no_cushion_and_a_slow_one_does() -> None:
    stage = Stage(min_start_ms=60)
    for item, pace, fast in (("a", 0.005, True), ("b", 0.02, False)):
        for _ in range(10):
            stage.playback.enqueue(item, speech(1))
            stage.now += pace
        stage.playback.complete(item)
        stage.tick(12)
        stage.playback.enqueue(f"{item}-next", speech(1))
        assert (stage.playback.state is PlaybackState.PLAYING) is fast
        stage.playback.complete(f"{item}-next")
        stage.tick(3)


def test_an_item_that_never_goes_on_is_given_up_after_the_grace_and_its_rest_is_played() -> None:
    stage = Stage(provider_grace_ms=200)
    sound = speech(2.5)
    stage.playback.enqueue("a", sound)
    stage.tick(20)
    assert stage.voiced() == sound + b"\xff" * (FRAME // 2)
    assert PlayoutStalled("a") in stage.events
    assert stage.events[-1] == PlayoutDrained()


def test_audio_that_comes_after_the_grace_is_still_heard() -> None:
    stage = Stage(provider_grace_ms=100, low_watermark_ms=20)
    stage.playback.enqueue("a", speech(2))
    stage.tick(15)
    late = speech(2, seed=5)
    stage.playback.enqueue("a", late)
    stage.playback.complete("a")
    stage.tick(4)
    assert stage.voiced() == speech(2) + late
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutStalled("a"),
        PlayoutFinished("a"),
        PlayoutDrained(silent_ms=pytest.approx(100, abs=21)),
        PlayoutStarted("a"),
        PlayoutFinished("a"),
        PlayoutDrained(),
    ], "the agent falls silent once, and takes the floor again"


def test_an_item_that_ran_dry_at_a_frames_end_is_given_up_once() -> None:
    stage = Stage(provider_grace_ms=200)
    stage.playback.enqueue("a", speech(2))
    stage.tick(100)
    assert not stage.playback.speaking
    assert stage.playback.state is PlaybackState.IDLE
    assert stage.playback.stats.stalls == 1
    assert stage.events[-1] == PlayoutDrained(silent_ms=pytest.approx(200, abs=21))


def test_a_cut_that_new_audio_follows_at_once_has_silenced_nobody() -> None:
    stage = Stage()
    stage.playback.enqueue("a", speech(10))
    stage.tick(2)
    stage.playback.cut()
    stage.playback.enqueue("b", speech(10))
    stage.playback.complete("b")
    stage.tick(12)
    assert not [event for event in stage.events if isinstance(event, AgentSilenced)]


def test_an_item_completed_after_its_last_frame_left_ends_the_agents_floor() -> None:
    stage = Stage()
    stage.playback.enqueue("a", speech(2))
    stage.tick(3)
    assert stage.playback.speaking
    stage.playback.complete("a")
    stage.tick()
    assert stage.events[-2:] == [PlayoutFinished("a"), PlayoutDrained(silent_ms=pytest.approx(20))]
    assert not stage.playback.speaking
    assert stage.playback.stats.underruns == 0, "nothing was missing"


@pytest.mark.parametrize(("played", "heard"), [(0, ""), (80, "one two"), (160, "one two three four")])
def test_heard_text_is_cut_at_a_words_end(played: int, heard: str) -> None:
    stage = Stage()
    item = stage.playback.ledger.item("a")
    item.text, item.generated_samples, item.played_samples = "one two three four", 160, played
    assert item.heard_text == heard


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("audio"), st.sampled_from("abc"), st.integers(1, 900)),
            st.tuples(st.sampled_from(["complete"]), st.sampled_from("abc")),
            st.tuples(st.sampled_from(["pause", "resume", "cut", "tick", "tick", "tick"])),
        ),
        max_size=80,
    )
)
def test_whatever_happens_each_tick_sends_one_whole_frame_and_the_books_balance(
    steps: list[tuple[str, ...]],
) -> None:
    stage = Stage(provider_grace_ms=100)
    ticks = 0
    for step in steps:
        match step:
            case ("audio", item, size):
                stage.playback.enqueue(item, b"\x01" * int(size))
            case ("complete", item):
                stage.playback.complete(item)
            case ("tick",):
                stage.tick()
                ticks += 1
            case (verb,):
                getattr(stage.playback, verb)()
    assert [len(frame) for frame in stage.wire.frames] == [FRAME] * ticks
    ledger = stage.playback.ledger
    assert ledger.sent_samples == ticks * 160
    assert sum(s.samples for s in ledger.segments) == sum(i.played_samples for i in ledger.items.values())
    assert all(i.played_samples <= i.generated_samples for i in ledger.items.values())
    on_the_floor: set[str] = set()
    for event in stage.events:
        match event:
            case PlayoutStarted(item_id):
                assert item_id not in on_the_floor, "an item starts once, unless it was over meanwhile"
                on_the_floor.add(item_id)
            case PlayoutFinished(item_id):
                on_the_floor.discard(item_id)
