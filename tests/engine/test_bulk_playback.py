"""Playback over a peer that paces, against a model of Asterisk's queue and with a clock of the test's own."""

from __future__ import annotations

import itertools
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from peer_queue import MARK_BYTES, Clock, PeerQueue, PeerTime

from audio.formats import SLIN_16K, ULAW_8K, AudioFormat
from engine.bulk_playback import AHEAD_FRAMES, SILENCE_FRAMES, SILENCE_LOW_FRAMES, BulkPlaybackManager
from engine.cushion import Cushioning
from engine.ledger import Segment
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
SILENT = 0xFF


class Stage:
    """A playback with its peer, and an account of its own of what is to be heard."""

    def __init__(
        self,
        wire: AudioFormat = ULAW_8K,
        *,
        started: bool = True,
        skew_ppm: float = 0,
        phase_s: float = 0.007,
        report_lag_s: float = 0.0,
        wire_bytes: float = inf,
        **cushioning: int,
    ) -> None:
        self.clock = Clock()
        self.peer = PeerQueue(
            self.clock, wire, skew_ppm=skew_ppm, phase_s=phase_s, report_lag_s=report_lag_s, wire_bytes=wire_bytes
        )
        self.events: list[PlayoutEvent] = []
        self.playback = BulkPlaybackManager(
            self.peer, self.events.append, cushioning=Cushioning(**cushioning), clock=self.clock
        )
        self.time = PeerTime(self.clock, self.peer, self.playback.tick)
        self.wanted: list[tuple[str, bytes]] = []
        """What is to be heard, in order."""
        self._sounds = itertools.cycle(range(251))
        if started:
            self.playback.start()

    def pass_ms(self, ms: float) -> None:
        self.time.pass_s(ms / 1000)

    def say(self, item_id: str, frames: float, *, complete: bool = True) -> bytes:
        """Has an item (go on to) say something without a silent byte in it."""
        sound = bytes(next(self._sounds) for _ in range(int(frames * FRAME)))
        item = self.playback.ledger.items.get(item_id)
        if item is None or not item.cut:
            self.wanted.append((item_id, sound))
        self.playback.enqueue(item_id, sound)
        if complete:
            self.playback.complete(item_id)
        return sound

    def cut(self) -> list[Cut]:
        cuts = self.playback.cut()
        rest = len(self.voiced)
        kept: list[tuple[str, bytes]] = []
        for item_id, sound in self.wanted:
            kept.append((item_id, sound[:rest]))
            rest -= len(kept[-1][1])
        self.wanted = kept
        return cuts

    @property
    def sound(self) -> bytes:
        return b"".join(sound for _, sound in self.wanted)

    @property
    def voiced(self) -> bytes:
        """All that was heard, less silence."""
        return b"".join(frame for frame in self.peer.heard if frame).replace(bytes([SILENT]), b"")

    def heard_ms(self, item_id: str) -> float:
        """What was really heard of an item."""
        rest, samples = len(self.voiced), 0
        for owner, sound in self.wanted:
            part = min(rest, len(sound))
            rest -= part
            samples += part if owner == item_id else 0
        return samples / 8

    def ticks(self) -> str:
        """What left at each of the peer's ticks: v(oice), s(ilence), p(aused), or - for a hole."""
        return "".join(
            "-" if f is None else "p" if not f else "s" if set(f) == {SILENT} else "v" for f in self.peer.heard
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


@pytest.mark.parametrize("early_ms", range(0, 70, 5))
def test_a_pause_as_a_reply_ends_leaves_nothing_hanging(early_ms: int) -> None:
    stage = Stage()
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


def test_an_item_that_runs_dry_leaves_one_packet_out_and_then_the_stream_goes_on_in_silence() -> None:
    stage = Stage(low_watermark_ms=60)
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


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from("abc"), st.floats(0.01, 30), st.booleans()),
        st.tuples(st.just("complete"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["pause", "resume", "cut", "complete_all"])),
        st.tuples(st.just("pass"), st.integers(1, 400)),
        st.tuples(st.just("pass"), st.integers(1, 30)),
    ),
    max_size=40,
)
SKEWS = st.sampled_from([-100.0, 0.0, 100.0])
PHASES = st.integers(0, 19).map(lambda ms: ms / 1000)
LAGS = st.sampled_from([0.0, 0.003, 0.012])


@settings(max_examples=200, deadline=None)
@given(CALLS, SKEWS, PHASES, LAGS)
def test_whatever_happens_what_was_said_and_not_cut_is_heard_in_order(
    calls: list[tuple[object, ...]], skew_ppm: float, phase_s: float, lag_s: float
) -> None:
    stage = Stage(skew_ppm=skew_ppm, phase_s=phase_s, report_lag_s=lag_s, provider_grace_ms=200)
    generation = 0
    for call in calls:
        match call:
            case ("say", str(name), float(frames), bool(complete)):
                stage.say(f"{name}{generation}", max(frames, 1 / FRAME), complete=complete)
            case ("complete", str(name)):
                stage.playback.complete(f"{name}{generation}")
            case ("cut",):
                for cut in stage.cut():
                    assert abs(cut.heard_ms - stage.heard_ms(cut.item_id)) < 21, "a frame, and the rounding"
                generation += 1
            case ("pass", int(ms)):
                stage.pass_ms(ms)
            case (str(verb),):
                getattr(stage.playback, verb)()
        assert stage.sound.startswith(stage.voiced)
    stage.playback.resume()
    stage.playback.complete_all()
    stage.pass_ms(20 * len(stage.sound) / FRAME + 2000)
    assert stage.voiced == stage.sound
    assert not stage.playback.speaking
    assert stage.playback.state is PlaybackState.IDLE
    assert "--" not in stage.ticks(), "an item that ran dry leaves one packet out"
    assert stage.ticks().endswith("s" * 10)
    _assert_valid(stage.events)
    ledger = stage.playback.ledger
    assert sum(s.samples for s in ledger.segments) == sum(i.played_samples for i in ledger.items.values())
    for item in ledger.items.values():
        assert item.played_samples == item.generated_samples or item.cut


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("say"), st.integers(1, 80)),
            st.tuples(st.just("cut")),
            st.tuples(st.just("pass"), st.integers(1, 900)),
            st.tuples(st.just("pass"), st.integers(1, 30)),
        ),
        max_size=30,
    ),
    SKEWS,
    PHASES,
    LAGS,
)
def test_a_stream_of_whole_replies_has_no_hole_and_two_silent_frames_before_a_reply_at_most(
    calls: list[tuple[object, ...]], skew_ppm: float, phase_s: float, lag_s: float
) -> None:
    stage = Stage(skew_ppm=skew_ppm, phase_s=phase_s, report_lag_s=lag_s)
    names = itertools.count()
    for call in calls:
        match call:
            case ("say", int(frames)):
                stage.say(str(next(names)), frames)
            case ("pass", int(ms)):
                stage.pass_ms(ms)
            case ("cut",):
                stage.cut()
        unheard = len(stage.sound) - len(stage.voiced)
        if unheard:
            before = len(stage.peer.heard)
            stage.pass_ms(20 * 4)
            assert "v" in stage.ticks()[before : before + 3]
    assert "-" not in stage.ticks()


def _assert_valid(events: list[PlayoutEvent]) -> None:
    begun: set[str] = set()
    for event in events:
        match event:
            case PlayoutStarted(item_id):
                assert item_id not in begun
                begun.add(item_id)
            case PlayoutFinished(item_id):
                assert item_id in begun
                begun.remove(item_id)
