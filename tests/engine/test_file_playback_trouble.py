"""Playback by files, when the provider, the disk or Asterisk fails it; and anything in any order."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from file_stage import FRAME, SILENCE, Stage, speech
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.file_player import FileFinished, FileStarted
from engine.file_queue import END_LIMIT_S, START_LIMIT_S
from engine.playout import PlaybackState, PlayoutDrained, PlayoutFinished, PlayoutStalled, PlayoutStarted


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path / "sounds")


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
    assert stage.events[2] == PlayoutDrained(pytest.approx(200, abs=30))


def test_a_file_that_cannot_be_played_ends_its_item_and_no_other(stage: Stage) -> None:
    stage.asterisk.broken = {1}
    stage.say("a", speech(1500))
    stage.say("b", speech(20, seed=2))
    stage.beat(40)
    assert stage.voiced()[FRAME:] == speech(20, seed=2), "behind one frame of the next file, until that was stopped"
    assert stage.playback.ledger.heard_ms("a") <= 20
    assert [event for event in stage.events if event != PlayoutStarted("a")] == [
        PlayoutStalled("a"),
        PlayoutStarted("b"),
        PlayoutFinished("b"),
        PlayoutDrained(),
    ]
    assert stage.files() == []


def test_what_shares_a_file_is_lost_with_it(stage: Stage) -> None:
    stage.asterisk.broken = {2}
    stage.say("a", speech(100))
    stage.say("b", speech(5.5, seed=2))
    stage.say("c", speech(5.5, seed=3))
    stage.beat(50)
    stage.say("d", speech(10, seed=4))
    stage.beat(80)
    assert [event.item_id for event in stage.events if isinstance(event, PlayoutStalled)] == ["b", "c"]
    assert stage.voiced() == speech(100) + speech(10, seed=4)


def test_an_item_lost_in_the_middle_keeps_nobody_waiting(stage: Stage) -> None:
    stage.asterisk.broken = {1}
    stage.playback.enqueue("a", speech(1000))
    stage.say("b", speech(0.5, seed=2))
    stage.playback.enqueue("a", speech(0.25))
    assert len(stage.asked("play")) == 2
    stage.beat(5)
    assert stage.voiced()[FRAME:] == speech(0.5, seed=2) + SILENCE[: FRAME // 2]
    assert stage.events[-1] == PlayoutDrained()


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
    assert stage.events == [PlayoutStalled("a"), PlayoutDrained()]
    assert stage.playback.ledger.heard_ms("a") == 0
    stage.folder.mkdir()
    stage.say("b", speech(20))
    stage.beat(25)
    assert stage.voiced() == speech(20)


def test_a_file_that_never_begins_ends_its_item(stage: Stage) -> None:
    stage.asterisk.deaf = True
    stage.say("a", speech(20))
    stage.beat(int(START_LIMIT_S * 50) + 2)
    assert stage.events == [PlayoutStalled("a"), PlayoutDrained()]
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
