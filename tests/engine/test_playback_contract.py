"""What every way of playing the agent must do alike, whoever keeps the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest
from file_stage import Asterisk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peer_queue import PERIOD_S, Clock, PeerQueue, PeerTime

from audio.formats import ULAW_8K
from engine.bulk_playback import BulkPlaybackManager
from engine.cushion import Cushioning
from engine.file_playback import FilePlaybackManager
from engine.playback import StreamingPlaybackManager
from engine.playback_files import PlaybackFiles
from engine.playout import (
    AgentSilenced,
    Playback,
    PlaybackState,
    PlayoutDrained,
    PlayoutEvent,
    PlayoutFinished,
    PlayoutStalled,
    PlayoutStarted,
)

FRAME = ULAW_8K.frame_bytes
SILENCE = ULAW_8K.silent_frame


class Stage(Protocol):
    """A playback, what it told, and what left towards the caller."""

    playback: Playback
    events: list[PlayoutEvent]
    least_frames: int
    """Held before an item begins that is not known to be whole."""

    def tick(self, times: int = 1) -> None: ...

    def sent(self) -> bytes: ...


class SelfPacedStage:
    """Each tick sends a frame."""

    least_frames = 1

    def __init__(self, cushioning: Cushioning, _: Path) -> None:
        self.clock = Clock()
        self.format = ULAW_8K
        self.frames: list[bytes] = []
        self.events: list[PlayoutEvent] = []
        self.playback: Playback = StreamingPlaybackManager(
            self, self.events.append, cushioning=cushioning, clock=self.clock
        )

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def flush(self) -> None: ...

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.playback.tick()
            self.clock.now += PERIOD_S

    def sent(self) -> bytes:
        return b"".join(self.frames)


class PeerPacedStage:
    """The peer sends a frame 7 ms after each tick."""

    least_frames = 1

    def __init__(self, cushioning: Cushioning, _: Path) -> None:
        self.clock = Clock()
        self.peer = PeerQueue(self.clock)
        self.events: list[PlayoutEvent] = []
        self.playback: Playback = BulkPlaybackManager(
            self.peer, self.events.append, cushioning=cushioning, clock=self.clock
        )
        self._time = PeerTime(self.clock, self.peer, self.playback.tick)

    def tick(self, times: int = 1) -> None:
        self._time.pass_s(times * PERIOD_S)

    def sent(self) -> bytes:
        return b"".join(frame or b"" for frame in self.peer.heard)


class FileStage:
    """The peer plays files."""

    least_frames = 20

    def __init__(self, cushioning: Cushioning, folder: Path) -> None:
        self.clock = Clock()
        self.peer = Asterisk(ULAW_8K)
        self.events: list[PlayoutEvent] = []
        files = PlaybackFiles(folder, prefix="test").for_call()
        self.playback: Playback = FilePlaybackManager(
            ULAW_8K, self.peer, files, self.events.append, cushioning=cushioning, clock=self.clock
        )

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.clock.now += PERIOD_S
            self.peer.beat()
            self.playback.tick()

    def sent(self) -> bytes:
        return b"".join(self.peer.heard)


KINDS = [SelfPacedStage, PeerPacedStage, FileStage]
Open = Callable[..., Stage]


@pytest.fixture(params=KINDS)
def open_stage(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    def opened(**cushioning: int) -> Stage:
        stage: Stage = request.param(Cushioning(**cushioning), tmp_path)
        stage.playback.start()
        return stage

    return opened


@pytest.fixture
def stage(open_stage: Open) -> Stage:
    return open_stage()


def voiced(stage: Stage) -> bytes:
    return stage.sent().replace(b"\xff", b"")


def speech(frames: float, seed: int = 1) -> bytes:
    """Sound without a silent byte."""
    return bytes(1 + (seed * 31 + n) % 250 for n in range(int(frames * FRAME)))


def say(stage: Stage, item_id: str, sound: bytes) -> None:
    stage.playback.enqueue(item_id, sound)
    stage.playback.complete(item_id)


def told(stage: Stage) -> list[PlayoutEvent]:
    return [event for event in stage.events if not isinstance(event, AgentSilenced)]


def test_a_reply_starts_finishes_and_leaves_the_agent_silent(stage: Stage) -> None:
    say(stage, "a", speech(12.5))
    assert stage.playback.speaking
    assert stage.playback.state is PlaybackState.PLAYING
    stage.tick(20)
    assert voiced(stage) == speech(12.5)
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]
    assert not stage.playback.speaking
    assert stage.playback.state is PlaybackState.IDLE


def test_what_waits_at_the_start_is_played(open_stage: Open) -> None:
    stage = open_stage()
    stage.playback.describe("a", "Good morning.")
    say(stage, "a", speech(3))
    stage.tick(10)
    assert voiced(stage) == speech(3)


def test_items_share_a_frame_rather_than_make_a_gap(stage: Stage) -> None:
    say(stage, "a", speech(7.5, seed=1))
    say(stage, "b", speech(7.5, seed=2))
    stage.tick(20)
    assert speech(7.5, seed=1) + speech(7.5, seed=2) in stage.sent()
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutStarted("b"),
        PlayoutFinished("a"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]
    first, second = stage.playback.ledger.segments
    assert (first.item_id, first.samples) == ("a", 1200)
    assert (second.item_id, second.first_sample, second.samples) == ("b", first.first_sample + 1200, 1200)


def test_items_that_end_with_a_frame_follow_each_other_in_their_events_too(stage: Stage) -> None:
    say(stage, "a", speech(7, seed=1))
    say(stage, "b", speech(7, seed=2))
    stage.tick(20)
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutFinished("a"),
        PlayoutStarted("b"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]


def test_items_shorter_than_a_frame_are_all_told(stage: Stage) -> None:
    for item_id in "abc":
        say(stage, item_id, speech(0.25))
    stage.tick(10)
    assert voiced(stage) == speech(0.25) * 3
    for item_id in "abc":
        assert stage.events.index(PlayoutStarted(item_id)) < stage.events.index(PlayoutFinished(item_id))
    assert stage.events[-1] == PlayoutDrained()
    assert len(stage.events) == 7


def test_a_second_reply_is_told_like_the_first(stage: Stage) -> None:
    for item_id in "ab":
        say(stage, item_id, speech(5))
        stage.tick(30)
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutFinished("a"),
        PlayoutDrained(),
        PlayoutStarted("b"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]


def test_a_cut_tells_of_each_item_what_was_heard(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(50))
    stage.playback.enqueue("b", speech(50))
    stage.tick(14)
    first, second = stage.playback.cut()
    heard_ms = len(voiced(stage)) / 8
    assert (first.item_id, second.item_id, second.heard_ms) == ("a", "b", 0)
    assert abs(first.heard_ms - heard_ms) <= 20
    assert not stage.playback.speaking
    assert stage.playback.cut() == []
    stage.tick(10)
    assert len(voiced(stage)) / 8 == heard_ms
    assert stage.sent().endswith(SILENCE * 9)
    assert not {PlayoutFinished("a"), PlayoutFinished("b"), PlayoutDrained()} & set(stage.events)


def test_a_cut_before_the_first_sample_means_nothing_was_heard(stage: Stage) -> None:
    stage.tick(3)
    stage.playback.enqueue("a", speech(50))
    (cut,) = stage.playback.cut()
    assert cut.heard_ms == 0
    stage.tick(10)
    assert voiced(stage) == b""
    assert told(stage) == []


def test_late_audio_of_a_cut_item_is_ignored_and_counted_and_the_next_item_is_heard(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(50))
    stage.tick(5)
    stage.playback.cut()
    before = len(voiced(stage))
    stage.playback.enqueue("a", speech(5))
    stage.playback.complete("a")
    stage.tick(10)
    assert len(voiced(stage)) == before
    assert stage.playback.stats.late_chunks == 1
    assert stage.playback.stats.flushed_frames > 40
    say(stage, "b", speech(5, seed=7))
    stage.tick(20)
    assert voiced(stage)[before:] == speech(5, seed=7)
    assert told(stage)[-3:] == [PlayoutStarted("b"), PlayoutFinished("b"), PlayoutDrained()]


def test_a_pause_and_a_cut_are_silence_told_once_each(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(50))
    stage.tick(5)
    stage.playback.pause()
    stage.tick(5)
    stage.playback.cut()
    stage.tick(5)
    stage.playback.enqueue("b", speech(50))
    stage.tick(5)
    stage.playback.cut()
    stage.tick(5)
    silenced = [event.after_ms for event in stage.events if isinstance(event, AgentSilenced)]
    assert len(silenced) == 2
    assert all(0 <= after_ms < 21 for after_ms in silenced)


def test_a_pause_loses_nothing_and_repeats_nothing(stage: Stage) -> None:
    sound = speech(30)
    stage.playback.enqueue("a", sound)
    for _ in range(4):
        stage.tick(3)
        stage.playback.pause()
        stage.playback.pause()
        before = voiced(stage)
        stage.tick(10)
        assert voiced(stage) == before
        assert stage.playback.state is PlaybackState.PAUSED
        stage.playback.resume()
        stage.playback.resume()
    stage.playback.complete("a")
    stage.tick(40)
    assert voiced(stage) == sound
    assert told(stage) == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]


def test_a_pause_holds_what_comes_meanwhile(stage: Stage) -> None:
    stage.playback.pause()
    say(stage, "a", speech(5))
    stage.tick(10)
    assert voiced(stage) == b""
    assert stage.playback.speaking
    stage.playback.resume()
    stage.tick(12)
    assert voiced(stage) == speech(5)


def test_resuming_when_nothing_was_held_is_silence(stage: Stage) -> None:
    stage.playback.pause()
    stage.tick(5)
    stage.playback.resume()
    stage.tick(5)
    assert stage.playback.state is PlaybackState.IDLE
    assert stage.events == []


def test_what_was_heard_is_told_in_words(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(40))
    stage.playback.describe("a", "one two three four")
    stage.tick(25)
    stage.playback.cut()
    assert stage.playback.ledger.items["a"].heard_text == "one two"
    say(stage, "b", speech(4))
    stage.playback.describe("b", "five six")
    stage.tick(10)
    assert stage.playback.ledger.items["b"].heard_text == "five six"


def test_completing_all_lets_what_is_there_be_heard_and_end(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(7.5))
    stage.playback.enqueue("b", speech(7.7))
    stage.tick(3)
    stage.playback.complete_all()
    stage.tick(20)
    assert voiced(stage) == speech(7.5) + speech(7.7)
    assert stage.events[-3:] == [PlayoutFinished("a"), PlayoutFinished("b"), PlayoutDrained()]


@pytest.fixture
def least_frames(open_stage: Open) -> int:
    return open_stage().least_frames


def test_an_item_goes_on_from_its_watermark_and_the_next_one_gets_a_cushion(
    open_stage: Open, least_frames: int
) -> None:
    several = 2 * least_frames
    cushion_ms = 30 * several
    stage = open_stage(low_watermark_ms=cushion_ms, min_start_ms=cushion_ms, jitter_buffer_ms=2 * cushion_ms)
    stage.playback.enqueue("a", speech(several))
    stage.tick(several + 20)
    assert stage.playback.state is PlaybackState.STARVED
    stage.playback.enqueue("a", speech(several))
    stage.tick()
    assert stage.playback.state is PlaybackState.STARVED, "this is less than the watermark"
    stage.playback.enqueue("a", speech(several))
    stage.tick()
    assert stage.playback.state is PlaybackState.PLAYING
    assert stage.playback.stats.underruns == 1
    stage.playback.complete("a")
    stage.tick(2 * several + 6)
    assert voiced(stage) == speech(several) * 3
    stage.playback.enqueue("b", speech(several))
    stage.tick(2)
    assert stage.playback.state is PlaybackState.FILLING, "a provider that ran dry gets a cushion"
    assert [type(event) for event in stage.events] == [PlayoutStarted, PlayoutFinished, PlayoutDrained]


def test_an_item_given_up_takes_the_floor_again_when_it_goes_on(open_stage: Open, least_frames: int) -> None:
    stage = open_stage(provider_grace_ms=100, low_watermark_ms=20)
    first = speech(least_frames + 1.5)
    stage.playback.enqueue("a", first)
    stage.tick(least_frames + 20)
    assert voiced(stage) == first
    assert stage.playback.stats.stalls == 1
    say(stage, "a", speech(2, seed=5))
    stage.tick(20)
    assert voiced(stage) == first + speech(2, seed=5)
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutStalled("a"),
        PlayoutFinished("a"),
        PlayoutDrained(),
        PlayoutStarted("a"),
        PlayoutFinished("a"),
        PlayoutDrained(),
    ]


def test_an_item_that_ran_dry_at_a_frames_end_says_for_how_long_it_has_been_silent(
    open_stage: Open, least_frames: int
) -> None:
    stage = open_stage(provider_grace_ms=200)
    stage.playback.enqueue("a", speech(least_frames + 1))
    stage.tick(least_frames + 100)
    assert stage.events[1:] == [
        PlayoutStalled("a"),
        PlayoutFinished("a"),
        PlayoutDrained(silent_ms=pytest.approx(200, abs=21)),
    ]


def test_an_empty_chunk_takes_no_floor(stage: Stage) -> None:
    stage.playback.enqueue("a", b"")
    stage.tick(100)
    assert not stage.playback.speaking
    assert stage.events == []


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=30))
def test_any_chunking_gives_the_same_sound_padded_to_a_whole_frame(
    kind: Callable[[Cushioning, Path], Stage], tmp_path: Path, sizes: list[int]
) -> None:
    stage = kind(Cushioning(), tmp_path)
    stage.playback.start()
    sound = speech(sum(sizes) / FRAME + 1)[: sum(sizes)]
    offset = 0
    for size in sizes:
        stage.playback.enqueue("a", sound[offset : offset + size])
        offset += size
    stage.playback.complete("a")
    stage.tick(len(sound) // FRAME + 5)
    heard = stage.sent()
    begin = heard.index(sound)
    assert begin % FRAME == 0
    assert set(heard[:begin] + heard[begin + len(sound) :]) <= {0xFF}
    item = stage.playback.ledger.items["a"]
    assert item.played_samples == item.generated_samples == len(sound)
