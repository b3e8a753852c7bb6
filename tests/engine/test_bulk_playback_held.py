"""Playback over a peer that paces, when it is cut or held; and what is known of what was heard."""

from __future__ import annotations

import pytest
from bulk_stage import FRAME, Stage

from engine.playout import AgentSilenced, Cut, PlaybackState, PlayoutDrained, PlayoutFinished, PlayoutStarted


@pytest.mark.parametrize("after_ms", range(0, 60, 4))
@pytest.mark.parametrize("report_lag_ms", [0, 4, 15])
def test_a_cut_is_told_to_the_frame_what_was_heard(after_ms: int, report_lag_ms: int) -> None:
    stage = Stage(report_lag_s=report_lag_ms / 1000)
    stage.say("a", 100)
    stage.say("b", 100)
    stage.pass_ms(300 + after_ms)
    (first, second) = stage.cut()
    assert abs(first.heard_ms - stage.heard_ms("a")) <= 20
    assert second == Cut("b", 0)
    assert stage.playback.stats.flushed_frames == 200 - first.heard_ms / 20
    before = len(stage.peer.heard)
    stage.say("b", 5)
    stage.pass_ms(300)
    assert set(stage.ticks()[before:]) == {"s"}, "the agent is silent from the next tick on, and the stream goes on"
    assert stage.voiced == stage.sound
    assert stage.playback.stats.late_chunks == 1
    assert PlayoutFinished("a") not in stage.events


def test_what_is_heard_is_known_between_two_marks_too() -> None:
    stage = Stage()
    stage.say("a", 100)
    for _ in range(120):
        stage.pass_ms(20)
        assert abs(stage.playback.ledger.heard_ms("a") - stage.heard_ms("a")) <= 20


def test_a_peer_that_stands_still_is_not_believed_to_play_past_the_next_mark() -> None:
    stage = Stage()
    stage.say("a", 100)
    stage.pass_ms(200)
    truth = stage.heard_ms("a")
    stage.peer.next_tick += 10
    stage.pass_ms(5000)
    assert stage.playback.ledger.heard_ms("a") - truth <= 100
    stage.pass_ms(20_000)
    assert stage.voiced == stage.sound
    assert stage.playback.ledger.heard_ms("a") == 2000


def test_a_pause_stops_the_peer_and_resuming_goes_on_with_the_very_next_sample() -> None:
    stage = Stage()
    stage.say("a", 20)
    stage.pass_ms(100)
    stage.playback.pause()
    stage.pass_ms(300)
    assert stage.ticks() == "v" * 5 + "p" * 15
    (silenced,) = [event for event in stage.events if isinstance(event, AgentSilenced)]
    assert silenced.after_ms < 20.1
    stage.say("b", 5)
    stage.playback.resume()
    stage.pass_ms(600)
    assert stage.voiced == stage.sound
    assert stage.ticks()[20:].strip("s") == "v" * 20
    first, second, third = stage.playback.ledger.segments
    assert (first.item_id, second.item_id, third.item_id) == ("a", "a", "b")
    assert second.first_sample - (first.first_sample + first.samples) == 15 * FRAME, "the call's clock went on"


def test_a_pause_counts_nothing_as_heard() -> None:
    stage = Stage()
    stage.say("a", 20)
    stage.pass_ms(128)
    stage.playback.pause()
    stage.pass_ms(3000)
    (cut,) = stage.cut()
    assert abs(cut.heard_ms - stage.heard_ms("a")) <= 20
    stage.pass_ms(200)
    assert stage.ticks().endswith("s" * 10), "a cut ends the pause"
    assert not stage.peer.paused


def test_what_is_heard_right_after_a_pause_is_known_too() -> None:
    stage = Stage()
    stage.say("a", 20)
    stage.pass_ms(128)
    stage.playback.pause()
    stage.pass_ms(300)
    stage.playback.resume()
    for _ in range(10):
        stage.pass_ms(10)
        assert abs(stage.playback.ledger.heard_ms("a") - stage.heard_ms("a")) <= 20


def test_part_of_a_frame_is_no_reason_to_let_the_silence_run_out() -> None:
    stage = Stage(provider_grace_ms=5000)
    stage.say("a", 0.5, complete=False)
    stage.playback.pause()
    stage.pass_ms(100)
    stage.playback.resume()
    stage.pass_ms(3000)
    assert set(stage.ticks()) == {"s"}


def test_a_pause_while_nobody_speaks_keeps_the_stream_alive_and_holds_what_comes() -> None:
    stage = Stage()
    stage.pass_ms(100)
    stage.playback.pause()
    stage.pass_ms(3000)
    assert stage.events == []
    stage.say("a", 5)
    stage.pass_ms(3000)
    assert set(stage.ticks()) == {"s"}
    before = len(stage.peer.heard)
    stage.playback.resume()
    stage.pass_ms(140)
    assert stage.ticks()[before:] == "vvvvvss"


@pytest.mark.parametrize("early_ms", range(-30, 70, 4))
@pytest.mark.parametrize("report_lag_ms", [0, 12, 35])
def test_a_pause_as_a_reply_ends_leaves_nothing_hanging(early_ms: int, report_lag_ms: int) -> None:
    stage = Stage(report_lag_s=report_lag_ms / 1000)
    stage.say("a", 10)
    stage.pass_ms(230 - early_ms)
    stage.playback.pause()
    stage.pass_ms(300)
    stage.playback.resume()
    stage.pass_ms(500)
    assert stage.voiced == stage.sound
    assert [event for event in stage.events if not isinstance(event, AgentSilenced)] == [
        PlayoutStarted("a"),
        PlayoutFinished("a"),
        PlayoutDrained(),
    ]
    assert stage.playback.state is PlaybackState.IDLE
    assert stage.ticks().endswith("s" * 15)


def test_what_is_said_as_a_pause_ends_follows_what_was_held() -> None:
    stage = Stage()
    stage.say("a", 4, complete=False)
    stage.pass_ms(50)
    stage.playback.pause()
    stage.say("a", 4)
    stage.pass_ms(200)
    stage.playback.resume()
    stage.pass_ms(300)
    assert stage.voiced == stage.sound
    assert stage.ticks().replace("p", "").strip("s") == "v" * 8


def test_a_cut_reports_when_the_first_silent_frame_left() -> None:
    stage = Stage()
    stage.say("a", 50)
    stage.pass_ms(300)
    stage.cut()
    stage.pass_ms(100)
    (silenced,) = [event for event in stage.events if isinstance(event, AgentSilenced)]
    assert silenced.after_ms == pytest.approx(7)


def test_new_audio_right_after_a_cut_is_heard_at_once_and_has_silenced_nobody() -> None:
    stage = Stage()
    stage.say("a", 50)
    stage.pass_ms(300)
    stage.cut()
    stage.say("b", 5)
    stage.pass_ms(300)
    assert stage.ticks().strip("s") == "v" * 20
    assert stage.voiced == stage.sound
    assert not [event for event in stage.events if isinstance(event, AgentSilenced)]
