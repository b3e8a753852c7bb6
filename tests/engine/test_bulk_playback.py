"""Playback over a peer that paces, against a model of Asterisk's queue and with a clock of the test's own."""

from __future__ import annotations

import pytest
from bulk_stage import FRAME, Stage
from peer_queue import MARK_BYTES

from audio.formats import SLIN_16K
from engine.bulk_playback import AHEAD_FRAMES, SILENCE_FRAMES, SILENCE_LOW_FRAMES
from engine.ledger import Segment
from engine.playout import (
    PlaybackState,
    PlayoutDrained,
    PlayoutFinished,
    PlayoutStalled,
    PlayoutStarted,
)


def test_nothing_is_sent_before_the_caller_can_hear() -> None:
    stage = Stage(started=False)
    stage.say("a", 10)
    stage.pass_ms(100)
    assert stage.peer.commands == []
    stage.playback.start()
    assert stage.peer.length == 10, "at once, without a tick"
    stage.pass_ms(200)
    assert stage.ticks() == "-" * 5 + "v" * 10
    assert stage.voiced == stage.sound


def test_the_first_frames_of_a_reply_leave_at_the_peers_next_tick_and_no_silence_is_in_their_way() -> None:
    stage = Stage()
    stage.pass_ms(1003)
    before = len(stage.peer.heard)
    stage.say("a", 3.5, complete=False)
    stage.pass_ms(20)
    assert stage.ticks()[before:] == "v"
    assert stage.peer.length == 2, "half a frame waits for its other half"
    assert stage.events == [PlayoutStarted("a")]


def test_a_reply_is_heard_bit_for_bit_and_passes_into_silence_without_a_hole() -> None:
    stage = Stage()
    stage.pass_ms(500)
    before = len(stage.peer.heard)
    stage.say("a", 250.5)
    stage.pass_ms(6000)
    assert stage.voiced == stage.sound
    assert stage.ticks()[before:] == "v" * 251 + "s" * 49
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]
    ledger = stage.playback.ledger
    assert ledger.segments == [Segment("a", before * FRAME, int(250.5 * FRAME))]


@pytest.mark.parametrize("frames", [0.5, 1, 1.5, 2, 4, 5, 6, 11])
@pytest.mark.parametrize("phase_ms", [1, 10, 19])
def test_a_short_reply_leaves_no_hole_either(frames: float, phase_ms: float) -> None:
    stage = Stage(phase_s=phase_ms / 1000)
    stage.pass_ms(100)
    stage.say("a", frames)
    stage.pass_ms(500)
    assert stage.voiced == stage.sound
    assert "-" not in stage.ticks()
    assert stage.events == [PlayoutStarted("a"), PlayoutFinished("a"), PlayoutDrained()]


def test_minutes_are_handed_over_in_helpings_and_nothing_is_lost() -> None:
    stage = Stage()
    stage.say("a", 50 * 180)
    stage.pass_ms(180_000 + 100)
    assert stage.voiced == stage.sound
    assert stage.peer.longest <= AHEAD_FRAMES + SILENCE_FRAMES
    assert "-" not in stage.ticks()
    assert stage.events[-1] == PlayoutDrained()


def test_linear_wideband_sound_is_counted_in_samples() -> None:
    stage = Stage(SLIN_16K)
    stage.playback.enqueue("a", bytes(range(1, 251)) * 32)
    stage.playback.complete("a")
    stage.pass_ms(400)
    assert b"".join(f for f in stage.peer.heard if f and any(f)).rstrip(b"\0") == bytes(range(1, 251)) * 32
    assert stage.playback.ledger.heard_ms("a") == 250


