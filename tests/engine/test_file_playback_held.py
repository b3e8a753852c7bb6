"""Playback by files that is paused, cut and closed."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_stage import FRAME, SILENCE, Stage, speech

from engine.file_queue import START_LIMIT_S
from engine.playout import (
    AgentSilenced,
    Cut,
    PlaybackState,
    PlayoutDrained,
    PlayoutFinished,
    PlayoutStalled,
    PlayoutStarted,
)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "sounds")


def test_pause_holds_and_resume_goes_on_with_the_very_next_sample(stage: Stage) -> None:
    sound = speech(60)
    stage.say("a", sound)
    stage.beat(10)
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


def test_an_item_that_ends_in_the_moment_of_a_pause_ends_it(stage: Stage) -> None:
    stage.asterisk.takes_beats = 3
    stage.say("a", speech(10))
    stage.beat(12)
    stage.playback.pause()
    stage.beat(10)
    assert stage.voiced() == speech(10)
    assert [type(event) for event in stage.events] == [PlayoutStarted, PlayoutFinished, PlayoutDrained, AgentSilenced]
    assert stage.playback.state is PlaybackState.IDLE
    stage.playback.resume()
    stage.say("b", speech(10, seed=2))
    stage.beat(20)
    assert stage.voiced() == speech(10) + speech(10, seed=2)


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
