"""What a call does with its wire: keys come once, files instead of a stream, an apology where there is no wire."""

from __future__ import annotations

import asyncio

import pytest
from call_support import CALLER, CLIPS, FRAME, ScriptedProvider, line

import engine.call as call_module
from engine.conversation_events import Clip
from providers.base import AgentItemDone, ProviderSink, Ready
from transport.ari import AriError
from transport.media import DtmfReceived


@pytest.mark.parametrize("by_wire", [True, False])
async def test_a_key_is_pressed_once_whether_it_comes_by_the_wire_as_well_or_by_ari_alone(by_wire: bool) -> None:
    async with line() as on:
        await on.connected()
        pressed: list[str] = []
        on.conversation.key_pressed = pressed.append
        on.port.brings_keys = by_wire
        if by_wire:
            on.port.on_event(DtmfReceived("5"))
        channel = on.pbx.channels_by_id[CALLER]
        on.pbx.on_event({"type": "ChannelDtmfReceived", "channel": channel, "digit": "5"})
        assert pressed == ["5"]


async def test_a_caller_whose_sound_cannot_be_connected_hears_an_apology(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_module, "HANGUP_RACE_S", 0.02)
    async with line() as on:
        on.pbx.broken["external_media"] = AriError(500, "no")
        on.pbx.caller_arrives()
        await on.over()
        assert on.pbx.played == [CLIPS[Clip.APOLOGY]]
        assert on.ended("pbx_error") == 1


async def test_a_caller_whose_wire_is_lost_in_the_middle_hears_an_apology() -> None:
    async with line() as on:
        await on.connected()
        on.port.lose()
        await on.over()
        assert on.pbx.played == [CLIPS[Clip.APOLOGY]]
        assert on.ended("media_lost") == 1


async def test_nothing_is_played_to_a_caller_who_was_not_answered_or_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_module, "HANGUP_RACE_S", 0.02)
    async with line() as on:
        on.pbx.broken["answer"] = AriError(412, "no")
        on.pbx.caller_arrives()
        await on.over()
        assert on.pbx.played == []
        on.pbx.broken.clear()
        await on.connected()
        on.pbx.caller_hangs_up()
        await on.over()
        assert on.pbx.played == []


async def test_replies_as_files_are_played_to_a_caller_who_is_heard_through_a_snoop() -> None:
    async def speaks(_: ScriptedProvider, sink: ProviderSink) -> None:
        sink.event(Ready())
        sink.audio("greeting", b"\x33" * FRAME * 5)
        sink.event(AgentItemDone("greeting"))
        await asyncio.Event().wait()

    async with line(speaks, as_files=True) as on:
        await on.connected()
        ids = on.session.ids
        assert on.pbx.bridged[ids.bridge] == [ids.snoop_channel, ids.media_channel]
        await on.until(lambda: bool(on.pbx.played))
        assert on.pbx.played == [b"\x33" * FRAME * 5]
        assert on.port.sent == []
        on.port.hear(b"\x44" * FRAME)
        assert on.provider.heard[-1] == b"\x44" * FRAME
        on.pbx.caller_hangs_up()
        await on.over()
        assert ids.snoop_channel not in on.pbx.channels_by_id


async def test_a_wire_that_does_not_notice_its_end_is_not_waited_for() -> None:
    async with line() as on:
        await on.connected()
        port = on.port
        port.notices_end = False
        port.lose = lambda: None  # type: ignore[method-assign]
        before = asyncio.get_running_loop().time()
        on.pbx.caller_hangs_up()
        await on.over()
        assert port.closed
        assert asyncio.get_running_loop().time() - before < 1.5, "half a second less than the limit for the others"
