"""Real calls to the echo of a real Asterisk."""

from __future__ import annotations

import asyncio
import random

import pytest

from testkit.asterisk import AsteriskInstance
from testkit.caller import CallRejected, SipCaller
from testkit.hearing import clip_arrived_at, find_clip, gaps_ms, lost_packets
from testkit.speech import noise
from testkit.waiting import wait_until

pytestmark = pytest.mark.asterisk

CLIP = noise(1000, seed=1)


def caller_to(asterisk: AsteriskInstance, extension: str = "600") -> SipCaller:
    return SipCaller(server=("127.0.0.1", asterisk.sip_port), extension=extension)


async def channels_gone(asterisk: AsteriskInstance) -> None:
    async with asyncio.timeout(10):
        while await asyncio.to_thread(asterisk.channels):
            await asyncio.sleep(0.05)


async def test_the_echo_is_heard_bit_for_bit(asterisk: AsteriskInstance) -> None:
    async with caller_to(asterisk) as call:
        await call.dial()
        spoken = call.speak(CLIP)
        await wait_until(lambda: find_clip(call.heard(), CLIP), 10, "the echo")
        arrived_at = clip_arrived_at(call.received, CLIP)
        assert arrived_at is not None
        assert await spoken.started < arrived_at
        assert lost_packets(call.received) == 0
        assert len(gaps_ms(call.received)) == len(call.received) - 1
    assert call.ended_by == "caller"
    await channels_gone(asterisk)


async def test_keys_are_understood(asterisk: AsteriskInstance) -> None:
    """Asterisk's echo ends at the key #, which only a well-formed telephone event tells it."""
    async with caller_to(asterisk) as call:
        await call.dial()
        call.dtmf("12")
        spoken = call.speak(CLIP)
        await wait_until(lambda: find_clip(call.heard(), CLIP), 10, "the echo, with keys before it")
        await spoken.done
        assert call.ended_by is None
        call.dtmf("#")
        await call.wait_ended(10)
        assert call.ended_by == "callee"
    await channels_gone(asterisk)


async def test_the_other_side_hangs_up(asterisk: AsteriskInstance) -> None:
    async with caller_to(asterisk) as call:
        await call.dial()
        (channel,) = await asyncio.to_thread(asterisk.channels)
        await asyncio.to_thread(asterisk.cli, f"channel request hangup {channel}")
        await call.wait_ended(10)
        assert call.ended_by == "callee"
        assert call.answered_at is not None
        assert call.ended_at is not None
        assert call.answered_at < call.ended_at
    await channels_gone(asterisk)


async def test_an_unknown_extension_is_refused(asterisk: AsteriskInstance) -> None:
    async with caller_to(asterisk, "999") as call:
        with pytest.raises(CallRejected) as refusal:
            await call.dial()
        assert refusal.value.status == 404


async def test_hanging_up_at_any_moment_leaves_nothing(asterisk: AsteriskInstance) -> None:
    """From before the first response until well after the answer, each moment a few times."""
    moments = random.Random(1)
    for turns in [0, 1, 2, 3, 5, 8, 13, 21] * 3:
        async with caller_to(asterisk) as call:
            dialling = asyncio.create_task(call.dial())
            for _ in range(turns):
                await asyncio.sleep(moments.choice((0, 0.001)))
            async with asyncio.timeout(4):  # a response waited for in vain would take 5 s
                await call.hangup()
            await asyncio.gather(dialling, return_exceptions=True)
    await channels_gone(asterisk)


async def test_a_call_is_held_and_taken_back(asterisk: AsteriskInstance) -> None:
    async with caller_to(asterisk) as call:
        await call.dial()
        await call.hold()
        await call.unhold()
        await call.speak(CLIP).done
        await wait_until(lambda: find_clip(call.heard(), CLIP), 10, "the echo, after the hold")
    await channels_gone(asterisk)


async def test_twenty_calls_at_once_lose_nothing(asterisk: AsteriskInstance) -> None:
    # Asterisk reports (RTCP) every 5 s: long enough to see them go astray.
    seconds = 6

    async def one(number: int) -> None:
        clip = noise(1000 * seconds, seed=number)
        async with caller_to(asterisk) as call:
            await call.dial()
            call.speak(clip)
            await wait_until(lambda: len(call.received) > 50 * seconds, 30, "the echo's length")
            await wait_until(lambda: find_clip(call.heard(), clip), 30, "the echo")
            assert lost_packets(call.received) == 0
            assert len({packet.ssrc for packet in call.received}) == 1
            assert {packet.payload_type for packet in call.received} == {0}

    await asyncio.gather(*(one(number) for number in range(20)))
    await channels_gone(asterisk)


def test_an_asterisk_that_was_killed_comes_back() -> None:
    with AsteriskInstance() as own:
        own.kill()
        own.start()
        assert own.channels() == []
        assert own.bridges() == []
    assert not own.home.exists()
