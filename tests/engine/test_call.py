"""One call from its arrival to its last record, with an Asterisk and a provider that do what the test says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from call_support import CALLER, CLIPS, FRAME, ScriptedProvider, line, lost, ready

from audio.formats import ULAW_8K
from engine import call as call_module
from engine import leg as leg_module
from engine.conversation_events import Clip
from providers.base import ProviderError, ProviderSink, Ready
from transport.ari import AriError

SET_UP_REQUESTS = ("get_variables", "answer", "create_bridge", "external_media", "add_to_bridge")


async def test_a_call_is_answered_bridged_and_taken_down_when_the_caller_hangs_up() -> None:
    async with line() as on:
        await on.connected()
        assert tuple(on.pbx.requests) == SET_UP_REQUESTS
        (members,) = on.pbx.bridged.values()
        assert members == [CALLER, on.session.ids.media_channel]
        on.pbx.caller_hangs_up()
        await on.over()
        assert on.ended("caller_hung_up") == 1
        assert CALLER not in on.pbx.hung_up, "who has gone is not hung up on"


@pytest.mark.parametrize("when", ["asked", "done"])
@pytest.mark.parametrize(
    ("who", "number"),
    [
        (who, number)
        for who in ("caller", "media", "engine")
        for number in range(1, len(SET_UP_REQUESTS) + 1)
        # Before the first answer there is no media to be lost.
        if (who, number) != ("media", 1)
    ],
)
async def test_an_end_during_any_request_of_the_set_up_leaves_nothing_behind(who: str, number: int, when: str) -> None:
    async with line() as on:

        def interfere(request: int, moment: str) -> None:
            if (request, moment) != (number, when):
                return
            match who:
                case "caller":
                    on.pbx.caller_hangs_up()
                case "media":
                    on.port.lose()
                case "engine":
                    on.switchboard.end_all()

        on.pbx.interfere = interfere
        on.pbx.caller_arrives()
        await on.over()
        assert on.pbx.channels_by_id == {}
        reason = {"caller": "caller_hung_up", "media": "media_lost", "engine": "engine_stopped"}[who]
        assert on.ended(reason) == 1


async def test_a_caller_who_hangs_up_before_the_first_request_leaves_nothing_behind() -> None:
    async with line() as on:
        on.pbx.caller_arrives()
        on.pbx.caller_hangs_up()
        await on.over()
        assert on.ended("caller_hung_up") == 1


@pytest.mark.parametrize("request_name", SET_UP_REQUESTS[1:])
async def test_a_step_that_asterisk_refuses_ends_the_call(request_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_module, "HANGUP_RACE_S", 0.02)
    async with line() as on:
        on.pbx.broken[request_name] = AriError(500, "no")
        on.pbx.caller_arrives()
        await on.over()
        assert on.ended("pbx_error") == 1
        assert on.pbx.channels_by_id == {}


async def test_variables_that_cannot_be_read_do_not_cost_the_call() -> None:
    async with line() as on:
        on.pbx.broken["get_variables"] = AriError(500, "no")
        await on.connected()


async def test_a_media_channel_that_never_comes_up_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leg_module, "MEDIA_TIMEOUT_S", 0.05)
    monkeypatch.setattr(call_module, "HANGUP_RACE_S", 0.02)
    async with line() as on:
        on.pbx.media_comes_up = False
        on.pbx.caller_arrives()
        await on.over()
        assert on.ended("pbx_error") == 1


async def test_an_asterisk_that_does_not_answer_the_teardown_does_not_keep_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leg_module, "ARI_TEARDOWN_LIMIT_S", 0.05)
    monkeypatch.setattr(leg_module, "SOCKET_DRAIN_LIMIT_S", 0.05)
    async with line() as on:
        await on.connected()

        async def never(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        on.pbx.hang_up = on.pbx.destroy_bridge = never  # type: ignore[method-assign]
        on.pbx.caller_hangs_up()
        await on.until(lambda: not len(on.store))
        assert on.port.closed


async def test_a_bridge_that_somebody_destroys_ends_the_call() -> None:
    async with line() as on:
        await on.connected()
        on.pbx.bridge_vanished(on.session.ids.bridge)
        await on.over()
        assert on.ended("media_lost") == 1
        assert on.pbx.channels_by_id == {}


async def test_a_step_of_the_teardown_that_breaks_still_closes_the_wire() -> None:
    async with line() as on:
        await on.connected()

        async def broken(_: str) -> None:
            raise KeyError("a fault of ours")

        on.pbx.destroy_bridge = broken  # type: ignore[method-assign]
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        on.pbx.caller_hangs_up()
        await on.until(lambda: not len(on.store))
        assert on.port.closed


async def test_a_cancelled_call_is_taken_down_all_the_same() -> None:
    async with line() as on:
        await on.connected()
        (task,) = on.switchboard._tasks
        task.cancel()
        await on.over()
        assert on.pbx.channels_by_id == {}
        assert on.ended("engine_stopped") == 1


async def test_a_provider_that_is_lost_before_there_is_sound_is_apologised_for() -> None:
    async with line(lost) as on:
        on.pbx.caller_arrives()
        await on.over()
        assert on.port.voiced == CLIPS[Clip.APOLOGY]
        assert on.ended("provider_failed") == 1
        assert CALLER in on.pbx.hung_up


async def test_what_a_provider_said_before_it_was_lost_is_heard_before_the_apology() -> None:
    async def says_and_dies(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        sink.audio("greeting", b"\x33" * FRAME * 3)
        raise ProviderError("connection_lost", "gone")

    async with line(says_and_dies) as on:
        on.pbx.caller_arrives()
        await on.over()
        assert on.port.voiced == b"\x33" * FRAME * 3 + CLIPS[Clip.APOLOGY]


async def test_a_provider_that_is_never_ready_is_given_up() -> None:
    async def never(_: ScriptedProvider, __: ProviderSink) -> None:
        await asyncio.Event().wait()

    async with line(never, provider_start_timeout_s=0.05) as on:
        on.pbx.caller_arrives()
        await on.over()
        assert on.port.voiced == CLIPS[Clip.APOLOGY]
        assert on.sample("ai_agent_provider_errors_total", provider="scripted", code="start_timeout") == 1


async def test_a_provider_that_is_ready_as_its_time_runs_out_is_given_up_politely() -> None:
    async def too_late(_: ScriptedProvider, sink: ProviderSink) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            sink.event(Ready())

    async with line(too_late, provider_start_timeout_s=0.05) as on:
        on.pbx.caller_arrives()
        await on.over()
        assert on.ended("provider_failed") == 1


async def test_a_provider_that_breaks_while_it_is_closed_is_not_booked_as_lost() -> None:
    async def breaks_at_the_end(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ProviderError("connection_lost", "in the middle of closing") from None

    async with line(breaks_at_the_end) as on:
        await on.connected()
        on.pbx.caller_hangs_up()
        await on.over()
        assert on.ended("caller_hung_up") == 1
        assert on.sample("ai_agent_provider_errors_total", provider="scripted", code="connection_lost") is None


async def test_a_provider_that_does_not_let_itself_be_closed_does_not_keep_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(call_module, "WORKER_LIMIT_S", 0.05)
    let_go = asyncio.Event()

    async def clings(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        try:
            await asyncio.Event().wait()
        finally:
            await let_go.wait()

    async with line(clings) as on:
        await on.connected()
        on.switchboard.end_all()
        await on.until(lambda: not len(on.store))
        assert CALLER in on.pbx.hung_up
        let_go.set()
        await on.until(lambda: not on.provider.running)


async def test_a_provider_that_ends_in_good_order_ends_the_call_after_its_last_word() -> None:
    async def goodbye(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        sink.audio("bye", b"\x33" * FRAME * 5)

    async with line(goodbye) as on:
        on.pbx.caller_arrives()
        await on.over()
        assert on.port.voiced == b"\x33" * FRAME * 5
        assert on.ended("agent_hung_up") == 1


async def test_an_unexpected_error_of_a_provider_ends_this_call_and_no_other() -> None:
    async def breaks(provider: ScriptedProvider, sink: ProviderSink) -> None:
        if provider.context.greeting == "break":
            raise RuntimeError("a fault of ours")
        await ready(provider, sink)

    async with line(breaks) as on:
        await on.connected()
        on.pbx.variables = {"AI_GREETING": "break"}
        on.pbx.caller_arrives("17.2")
        await on.until(lambda: on.ended("engine_error") == 1)
        await on.until(lambda: len(on.store) == 1)
        assert on.session.call_id == CALLER
        assert on.session.call.state == "talking"


async def test_a_call_whose_beat_breaks_ends_and_the_others_keep_theirs() -> None:
    async with line() as on:
        for number in range(4):
            on.pbx.caller_arrives(f"17.{number}")
        await on.until(lambda: [s.call.state for s in on.store] == ["talking"] * 4)
        broken, *others = on.store

        def fail(*_: Any) -> None:
            raise RuntimeError("a fault of ours")

        broken.call._conversation.playback.tick = fail  # type: ignore[union-attr, method-assign]
        await on.until(lambda: on.ended("engine_error") == 1)
        ports = [port for port in on.transport.ports if port.media_id in {session.ids.media for session in others}]
        sent = [port.frames_sent for port in ports]
        await on.until(lambda: all(p.frames_sent > n + 2 for p, n in zip(ports, sent, strict=True)))


async def test_a_call_whose_timer_breaks_ends() -> None:
    async with line() as on:
        await on.connected()

        def fail(_: float) -> None:
            raise RuntimeError("a fault of ours")

        on.conversation.coordinator.advance = fail
        on.conversation._advance()
        await on.over()
        assert on.ended("engine_error") == 1


async def test_the_dialplan_chooses_provider_and_greeting() -> None:
    async with line() as on:
        on.pbx.variables = {"AI_PROVIDER": "other", "AI_GREETING": "Good morning"}
        on.pbx.caller_arrives()
        await on.until(lambda: bool(on.other.providers))
        assert on.other.providers[0].context.greeting == "Good morning"
        assert on.session.call.provider_name == "other"
        assert on.factory.providers == []


async def test_settings_that_change_during_a_call_are_those_of_the_next() -> None:
    from dataclasses import replace

    async with line() as on:
        await on.connected()
        on.settings = replace(on.settings, provider="other", greeting="New")
        assert on.session.call.provider_name == "scripted"
        on.pbx.caller_arrives("17.2")
        await on.until(lambda: bool(on.other.providers))
        assert on.other.providers[0].context.greeting == "New"
        assert len(on.factory.providers) == 1


async def test_what_the_caller_says_while_a_provider_is_started_is_heard_by_it() -> None:
    async with line() as on:
        on.factory.may_start.clear()
        on.pbx.caller_arrives()
        await on.until(lambda: on.session.call.state == "talking")
        words = [bytes([n]) * FRAME for n in range(1, 6)]
        for word in words[:3]:
            on.port.hear(word)
        on.factory.may_start.set()
        await on.until(lambda: bool(on.factory.providers))
        for word in words[3:]:
            on.port.hear(word)
        assert on.provider.heard == words


async def test_a_call_is_counted_once_at_every_moment_of_its_end() -> None:
    async with line() as on:
        await on.connected()
        on.port.hear(ULAW_8K.silent_frame)
        session, seen = on.session, []

        class Finished:
            def add(self, counts: Any) -> None:
                seen.append((counts.frames_in, session.call.counts().frames_in))
                asyncio.get_running_loop().call_soon(lambda: seen.append(session.call.counts().frames_in))

        on.metrics.finished = Finished()  # type: ignore[assignment]
        on.pbx.caller_hangs_up()
        await on.over()
        assert seen == [(1, 1), 0]


async def test_nothing_is_decided_after_the_end() -> None:
    async with line() as on:
        await on.connected()
        conversation = on.conversation
        on.pbx.caller_hangs_up()
        await on.over()
        sent = on.port.frames_sent
        conversation.event(Ready())
        on.provider.sink.audio("late", b"\x33" * FRAME)
        on.port.hear(ULAW_8K.silent_frame)
        assert conversation._timer_due is None
        assert on.provider.heard == []
        assert on.port.frames_sent == sent


async def test_no_gating_is_left_of_a_call_that_ended_while_the_agent_spoke() -> None:
    async def speaks(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        sink.audio("greeting", b"\x33" * FRAME * 500)
        await asyncio.Event().wait()

    async with line(speaks) as on:
        await on.connected()
        session = on.session
        await on.until(lambda: session.call.gating)
        on.pbx.caller_hangs_up()
        await on.over()
        assert not session.call.gating