@pytest.mark.parametrize("wire_bytes", [-1, 1, 49, 51, 800, 801, 849, 851, 8000, 8001])
def test_a_wire_that_takes_no_more_is_respected(wire_bytes: int) -> None:
    stage = Stage(wire_bytes=wire_bytes)
    stage.say("a", 100)
    stage.pass_ms(1000)
    stage.say("b", 100)
    stage.pass_ms(1000)
    stage.cut()
    stage.say("c", 10.5)
    stage.pass_ms(10_000)
    assert stage.voiced == stage.sound or wire_bytes < MARK_BYTES
    assert stage.sound.startswith(stage.voiced)


def test_what_finds_the_queue_empty_after_a_stoppage_of_the_wire_is_not_taken_for_heard() -> None:
    stage = Stage()
    stage.say("a", 6, complete=False)
    stage.peer.blocked = True
    for _ in range(20):
        stage.say("a", 1, complete=False)
    stage.pass_ms(1000)
    stage.peer.blocked = False
    for _ in range(50):
        stage.pass_ms(10)
        assert abs(stage.playback.ledger.heard_ms("a") - stage.heard_ms("a")) <= 20
    assert stage.voiced == stage.sound


def test_events_come_when_the_peer_says_so() -> None:
    stage = Stage(phase_s=0.007)
    at: list[tuple[str, float]] = []
    stage.playback._on_event = lambda event: at.append((type(event).__name__, round(stage.clock.now - 100, 3)))
    stage.pass_ms(100)
    stage.say("a", 3)
    stage.pass_ms(200)
    assert at == [("PlayoutStarted", 0.107), ("PlayoutFinished", 0.167), ("PlayoutDrained", 0.167)]


