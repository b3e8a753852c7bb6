"""Playback by files, beat by beat: from audio to files, and what is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_stage import FRAME, SILENCE, Asterisk, Stage, speech
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio.formats import SLIN_16K, ULAW_8K
from engine.cushion import Cushioning
from engine.file_playback import LONGEST_FILE_MS, FilePlaybackManager
from engine.playback_files import PlaybackFiles
from engine.playout import PlaybackState, PlayoutDrained, PlayoutFinished, PlayoutStarted


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "sounds")


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
    assert [name for name, _ in asterisk.requests] == ["silence", "play"]
    playback.close()
    playback.enqueue("b", speech(100))
    assert len(asterisk.requests) == 3, "after the end nothing is played"


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


def test_a_file_is_asked_for_when_there_is_enough_not_at_the_next_beat(stage: Stage) -> None:
    stage.playback.enqueue("a", speech(20))
    assert len(stage.asked("play")) == 1
    stage.playback.enqueue("a", speech(20))
    assert len(stage.asked("play")) == 1, "there is time until the end of the first one"
    stage.playback.complete("a")
    stage.beat()
    assert len(stage.asked("play")) == 2


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
    for _ in range(199):
        stage.beat()
        assert stage.playback.ledger.heard_ms("a") == len(stage.voiced()) // 8
    stage.beat()
    assert stage.playback.ledger.heard_ms("a") == 3980, "the last frame counts when the file is over"
    stage.beat(50)
    assert stage.playback.ledger.heard_ms("a") == 4000
    ledger = stage.playback.ledger
    assert abs(ledger.sent_samples - 350 * FRAME) <= FRAME
    assert len(ledger.segments) == 1
