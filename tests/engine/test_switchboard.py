"""Who is taken, who is turned away, what is settled with Asterisk, and how it all stops."""

from __future__ import annotations

import asyncio

import pytest
from call_support import CALLER, FRAME, Line, ScriptedProvider, line

from engine import leg as leg_module
from engine import switchboard as switchboard_module
from engine.catalogue import ProviderCatalogue
from providers.base import ProviderError, ProviderSink, Ready
from transport.ari import AriError, AriState, AriUnavailable, HangupCause


class Reaper:
    """The reaper, looking when the test says so."""

    def __init__(self, on: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(switchboard_module, "REAP_INTERVAL_S", 0.0)
        self._on = on
        self._task = asyncio.create_task(on.switchboard.reap())

    async def look(self, times: int) -> None:
        """Returns once it has asked for the bridges so many times more, and acted upon it."""
        requests = self._on.pbx.requests
        asked = requests.count("bridges") + times
        await self._on.until(lambda: requests.count("bridges") > asked)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


async def test_a_caller_beyond_the_limit_is_turned_away_and_the_next_is_taken_when_there_is_room() -> None:
    async with line(max_calls=1) as on:
        await on.connected()
        on.pbx.caller_arrives("17.2")
        await on.until(lambda: "17.2" in on.pbx.hung_up)
        assert on.pbx.hung_up["17.2"] is HangupCause.CONGESTION
        assert on.sample("ai_agent_calls_refused_total", reason="full") == 1
        on.pbx.caller_hangs_up()
        await on.over()
        on.pbx.caller_arrives("17.3")
        await on.until(lambda: len(on.store) == 1)


async def test_a_caller_who_waits_is_adopted_and_not_taken_twice() -> None:
    async with line() as on:
        channel = on.pbx.caller_arrives(announced=False)
        on.switchboard.settle(on.pbx.snapshot())
        on.pbx.tell("StasisStart", channel)
        on.switchboard.settle(on.pbx.snapshot())
        await on.until(lambda: on.session.call.state == "talking")
        assert on.sample("ai_agent_calls_started_total") == 1


async def test_what_another_engine_left_is_removed_at_once_when_connecting() -> None:
    async with line() as on:
        on.pbx._channel("voice-engine-media-1")
        on.pbx.bridged["voice-engine-bridge-1"] = []
        on.pbx.bridged["somebody-elses"] = []
        on.pbx._channel("voice-engine-2-media-1")["dialplan"]["app_data"] = "voice-engine-2"
        on.switchboard.settle(on.pbx.snapshot())
        await on.until(lambda: not on.switchboard._tasks)
        assert list(on.pbx.bridged) == ["somebody-elses"]
        assert list(on.pbx.channels_by_id) == ["voice-engine-2-media-1"]


async def test_channels_of_other_applications_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with line() as on:
        for app_data in ("voice-engine-2", "other,voice-engine", ""):
            on.pbx._channel(f"x{app_data}")["dialplan"]["app_data"] = app_data
        on.pbx._channel("dialling")["dialplan"]["app_name"] = "Dial"
        on.switchboard.settle(on.pbx.snapshot())
        reaper = Reaper(on, monkeypatch)
        await reaper.look(3)
        await reaper.stop()
        assert len(on.store) == 0
        assert len(on.pbx.channels_by_id) == 4


async def test_a_call_whose_caller_vanished_while_we_were_away_is_ended() -> None:
    async with line() as on:
        await on.connected()
        del on.pbx.channels_by_id[CALLER]
        on.switchboard.settle(on.pbx.snapshot())
        await on.over()
        assert on.ended("pbx_lost") == 1


async def test_an_orphan_is_removed_when_it_is_seen_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async with line() as on:
        await on.connected()
        mine = set(on.pbx.ours)
        on.pbx.bridged["voice-engine-bridge-x"] = []
        on.pbx._channel("voice-engine-media-x")
        looks: list[int] = []
        on.pbx.interfere = lambda number, when: looks.append(len(on.pbx.ours)) if when == "asked" else None
        reaper = Reaper(on, monkeypatch)
        await on.until(lambda: set(on.pbx.ours) == mine)
        await reaper.stop()
        assert looks[:4] == [4] * 4, "the first look removes nothing"
        assert on.sample("ai_agent_orphans_removed_total", kind="channel") == 1
        assert on.session.call.state == "talking"


async def test_a_caller_whose_hanging_up_failed_does_not_stay_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async with line() as on:
        await on.connected()
        on.pbx.broken["hang_up"] = AriUnavailable("no answer")
        monkeypatch.setattr(leg_module, "SOCKET_DRAIN_LIMIT_S", 0.05)
        on.switchboard.end_all()
        await on.until(lambda: not len(on.store))
        assert CALLER in on.pbx.channels_by_id
        on.pbx.broken.clear()
        reaper = Reaper(on, monkeypatch)
        await on.until(lambda: not on.pbx.channels_by_id, "the caller's end")
        await reaper.stop()


async def test_an_engine_that_was_replaced_leaves_the_other_ones_calls_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with line() as on:
        await on.connected()
        on.pbx.state = AriState.REPLACED
        on.pbx._channel("voice-engine-media-x")
        on.pbx._channel("17.9")
        reaper = Reaper(on, monkeypatch)
        await reaper.look(3)
        assert {"voice-engine-media-x", "17.9"} <= set(on.pbx.channels_by_id)
        del on.pbx.channels_by_id[CALLER]
        await on.until(lambda: on.ended("pbx_lost") == 1, "the end of a call of whose end no event tells")
        await reaper.stop()


async def test_a_caller_whom_another_engine_took_over_is_not_hung_up_on() -> None:
    async with line() as on:
        await on.connected()
        on.pbx.state = AriState.REPLACED
        on.port.lose()
        await on.over()
        assert on.ended("media_lost") == 1
        assert CALLER in on.pbx.channels_by_id


async def test_the_reaper_survives_an_asterisk_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with line() as on:
        on.pbx.broken["channels"] = AriUnavailable("no answer")
        on.pbx._channel("voice-engine-media-x")
        reaper = Reaper(on, monkeypatch)
        await on.until(lambda: on.pbx.requests.count("channels") > 2)
        on.pbx.broken.clear()
        await on.until(lambda: not on.pbx.channels_by_id)
        await reaper.stop()


async def test_a_media_channel_that_comes_after_its_call_is_removed() -> None:
    async with line() as on:
        on.pbx.tell("StasisStart", on.pbx._channel("voice-engine-media-late"))
        await on.until(lambda: not on.pbx.channels_by_id)
        assert on.sample("ai_agent_calls_started_total") == 0


@pytest.mark.parametrize("error", [AriError(500, "no"), AriUnavailable("no answer")])
async def test_a_refusal_that_fails_is_no_ones_trouble(error: AriError) -> None:
    async with line(max_calls=0) as on:
        on.pbx.broken["hang_up"] = error
        on.pbx.caller_arrives()
        await on.until(lambda: not on.switchboard._tasks)


async def test_draining_takes_nobody_and_lets_calls_go_on_until_the_limit() -> None:
    async with line() as on:
        await on.connected()
        draining = asyncio.create_task(on.switchboard.drain(0.5))
        await on.until(lambda: not on.switchboard.accepting)
        on.pbx.caller_arrives("17.2")
        await on.until(lambda: "17.2" in on.pbx.hung_up)
        assert on.session.call.state == "talking"
        await asyncio.wait_for(draining, 5)
        assert len(on.store) == 0
        assert on.ended("engine_stopped") == 1
        assert on.sample("ai_agent_calls_refused_total", reason="stopping") == 1


async def test_draining_is_over_with_the_last_call() -> None:
    async with line() as on:
        await on.connected()
        draining = asyncio.create_task(on.switchboard.drain(60))
        await on.until(lambda: not on.switchboard.accepting)
        on.pbx.caller_hangs_up()
        await asyncio.wait_for(draining, 5)
        assert on.ended("caller_hung_up") == 1


async def test_a_second_signal_ends_the_calls_at_once() -> None:
    async def speaks(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        sink.audio("long", b"\x33" * FRAME * 500)
        await asyncio.Event().wait()

    async with line(speaks) as on:
        for number in range(3):
            on.pbx.caller_arrives(f"17.{number}")
        await on.until(lambda: [s.call.state for s in on.store] == ["talking"] * 3)
        draining = asyncio.create_task(on.switchboard.drain(60))
        await on.until(lambda: not on.switchboard.accepting)
        on.switchboard.end_all()
        await asyncio.wait_for(draining, 5)
        assert on.ended("engine_stopped") == 3
        assert on.pbx.channels_by_id == {}


async def test_a_provider_is_started_once_for_all_who_wait_and_again_after_a_failure() -> None:
    async with line() as on:
        catalogue: ProviderCatalogue = on.catalogue
        on.factory.may_start.clear()
        on.factory.failures = [ProviderError("unavailable", "not yet")]
        waiting = [asyncio.create_task(catalogue.started("scripted")) for _ in range(3)]
        await on.until(lambda: on.factory.starts == 1)
        waiting[0].cancel()
        on.factory.may_start.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, ProviderError, ProviderError]
        assert on.factory.starts == 1
        assert await catalogue.started("scripted") is on.factory
        assert await catalogue.started("scripted") is on.factory
        assert on.factory.starts == 2
        await catalogue.close()
        assert on.factory.closed and not on.other.closed