def test_items_follow_each_other_without_a_gap_and_are_booked_apart() -> None:
    stage = Stage()
    stage.say("a", 7.5)
    stage.pass_ms(30)
    stage.say("b", 7.5)
    stage.pass_ms(400)
    assert stage.ticks().strip("s") == "v" * 15
    assert stage.voiced == stage.sound
    assert stage.events == [
        PlayoutStarted("a"),
        PlayoutStarted("b"),
        PlayoutFinished("a"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]


@pytest.mark.parametrize("early_ms", range(2, 102, 10))
def test_an_item_that_comes_as_another_ends_finds_two_silent_frames_in_its_way_at_most(early_ms: int) -> None:
    stage = Stage()
    stage.say("a", 10)
    stage.pass_ms(207 - early_ms)
    stage.say("b", 5)
    stage.pass_ms(500)
    assert stage.voiced == stage.sound
    gap = stage.ticks().strip("s").count("s")
    assert gap <= 2
    assert "-" not in stage.ticks()


@pytest.mark.parametrize("phase_ms", [1, 7, 13, 19])
@pytest.mark.parametrize("report_lag_ms", [0, 6, 12, 18])
def test_an_item_that_runs_dry_leaves_one_packet_out_and_then_the_stream_goes_on_in_silence(
    phase_ms: int, report_lag_ms: int
) -> None:
    stage = Stage(low_watermark_ms=60, phase_s=phase_ms / 1000, report_lag_s=report_lag_ms / 1000)
    stage.pass_ms(100)
    stage.say("a", 10, complete=False)
    stage.pass_ms(600)
    assert stage.playback.state is PlaybackState.STARVED
    assert stage.ticks()[5:].startswith("v" * 10 + "-s")
    assert stage.ticks().count("-") == 1
    stage.say("a", 2, complete=False)
    stage.pass_ms(100)
    assert stage.playback.state is PlaybackState.STARVED, "two frames are less than the watermark"
    before = len(stage.peer.heard)
    stage.say("a", 2)
    assert stage.playback.state is PlaybackState.PLAYING
    stage.pass_ms(200)
    assert stage.ticks()[before:].startswith("vvvvss")
    assert stage.voiced == stage.sound
    assert stage.playback.stats.underruns == 1
    assert [type(event) for event in stage.events] == [PlayoutStarted, PlayoutFinished, PlayoutDrained]


def test_an_item_that_never_goes_on_is_given_up_after_the_grace_and_its_rest_is_played() -> None:
    stage = Stage(provider_grace_ms=200)
    stage.say("a", 2.5, complete=False)
    stage.pass_ms(600)
    assert stage.voiced == stage.sound
    assert stage.events == [PlayoutStarted("a"), PlayoutStalled("a"), PlayoutFinished("a"), PlayoutDrained()]


def test_the_silence_since_an_item_ran_dry_is_told() -> None:
    stage = Stage(provider_grace_ms=200)
    stage.say("a", 2, complete=False)
    stage.pass_ms(600)
    (drained,) = [event for event in stage.events if isinstance(event, PlayoutDrained)]
    assert drained.silent_ms == pytest.approx(200, abs=21)


@pytest.mark.parametrize("late_ms", range(0, 100, 7))
def test_an_item_completed_as_it_runs_dry_is_finished_once(late_ms: int) -> None:
    stage = Stage()
    stage.say("a", 5, complete=False)
    stage.pass_ms(60 + late_ms)
    stage.playback.complete("a")
    stage.pass_ms(200)
    assert [type(event) for event in stage.events] == [PlayoutStarted, PlayoutFinished, PlayoutDrained]
    assert stage.playback.stats.underruns == 0
    assert stage.ticks().count("-") <= 1


def test_a_provider_in_real_time_is_heard_without_a_hole_behind_its_cushion() -> None:
    stage = Stage(min_start_ms=60)
    stage.playback._cushion._fast = False
    for _ in range(100):
        stage.say("a", 1, complete=False)
        stage.pass_ms(20)
    stage.playback.complete("a")
    stage.pass_ms(200)
    assert stage.voiced == stage.sound
    assert stage.ticks().strip("s") == "v" * 100
    assert stage.playback.stats.underruns == 0


def test_marks_are_few() -> None:
    stage = Stage()
    stage.say("a", 500)
    stage.pass_ms(10_000)
    assert stage.peer.commands.count("mark") <= 105
    quiet = len(stage.peer.commands)
    stage.pass_ms(60_000)
    assert len(stage.peer.commands) - quiet <= 2 * 61, "a mark and a message per second of silence"


@pytest.mark.parametrize("skew_ppm", [-100, 100])
def test_silence_neither_runs_out_nor_piles_up_over_an_hour_of_clocks_that_differ(skew_ppm: float) -> None:
    stage = Stage(skew_ppm=skew_ppm)
    for _ in range(360):
        stage.pass_ms(10_000)
        assert stage.peer.length <= SILENCE_FRAMES + SILENCE_LOW_FRAMES + 1
        stage.peer.commands.clear()
    assert set(stage.ticks()) == {"s"}
    assert stage.peer.longest <= SILENCE_FRAMES + SILENCE_LOW_FRAMES + 1
    assert stage.playback.ledger.sent_samples == pytest.approx(len(stage.peer.heard) * FRAME, abs=2 * FRAME)


def test_a_stall_of_ours_is_not_heard() -> None:
    stage = Stage()
    stage.pass_ms(500)
    stage.time.stall(0.4)
    stage.say("a", 100)
    stage.pass_ms(300)
    stage.time.stall(1.5)
    stage.pass_ms(1000)
    assert "-" not in stage.ticks()
    assert stage.voiced == stage.sound


def test_nothing_is_sent_or_told_after_the_end() -> None:
    stage = Stage()
    stage.say("a", 50)
    stage.pass_ms(100)
    commands, events = list(stage.peer.commands), list(stage.events)
    stage.playback.close()
    stage.say("a", 50)
    stage.pass_ms(3000)
    assert (stage.peer.commands, stage.events) == (commands, events)


@pytest.mark.parametrize("number", [-1, 10_000])
def test_a_mark_that_was_never_sent_means_nothing(number: int) -> None:
    stage = Stage()
    stage.say("a", 50)
    stage.peer.on_mark(number)
    stage.pass_ms(2000)
    assert stage.voiced == stage.sound
