"""The beat: absolute deadlines, phases, and what happens when the process stood still."""

from __future__ import annotations

import asyncio
import time

from engine.metronome import CROWD, MAX_CATCH_UP, PERIOD_S, PHASES, Metronome


async def test_beats_do_not_drift() -> None:
    metronome = Metronome()
    beats: list[float] = []
    done = asyncio.Event()

    def beat() -> None:
        beats.append(time.monotonic())
        if len(beats) == 50:
            done.set()

    leave = metronome.join(beat)
    await asyncio.wait_for(done.wait(), 10)
    leave()
    owed = (beats[-1] - beats[0]) / PERIOD_S
    missed = metronome.stats.skipped
    assert abs(owed - 49 - missed) < MAX_CATCH_UP, "as many beats as periods, but for those given up"


async def test_few_members_beat_together_and_many_are_spread_over_the_period() -> None:
    metronome = Metronome()
    count = [0] * (PHASES * (CROWD + 1))
    leaves = []
    for index in range(len(count)):

        def beat(index: int = index) -> None:
            count[index] += 1

        leaves.append(metronome.join(beat))
        awake = sum(bool(phase.members) for phase in metronome._phases)
        assert awake == min(PHASES, index // CROWD + 1), "a phase is opened when the others are full"
    assert [len(phase.members) for phase in metronome._phases] == [CROWD + 1] * PHASES
    while min(count) < 3:
        await asyncio.sleep(0.005)
    for leave in leaves:
        leave()
    stopped = list(count)
    await asyncio.sleep(3 * PERIOD_S)
    assert count == stopped


async def test_a_stall_is_made_up_for_in_part_and_the_rest_is_counted() -> None:
    metronome = Metronome()
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    leave = metronome.join(beat)
    while not beats:
        await asyncio.sleep(0.001)
    before = beats
    time.sleep(10 * PERIOD_S)
    await asyncio.sleep(0)
    while metronome.stats.late == 0:
        await asyncio.sleep(0.001)
    leave()
    assert metronome.stats.skipped >= 10 - MAX_CATCH_UP - 1
    assert beats - before <= 2 * MAX_CATCH_UP
    assert metronome.stats.beats == beats


async def test_one_member_leaving_in_its_own_beat_does_not_disturb_another() -> None:
    metronome = Metronome()
    heard: list[str] = []
    leave_first = metronome.join(lambda: (heard.append("first"), leave_first())[0])
    others = [metronome.join(lambda: heard.append("other")) for _ in range(PHASES)]
    while heard.count("other") < 3 * PHASES:
        await asyncio.sleep(0.005)
    for leave in others:
        leave()
    assert heard.count("first") == 1
