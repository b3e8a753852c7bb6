"""The SIP caller against a real Asterisk: its echo test, and an application that does what a test asks for."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from testkit.asterisk import AsteriskInstance
from testkit.caller import CallRejected, CallTimeout, SipCaller, in_sequence
from testkit.hearing import find_clip
from testkit.rtp_stream import CallOverError
from testkit.speech import noise
from testkit.waiting import wait_until

pytestmark = pytest.mark.asterisk

ECHO, ENGINE = "600", "100"


def phone(asterisk: AsteriskInstance, extension: str = ECHO) -> SipCaller:
    return SipCaller(server=("127.0.0.1", asterisk.sip_port), extension=extension)


async def hear(call: SipCaller, clip: bytes, timeout_s: float = 10) -> None:
    await wait_until(lambda: find_clip(call.heard(), clip), timeout_s, "the echo")


def lost_packets(call: SipCaller) -> int:
    numbers = [packet.sequence for packet in in_sequence(call.received)]
    return sum(((later - earlier) & 0xFFFF) - 1 for earlier, later in pairwise(numbers))


async def nothing_left(asterisk: AsteriskInstance) -> None:
    """A channel goes a moment after its BYE was answered."""
    async with asyncio.timeout(5):
        while await asyncio.to_thread(asterisk.channels):
            await asyncio.sleep(0.05)


@dataclass
class Application:
    """The far side of extension 100, played by the test: holds callers until it is told to answer."""

    session: aiohttp.ClientSession
    events: aiohttp.ClientWebSocketResponse

    async def wait_for(self, kind: str) -> dict[str, Any]:
        async with asyncio.timeout(10):
            async for message in self.events:
                event: dict[str, Any] = json.loads(message.data)
                if event["type"] == kind:
                    return event
        raise AssertionError("Asterisk closed the connection")

    async def answer(self, channel_id: str) -> None:
        async with self.session.post(f"/ari/channels/{channel_id}/answer") as response:
            assert response.status == 204


@asynccontextmanager
async def application(asterisk: AsteriskInstance) -> AsyncIterator[Application]:
    credentials = base64.b64encode(f"{asterisk.username}:{asterisk.password}".encode()).decode()
    headers = {"Authorization": f"Basic {credentials}"}
    async with (
        aiohttp.ClientSession(f"http://127.0.0.1:{asterisk.ari_port}", headers=headers) as session,
        session.ws_connect(f"/ari/events?app={asterisk.app_name}") as events,
    ):
        yield Application(session, events)


async def test_sound_comes_back_bit_for_bit(asterisk: AsteriskInstance) -> None:
    words = noise(2000, seed=1)
    async with phone(asterisk) as call:
        await call.dial()
        spoken = call.speak(words)
        assert await spoken.started >= (call.answered_at or float("inf"))
        assert await spoken.done > await spoken.started
        await hear(call, words)
        assert b"".join(sound for _, sound in call.sent).find(words) >= 0
        await call.hangup()
        assert call.ended_by == "caller"
    assert lost_packets(call) == 0
    await nothing_left(asterisk)


async def test_words_come_back_in_the_order_in_which_they_were_said(asterisk: AsteriskInstance) -> None:
    first, second = noise(310, seed=2), noise(250, seed=3)
    async with phone(asterisk) as call:
        await call.dial()
        begun = [await call.speak(first).started, await call.speak(second, after_s=0.5).started]
        await hear(call, second)
        heard = call.heard()
    between = (find_clip(heard, second) or 0) - (find_clip(heard, first) or 0)
    assert begun[1] - begun[0] > 0.3
    assert between >= len(first), "an odd last packet is filled up with silence, and nothing overlaps"


async def test_keys_do_not_break_the_sound(asterisk: AsteriskInstance) -> None:
    before, after = noise(500, seed=4), noise(500, seed=5)
    async with phone(asterisk) as call:
        await call.dial()
        call.speak(before)
        call.dtmf("12*")
        call.speak(after)
        await hear(call, after)
        await hear(call, before)
        keys = [packet for packet in call.received if packet.payload_type != 0]
        assert keys, "Asterisk sends keys back, too"
        assert lost_packets(call) == 0
        sound_packets = len(call.received) - len(keys)
        assert len(call.heard()) == 160 * sound_packets, "and they are not taken for sound"


async def test_what_was_not_said_when_the_call_ended_never_will_be(asterisk: AsteriskInstance) -> None:
    async with phone(asterisk) as call:
        await call.dial()
        speaking = call.speak(noise(5000, seed=6))
        waiting = call.speak(noise(100, seed=7))
        await speaking.started
    with pytest.raises(CallOverError):
        await speaking.done
    with pytest.raises(CallOverError):
        await waiting.started


async def test_the_other_side_hangs_up(asterisk: AsteriskInstance) -> None:
    async with phone(asterisk) as call:
        await call.dial()
        await hear(call, call.speak(noise(200, seed=8)).sound)
        await asyncio.to_thread(asterisk.cli, "channel request hangup all")
        await call.wait_ended(5)
        assert call.ended_by == "callee"
        assert call.ended_at is not None
        await call.hangup()
        assert call.ended_by == "callee", "hanging up a call that is over changes nothing"
    await nothing_left(asterisk)


async def test_an_extension_that_does_not_exist(asterisk: AsteriskInstance) -> None:
    async with phone(asterisk, "12345") as call:
        with pytest.raises(CallRejected) as refusal:
            await call.dial()
        assert refusal.value.status == 404
        assert call.answered_at is None
        assert call.ended_by == "callee"


async def test_nobody_there_is_told_from_a_call_that_was_turned_down(asterisk: AsteriskInstance) -> None:
    async with phone(asterisk, ENGINE) as call:
        with pytest.raises(CallRejected) as refusal:
            await call.dial()
        assert refusal.value.status == 503, "no application is connected"


async def test_a_caller_who_hangs_up_before_the_answer(asterisk: AsteriskInstance) -> None:
    async with application(asterisk) as far:
        async with phone(asterisk, ENGINE) as call:
            dialling = asyncio.create_task(call.dial())
            await far.wait_for("StasisStart")
            await call.hangup()
            with pytest.raises(CallRejected) as refusal:
                await dialling
            assert refusal.value.status == 487, "Request Terminated"
            assert call.ended_by == "caller"
            assert call.answered_at is None
        await nothing_left(asterisk)


async def test_a_caller_who_hangs_up_at_once(asterisk: AsteriskInstance) -> None:
    """Whether the CANCEL or the answer comes first: the caller has hung up, and nothing is left of the call."""
    for _ in range(5):
        async with phone(asterisk) as call:
            dialling = asyncio.create_task(call.dial())
            await asyncio.sleep(0)
            await call.hangup()
            (outcome,) = await asyncio.gather(dialling, return_exceptions=True)
            assert call.ended_by == "caller"
            if call.answered_at is None:
                assert isinstance(outcome, CallRejected)
                assert outcome.status == 487
            else:
                assert outcome is None
    await nothing_left(asterisk)


async def test_a_caller_who_loses_patience(asterisk: AsteriskInstance) -> None:
    async with application(asterisk) as far:
        async with phone(asterisk, ENGINE) as call:
            with pytest.raises(CallTimeout):
                await call.dial(timeout_s=0.3)
            await far.wait_for("StasisStart")
        assert call.ended_by == "caller"
        await nothing_left(asterisk)


async def test_holding(asterisk: AsteriskInstance) -> None:
    """Asterisk is told, both times, and the sound of the call goes on afterwards."""
    async with application(asterisk) as far, phone(asterisk, ENGINE) as call:
        dialling = asyncio.create_task(call.dial())
        started = await far.wait_for("StasisStart")
        await far.answer(started["channel"]["id"])
        await dialling
        for _ in range(2):
            await call.hold()
            await far.wait_for("ChannelHold")
            await call.unhold()
            await far.wait_for("ChannelUnhold")
    await nothing_left(asterisk)


async def test_sound_goes_on_after_a_hold(asterisk: AsteriskInstance) -> None:
    before, after = noise(300, seed=9), noise(300, seed=10)
    async with phone(asterisk) as call:
        await call.dial()
        await hear(call, call.speak(before).sound)
        await call.hold()
        await call.unhold()
        await hear(call, call.speak(after).sound)
        assert lost_packets(call) == 0


async def test_twenty_calls_at_once_lose_nothing(asterisk: AsteriskInstance) -> None:
    async def one(seed: int) -> None:
        words = noise(3000, seed)
        async with phone(asterisk) as call:
            await call.dial()
            await call.speak(words).done
            await hear(call, words)
        assert lost_packets(call) == 0

    await asyncio.gather(*(one(100 + number) for number in range(20)))
    await nothing_left(asterisk)
