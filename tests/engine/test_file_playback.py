"""Playback by files, beat by beat, on a clock of the test's own; the player reads the files as Asterisk does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio.formats import SLIN_16K, ULAW_8K, AudioFormat
from engine.file_playback import END_LIMIT_S, LONGEST_FILE_MS, START_LIMIT_S, FilePlaybackManager
from engine.file_player import FileEvent, FileFinished, FilePaused, FileStarted
from engine.playback import Cushioning
from engine.playback_files import PlaybackFiles
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
SILENCE = ULAW_8K.silent_frame


@dataclass
class Playing:
    playback_id: str
    path: Path
    sound: bytes = b""
    offset: int = 0
    held: bool = False


class Asterisk:
    """Plays one file after the other, a frame a beat; what is asked for takes effect at the next beat."""

    def __init__(self, wire: AudioFormat) -> None:
        self.on_event: Callable[[FileEvent], None] = lambda _: None
        self.wire = wire
        self.heard: list[bytes] = []
        """What left at each beat; empty where there was nothing, not even silence."""
        self.requests: list[tuple[str, str]] = []
        self.most_outstanding = 0
        self.takes_beats = 1
        """How long after it was asked for something takes effect."""
        self.deaf = False
        """Nothing asked for has an effect or an answer."""
        self.mute = False
        """Everything has its effect, and no event tells so."""
        self.broken: set[int] = set()
        """Which of the files played, by number, Asterisk finds unplayable."""
        self.closed = False
        self._queue: deque[Playing] = deque()
        self._pending: deque[tuple[int, Callable[[], None]]] = deque()
        self._beats = 0
        self._silent = False
        self._played = 0

    def play(self, playback_id: str, uri: str) -> None:
        path = Path(uri.removeprefix("sound:")).with_suffix(".ulaw" if self.wire is ULAW_8K else ".sln16")
        self._ask("play", playback_id, lambda: self._queue.append(Playing(playback_id, path)))
        self.most_outstanding = max(self.most_outstanding, len(self._queue) + 1)

    def stop(self, playback_id: str) -> None:
        def stop() -> None:
            for playing in self._queue:
                if playing.playback_id == playback_id:
                    playing.sound = b""
                    playing.offset = 1

        self._ask("stop", playback_id, stop)

    def pause(self, playback_id: str) -> None:
        def pause() -> None:
            if self._queue and self._queue[0].playback_id == playback_id and self._queue[0].offset:
                self._queue[0].held = True
                self._tell(FilePaused(playback_id))

        self._ask("pause", playback_id, pause)

    def resume(self, playback_id: str) -> None:
        def resume() -> None:
            for playing in self._queue:
                if playing.playback_id == playback_id and playing.held:
                    playing.held = False
                    self.heard.append(playing.path.read_bytes()[: self.wire.frame_bytes])
                    self._tell(FileStarted(playback_id))

        self._ask("resume", playback_id, resume)

    def keep_silence(self) -> None:
        def keep() -> None:
            self._silent = not self._queue

        self._ask("silence", "", keep)

    def close(self) -> None:
        self.closed = True

    def beat(self) -> None:
        self._beats += 1
        already = len(self.heard)
        while self._pending and self._pending[0][0] <= self._beats:
            self._pending.popleft()[1]()
        while self._queue and self._is_over(self._queue[0]):
            over = self._queue.popleft()
            self._tell(FileFinished(over.playback_id))
        if self._queue and not self._queue[0].offset:
            self._begin(self._queue[0])
        if len(self.heard) > already:
            return  # the frame that is played again
        if not self._queue:
            self.heard.append(self.wire.silent_frame if self._silent else b"")
        elif self._queue[0].held:
            self.heard.append(b"")
        else:
            head = self._queue[0]
            self.heard.append(head.sound[head.offset : head.offset + self.wire.frame_bytes])
            head.offset += self.wire.frame_bytes
            if head.offset == self.wire.frame_bytes:
                self._tell(FileStarted(head.playback_id))

    def _is_over(self, playing: Playing) -> bool:
        return bool(playing.offset) and playing.offset >= len(playing.sound)

    def _begin(self, playing: Playing) -> None:
        self._silent = False
        self._played += 1
        if self._played in self.broken:
            self._queue.popleft()
            self._tell(FileStarted(playing.playback_id))
            self._tell(FileFinished(playing.playback_id, "it is broken"))
        else:
            playing.sound = playing.path.read_bytes()

    def _ask(self, name: str, playback_id: str, effect: Callable[[], None]) -> None:
        self.requests.append((name, playback_id))
        if not self.deaf:
            self._pending.append((self._beats + self.takes_beats, effect))

    def _tell(self, event: FileEvent) -> None:
        if not self.mute and not self.closed:
            self.on_event(event)


class Stage:
    """A playback manager with its player, its folder, its events and its clock."""

    def __init__(self, folder: Path, wire: AudioFormat = ULAW_8K, **cushioning: int) -> None:
        self.now = 100.0
        self.folder = folder
        self.asterisk = Asterisk(wire)
        self.events: list[PlayoutEvent] = []
        files = PlaybackFiles(folder, prefix="test")
        files.prepare()
        self.playback = FilePlaybackManager(
            wire,
            self.asterisk,
            files.for_call(),
            self.events.append,
            cushioning=Cushioning(**cushioning),
            clock=lambda: self.now,
        )
        self.playback.start()

    def beat(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.02
            self.asterisk.beat()
            self.playback.tick()

    def say(self, item_id: str, sound: bytes) -> None:
        self.playback.enqueue(item_id, sound)
        self.playback.complete(item_id)

    def voiced(self) -> bytes:
        """Everything that was heard, less the frames of pure silence."""
        silence = self.asterisk.wire.silent_frame
        return b"".join(frame for frame in self.asterisk.heard if frame != silence)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def asked(self, name: str) -> list[str]:
        return [playback_id for asked, playback_id in self.asterisk.requests if asked == name]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "sounds")


def speech(frames: float, seed: int = 1) -> bytes:
    """Sound without a silent byte, each frame different."""
    return bytes(1 + (seed * 31 + n + n // 249) % 250 for n in range(int(frames * FRAME)))


def test_a_burst_is_played_bit_for_bit_and_its_files_are_gone_afterwards(stage: Stage) -> None:
    sound = speech(1500)
    stage.say("a", sound)
    stage.beat(1505)
    assert stage.voiced() == sound
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]
    assert stage.playback.state is PlaybackState.IDLE
    assert stage.files() == []
    assert len(stage.asked("play")) == 1500 * 20 // LONGEST_FILE_MS
    assert stage.asterisk.most_outstanding == 2


def test_silence_is_asked_for_at_the_start_and_after_each_end(stage: Stage) -> None:
    stage.beat(5)
    assert stage.asterisk.heard == [SILENCE] * 5
    stage.say("a", speech(10))
    stage.beat(15)
    assert stage.asterisk.heard[6:16] == [speech(10)[n * FRAME : (n + 1) * FRAME] for n in range(10)]
    stage.beat(5)
    assert stage.asterisk.heard[-5:] == [SILENCE] * 5
    assert len(stage.asked("silence")) == 2


def test_nothing_is_played_before_the_caller_can_hear(tmp_path: Path) -> None:
    asterisk = Asterisk(ULAW_8K)
    files = PlaybackFiles(tmp_path, prefix="test").for_call()
    playback = FilePlaybackManager(ULAW_8K, asterisk, files, lambda _: None, cushioning=Cushioning())
    playback.enqueue("a", speech(100))
    playback.complete("a")
    assert asterisk.requests == []
    playback.start()
    playback.tick()
    assert [name for name, _ in asterisk.requests] == ["silence", "play"]


@pytest.mark.parametrize("takes_beats", [1, 4])
@pytest.mark.parametrize("frames_a_beat", [1, 1.5, 4])
def test_a_stream_is_played_without_a_gap(stage: Stage, frames_a_beat: float, takes_beats: int) -> None:
    stage.asterisk.takes_beats = takes_beats
    sound = speech(600)
    size = int(frames_a_beat * FRAME)
    for offset in range(0, len(sound), size):
        stage.playback.enqueue("a", sound[offset : offset + size])
        stage.beat()
    stage.playback.complete("a")
    stage.beat(620)
    voiced = [n for n, frame in enumerate(stage.asterisk.heard) if frame not in (SILENCE, b"")]
    assert b"".join(stage.asterisk.heard[voiced[0] : voiced[-1] + 1]) == sound
    assert voiced[-1] - voiced[0] + 1 == 600
    assert stage.playback.stats.underruns == 0
    assert stage.asterisk.most_outstanding <= 2
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]


def test_what_may_go_on_waits_for_a_cushion_and_what_is_whole_does_not(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(19.9))
    stage.beat(10)
    assert stage.playback.state is PlaybackState.FILLING
    assert stage.asked("play") == []
    stage.playback.enqueue("a", speech(0.2))
    stage.beat()
    assert len(stage.asked("play")) == 1
    short = Stage(stage.folder / "short")
    short.say("a", speech(0.1))
    short.beat(3)
    assert speech(0.1) + SILENCE[: FRAME - 16] in short.asterisk.heard
    assert short.events[-1] == PlayoutDrained()


def test_a_slow_stream_is_heard_whole_and_its_gaps_are_counted(stage: Stage) -> None:
    sound = speech(200)
    for offset in range(0, len(sound), FRAME):
        stage.playback.enqueue("a", sound[offset : offset + FRAME])
        stage.beat(2)
    stage.playback.complete("a")
    stage.beat(50)
    assert stage.voiced() == sound
    assert stage.playback.stats.underruns >= 3
    assert [type(event) for event in stage.events] == [PlayoutStarted, PlayoutFinished, PlayoutDrained]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(chunks=st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 12)), min_size=1, max_size=40))
def test_any_chunks_at_any_time_are_the_same_sound(tmp_path: Path, chunks: list[tuple[int, int]]) -> None:
    stage = Stage(tmp_path / "any", provider_grace_ms=60_000)
    sound = speech(sum(size for size, _ in chunks) / FRAME + 1)[: sum(size for size, _ in chunks)]
    offset = 0
    for size, beats in chunks:
        stage.playback.enqueue("a", sound[offset : offset + size])
        offset += size
        stage.beat(beats)
    stage.playback.complete("a")
    stage.beat(len(sound) // FRAME + 30)
    assert stage.voiced() == sound + SILENCE[: -len(sound) % FRAME]
    item = stage.playback.ledger.items["a"]
    assert item.played_samples == item.generated_samples == len(sound)
    assert stage.events[-2:] == [PlayoutFinished("a"), PlayoutDrained()]
    assert stage.files() == []


def test_an_item_goes_on_after_it_was_said_to_be_complete(stage: Stage) -> None:
    stage.say("a", speech(10))
    stage.beat(5)
    stage.playback.enqueue("a", speech(10, seed=2))
    stage.beat(30)
    assert stage.voiced() == speech(10) + speech(10, seed=2)
    assert stage.events == [PlayoutStarted("a")]
    stage.playback.complete("a")
    stage.beat()
    assert [type(event) for event in stage.events] == [PlayoutStarted, PlayoutFinished, PlayoutDrained]


def test_samples_are_counted_not_bytes(tmp_path: Path) -> None:
    stage = Stage(tmp_path, SLIN_16K)
    stage.say("a", b"\1\2" * 640)
    stage.beat(5)
    assert stage.playback.ledger.heard_ms("a") == 40


def test_items_follow_each_other_without_a_gap_and_are_booked_apart(stage: Stage) -> None:
    first, second = speech(30, seed=1), speech(30, seed=2)
    stage.playback.enqueue("a", first)
    stage.say("b", second)
    stage.playback.complete("a")
    stage.beat(70)
    assert first + second in b"".join(stage.asterisk.heard)
    booked = [(segment.item_id, segment.samples) for segment in stage.playback.ledger.segments]
    assert booked == [("a", 30 * FRAME), ("b", 30 * FRAME)]
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutFinished("a"),
        PlayoutStarted("b"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]


def test_the_account_keeps_step_with_what_is_heard(stage: Stage) -> None:
    stage.beat(100)
    stage.say("a", speech(200))
    for _ in range(250):
        stage.beat()
        assert stage.playback.ledger.heard_ms("a") == len(stage.voiced()) // 8
    ledger = stage.playback.ledger
    assert abs(ledger.sent_samples - 350 * FRAME) <= FRAME
    assert len(ledger.segments) == 1


# --- pause, resume, cut


def test_pause_holds_and_resume_goes_on_with_the_very_next_sample(stage: Stage) -> None:
    sound = speech(60)
    stage.say("a", sound)
    stage.beat(11)
    assert len(stage.voiced()) == 10 * FRAME
    stage.playback.pause()
    stage.beat(8)
    assert stage.playback.state is PlaybackState.PAUSED
    assert stage.asterisk.heard[-8:] == [b""] * 8
    assert stage.playback.ledger.heard_ms("a") == 200
    stage.playback.resume()
    stage.beat(3)
    assert stage.asterisk.heard[-3] == SILENCE
    assert stage.playback.ledger.heard_ms("a") == pytest.approx(len(stage.voiced()) // 8, abs=20)
    stage.beat(60)
    assert stage.voiced() == sound
    assert [event for event in stage.events if isinstance(event, AgentSilenced)] == [AgentSilenced(pytest.approx(20))]
    assert stage.playback.ledger.heard_ms("a") == 1200


def test_many_pauses_lose_and_repeat_nothing(stage: Stage) -> None:
    sound = speech(200)
    for offset in range(0, len(sound), 10 * FRAME):
        stage.playback.enqueue("a", sound[offset : offset + 10 * FRAME])
        stage.beat(7)
        stage.playback.pause()
        stage.beat(offset // FRAME % 3)
        stage.playback.resume()
    stage.playback.complete("a")
    stage.beat(300)
    assert stage.voiced() == sound
    assert stage.files() == []


def test_a_pause_holds_what_has_yet_to_begin(stage: Stage) -> None:
    stage.say("a", speech(30))
    stage.playback.tick()
    stage.playback.pause()
    stage.beat(10)
    assert stage.voiced() == speech(1)
    assert stage.playback.ledger.heard_ms("a") == 20
    stage.playback.resume()
    stage.beat(40)
    assert stage.voiced() == speech(30)


def test_nothing_new_begins_in_a_pause(stage: Stage) -> None:
    stage.playback.pause()
    stage.say("a", speech(30))
    stage.beat(100)
    assert stage.asked("play") == []
    stage.playback.resume()
    stage.beat(40)
    assert stage.voiced() == speech(30)


def test_a_long_pause_in_the_middle_is_no_fault(stage: Stage) -> None:
    stage.asterisk.takes_beats = 5
    stage.say("a", speech(30))
    stage.beat(15)
    stage.playback.pause()
    stage.beat(5)
    stage.now += 60
    stage.playback.resume()
    stage.beat(50)
    assert stage.voiced() == speech(30)
    assert [type(event) for event in stage.events] == [
        PlayoutStarted,
        AgentSilenced,
        PlayoutFinished,
        PlayoutDrained,
    ]


def test_a_pause_while_going_on_holds(stage: Stage) -> None:
    stage.asterisk.takes_beats = 3
    stage.say("a", speech(60))
    stage.beat(15)
    stage.playback.pause()
    stage.beat(10)
    stage.playback.resume()
    stage.beat()
    stage.playback.pause()
    stage.beat(20)
    held = len(stage.voiced())
    stage.beat(20)
    assert len(stage.voiced()) == held
    assert stage.playback.ledger.heard_ms("a") == pytest.approx(held // 8, abs=80)
    stage.playback.resume()
    stage.beat(60)
    assert stage.voiced() == speech(60)


def test_a_file_that_does_not_go_on_ends_its_item(stage: Stage) -> None:
    stage.say("a", speech(60))
    stage.beat(15)
    stage.playback.pause()
    stage.beat(10)
    stage.asterisk.deaf = True
    stage.playback.resume()
    stage.beat(int(START_LIMIT_S * 50) + 2)
    assert PlayoutStalled("a") in stage.events
    assert not stage.playback.speaking


def test_a_long_pause_before_the_first_frame_is_no_fault(stage: Stage) -> None:
    stage.asterisk.takes_beats = 5
    stage.say("a", speech(30))
    stage.beat()
    stage.playback.pause()
    stage.now += 2 * START_LIMIT_S
    stage.playback.resume()
    stage.beat(60)
    assert stage.voiced() == speech(30)
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]


def test_an_item_that_ends_in_the_moment_of_a_pause_keeps_the_floor_until_that_is_over(stage: Stage) -> None:
    stage.asterisk.takes_beats = 3
    stage.say("a", speech(10))
    stage.beat(12)
    stage.playback.pause()
    stage.beat(10)
    assert stage.voiced() == speech(10)
    assert stage.playback.speaking
    assert [type(event) for event in stage.events] == [PlayoutStarted, AgentSilenced]
    stage.playback.resume()
    stage.beat()
    assert stage.events[2:] == [PlayoutFinished("a"), PlayoutDrained(pytest.approx(20))]


def test_a_cut_stops_the_last_file_first_and_tells_what_was_heard(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(600))
    stage.beat(5)
    stage.playback.enqueue("a", speech(200))
    stage.say("b", speech(50))
    stage.beat(100)
    heard = len(stage.voiced())
    assert len(stage.files()) == 2
    cuts = stage.playback.cut()
    assert cuts == [Cut("a", heard // 8), Cut("b", 0)]
    played, stopped = stage.asked("play"), stage.asked("stop")
    assert stopped == played[::-1]
    assert stage.playback.state is PlaybackState.IDLE
    assert not stage.playback.speaking
    stage.playback.enqueue("a", speech(10))
    stage.beat(5)
    assert len(stage.voiced()) == heard
    assert stage.asterisk.heard[-4:] == [SILENCE] * 4
    assert stage.playback.stats.late_chunks == 1
    assert stage.playback.stats.flushed_frames == 850 - heard // FRAME
    assert stage.files() == []
    assert isinstance(stage.events[-1], AgentSilenced)
    stage.say("c", speech(10, seed=3))
    stage.beat(15)
    assert stage.voiced()[heard:] == speech(10, seed=3)
    assert stage.events[-3:] == [PlayoutStarted("c"), PlayoutFinished("c"), PlayoutDrained()]


def test_what_follows_a_cut_at_once_is_played(stage: Stage) -> None:
    stage.say("a", speech(100))
    stage.beat(20)
    heard = len(stage.voiced())
    stage.playback.cut()
    stage.say("b", speech(10, seed=2))
    stage.beat(15)
    assert stage.voiced()[heard:] == speech(10, seed=2)


def test_a_cut_in_a_pause_ends_the_pause(stage: Stage) -> None:
    stage.say("a", speech(100))
    stage.beat(20)
    stage.playback.pause()
    stage.beat(3)
    (cut,) = stage.playback.cut()
    assert cut.heard_ms == len(stage.voiced()) // 8
    stage.say("b", speech(10, seed=2))
    stage.beat(15)
    assert stage.voiced().endswith(speech(10, seed=2))
    assert sum(isinstance(event, AgentSilenced) for event in stage.events) == 1


def test_close_stops_what_plays_and_leaves_no_file(stage: Stage) -> None:
    stage.say("a", speech(1500))
    stage.beat(20)
    stage.playback.close()
    stage.playback.close()
    assert stage.asked("stop") == stage.asked("play")[::-1]
    assert stage.asterisk.closed
    assert stage.files() == []


# --- trouble


def test_a_provider_that_leaves_an_item_is_given_up_and_what_there_is_is_played(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(5.5))
    stage.beat(74)
    assert stage.events == []
    stage.beat(20)
    assert stage.voiced() == speech(5.5) + SILENCE[: FRAME // 2]
    assert stage.events == [PlayoutStalled("a"), PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]
    assert stage.playback.stats.stalls == 1


def test_an_item_that_runs_dry_for_good_is_over(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(30))
    stage.beat(40)
    assert stage.playback.state is PlaybackState.STARVED
    stage.beat(80)
    assert stage.events[:3] == [PlayoutStarted("a"), PlayoutStalled("a"), PlayoutFinished("a")]
    assert isinstance(stage.events[3], PlayoutDrained)
    assert stage.events[3].silent_ms >= 1500


def test_completion_that_comes_late_ends_the_item(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(30))
    stage.beat(40)
    stage.playback.complete_all()
    stage.beat()
    assert stage.events[1] == PlayoutFinished("a")
    assert stage.events[2] == PlayoutDrained(pytest.approx(160, abs=30))


def test_a_file_that_cannot_be_played_ends_its_item_and_no_other(stage: Stage) -> None:
    stage.asterisk.broken = {1}
    stage.say("a", speech(1500))
    stage.say("b", speech(20, seed=2))
    stage.beat(40)
    assert stage.voiced() == speech(20, seed=2)
    assert stage.playback.ledger.heard_ms("a") <= 20
    assert [event for event in stage.events if event != PlayoutStarted("a")] == [
        PlayoutStalled("a"),
        PlayoutStarted("b"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]
    assert stage.files() == []


def test_a_request_without_an_answer_is_taken_back(stage: Stage) -> None:
    stage.asterisk.deaf = True
    stage.say("a", speech(1500))
    stage.beat()
    first, second = stage.asked("play")
    stage.asterisk.on_event(FileFinished(first, "no answer"))
    assert stage.asked("stop") == [first, second]
    assert stage.events == [PlayoutStalled("a"), PlayoutDrained()]
    assert len(stage.files()) == 1
    stage.asterisk.on_event(FileFinished(second))
    assert stage.files() == []


def test_a_folder_that_takes_no_files_ends_the_item_not_the_call(stage: Stage) -> None:
    stage.folder.rmdir()
    stage.say("a", speech(20))
    stage.beat(2)
    assert stage.events == [PlayoutStalled("a"), PlayoutDrained(pytest.approx(20))]
    assert stage.playback.ledger.heard_ms("a") == 0
    stage.folder.mkdir()
    stage.say("b", speech(20))
    stage.beat(25)
    assert stage.voiced() == speech(20)


def test_a_file_that_never_begins_ends_its_item(stage: Stage) -> None:
    stage.asterisk.deaf = True
    stage.say("a", speech(20))
    stage.beat(int(START_LIMIT_S * 50) + 2)
    assert stage.events == [PlayoutStalled("a"), PlayoutDrained(pytest.approx(1000 * START_LIMIT_S, abs=60))]
    # It begins after all.
    (playback_id,) = stage.asked("play")
    assert stage.asked("stop") == [playback_id]
    stage.asterisk.on_event(FileStarted(playback_id))
    stage.asterisk.on_event(FileFinished(playback_id))
    assert stage.playback.ledger.heard_ms("a") == 0
    assert stage.files() == []


def test_an_end_that_nobody_tells_of_is_an_end_all_the_same(stage: Stage) -> None:
    stage.say("a", speech(20))
    stage.beat(5)
    stage.asterisk.mute = True
    stage.beat(20 + int(END_LIMIT_S * 50))
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]
    assert stage.playback.ledger.heard_ms("a") == 400
    assert stage.files() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("say"), st.integers(1, 8000)),
            st.tuples(st.just("more"), st.integers(1, 8000)),
            st.tuples(st.just("beat"), st.integers(1, 60)),
            st.tuples(st.sampled_from(["pause", "resume", "cut", "complete"]), st.just(0)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_every_item_ends_once_and_no_file_stays(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    stage = Stage(tmp_path / "whatever")
    items = 0
    cut: list[str] = []
    for verb, number in steps:
        if verb == "say" or (verb == "more" and not items):
            items += 1
        match verb:
            case "say" | "more":
                stage.playback.enqueue(str(items), speech(number / FRAME))
            case "beat":
                stage.beat(number)
            case "cut":
                cut += [entry.item_id for entry in stage.playback.cut()]
            case "complete":
                stage.playback.complete(str(items))
            case _:
                getattr(stage.playback, verb)()
    stage.playback.resume()
    stage.playback.complete_all()
    stage.beat(sum(number for verb, number in steps if verb in ("say", "more")) // FRAME + 400)
    assert stage.playback.state is PlaybackState.IDLE
    assert stage.files() == []
    assert stage.asterisk.most_outstanding <= 2 + len(cut) * 2
    finished = [event.item_id for event in stage.events if isinstance(event, PlayoutFinished)]
    started = [event.item_id for event in stage.events if isinstance(event, PlayoutStarted)]
    assert set(finished) | set(cut) == {str(number + 1) for number in range(items)}
    for earlier, later in pairwise(stage.events):
        assert not (isinstance(earlier, PlayoutDrained) and isinstance(later, PlayoutFinished | PlayoutDrained))
    assert set(finished) <= set(started) | set(cut)
    for item in stage.playback.ledger.items.values():
        assert item.played_samples <= item.generated_samples
