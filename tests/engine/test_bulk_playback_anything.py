"""Playback over a peer that paces, whatever is asked of it and however the clocks run."""

from __future__ import annotations

import itertools

from bulk_stage import FRAME, Stage
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.playout import PlaybackState, PlayoutEvent, PlayoutFinished, PlayoutStarted

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
@given(CALLS, CALLS, SKEWS, PHASES, LAGS)
def test_whatever_happens_what_was_said_and_not_cut_is_heard_in_order(
    before: list[tuple[object, ...]],
    calls: list[tuple[object, ...]],
    skew_ppm: float,
    phase_s: float,
    lag_s: float,
) -> None:
    stage = Stage(started=False, skew_ppm=skew_ppm, phase_s=phase_s, report_lag_s=lag_s, provider_grace_ms=200)
    generation = 0
    for call in [*before[:5], ("start",), *calls]:
        match call:
            case ("start",):
                assert stage.peer.commands == []
                early = len(stage.peer.heard)
                stage.playback.start()
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
    assert "--" not in stage.ticks()[early:], "an item that ran dry leaves one packet out"
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
