"""Media over the chan_websocket of a real Asterisk: what a caller hears, and what Asterisk says of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest
from ari_support import Recorder
from websocket_media_support import CERTIFICATE, Diary, Switch, counted

from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from testkit.asterisk import AsteriskInstance
from testkit.hearing import find_clip, gaps_ms
from testkit.waiting import wait_until
from transport.ari import AriClient
from transport.media import Connected, DtmfReceived, MediaUnavailable

pytestmark = [pytest.mark.asterisk, pytest.mark.usefixtures("no_traceback")]

FRAME_BYTES = 160
SILENCE = ULAW_8K.silent_frame


@pytest.fixture(scope="module")
def tls_asterisk() -> Iterator[AsteriskInstance]:
    with AsteriskInstance(certificate=CERTIFICATE) as instance:
        yield instance


@pytest.fixture
async def switch(tls_asterisk: AsteriskInstance) -> AsyncIterator[Switch]:
    asterisk = tls_asterisk
    client = AriClient("127.0.0.1", asterisk.ari_port, asterisk.app_name, asterisk.username, asterisk.password)
    recorder = Recorder(client)
    running = asyncio.create_task(client.run())
    await recorder.connected()
    yield Switch(asterisk, recorder)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await client.close()
    assert asterisk.channels() == []


def clip(frames: int, seed: int = 1, audio_format: AudioFormat = ULAW_8K) -> bytes:
    return random.Random(seed).randbytes(frames * audio_format.frame_bytes)


@pytest.mark.parametrize("way", ["engine", "asterisk", "engine-tls", "asterisk-tls"])
async def test_both_ways_bit_for_bit_with_marks_and_keys(switch: Switch, way: str) -> None:
    transport = switch.transport(way)
    async with switch.call(transport) as call:
        spoken, said = clip(25, 1), clip(25, 2)
        call.caller.speak(said)
        call.port.send(spoken)
        call.port.mark(1)
        await call.diary.mark(1)
        call.caller.dtmf("5")
        await wait_until(lambda: DtmfReceived("5") in call.diary.events, what="the key")
        await wait_until(lambda: find_clip(b"".join(call.diary.heard), said), what="the caller's sound")
        assert find_clip(call.caller.heard(), spoken) is not None
        # Time for a second one, by RTP's repetitions of a key's end.
        heard = len(call.diary.heard)
        await wait_until(lambda: len(call.diary.heard) > heard + 10)
        assert call.diary.events == [Connected(), DtmfReceived("5")]
        assert set(map(len, call.diary.heard)) == {FRAME_BYTES}
        assert (call.port.frames_sent, call.port.frames_dropped) == (25, 0)
    assert counted(transport) == {"connections": 1}


@pytest.mark.parametrize(
    ("audio_format", "codec"), [(ALAW_8K, "PCMA"), (SLIN_8K, "PCMU"), (SLIN_16K, "L16"), (SLIN_24K, "PCMU")]
)
async def test_other_formats(switch: Switch, audio_format: AudioFormat, codec: str) -> None:
    async with switch.call(switch.transport("engine"), audio_format, codec) as call:
        spoken = clip(10, 1, audio_format)
        call.port.send(spoken)
        call.port.mark(1)
        await call.diary.mark(1)
        await wait_until(lambda: len(call.diary.heard) > 5)
        assert set(map(len, call.diary.heard)) == {audio_format.frame_bytes}
        if audio_format is ALAW_8K:
            assert spoken in call.caller.heard()
        if audio_format is SLIN_16K:
            # RTP has it in network byte order.
            swapped = bytearray(spoken)
            swapped[::2], swapped[1::2] = spoken[1::2], spoken[::2]
            assert bytes(swapped) in call.caller.heard()


async def test_ten_seconds_in_one_burst_and_marks_that_tell_the_truth(switch: Switch) -> None:
    async with switch.call(switch.transport("engine")) as call:
        spoken = clip(500)
        for number in range(5):
            # What the kernel has not taken yet may hold us back for a moment.
            await wait_until(lambda: call.port.writable)
            call.port.send(spoken[number * 100 * FRAME_BYTES : (number + 1) * 100 * FRAME_BYTES])
            call.port.mark(number)
        await wait_until(lambda: call.port.writable)
        call.port.send(SILENCE * 5)
        await call.diary.mark(4, timeout_s=15)
        assert call.diary.marked == [0, 1, 2, 3, 4]
        assert find_clip(call.caller.heard(), spoken) is not None
        arrivals = [packet.arrived_at for packet in call.caller.received]
        # A mark comes with the frame behind it; the rest is leave for a busy machine.
        for number, (at, _) in enumerate(call.diary.marks):
            last = 100 * (number + 1) - 1
            assert arrivals[last - 3] < at < arrivals[min(last, 495) + 4] + 0.06
        assert 19.5 < sum(gaps_ms(call.caller.received[:500])) / 499 < 20.5


async def test_a_flush_silences_at_once_and_takes_its_marks_along(switch: Switch) -> None:
    async with switch.call(switch.transport("asterisk")) as call:
        for number in range(10):
            before, after = clip(200, 10 + number), clip(10, 50 + number)
            call.port.send(before)
            call.port.mark(number)
            await wait_until(lambda before=before: find_clip(call.caller.heard(), before[: 3 * FRAME_BYTES]))
            packets = len(call.caller.received)
            call.port.flush()
            assert call.port.writable
            call.port.send(after)
            call.port.mark(100 + number)
            await call.diary.mark(100 + number)
            offset = find_clip(call.heard_since(packets), after)
            # One packet may have been on its way.
            assert offset in (0, FRAME_BYTES)
        assert call.diary.marked == [100 + number for number in range(10)]


async def test_a_pause_loses_nothing(switch: Switch) -> None:
    async with switch.call(switch.transport("engine")) as call:
        spoken, more = clip(40, 1), clip(10, 2)
        call.port.send(spoken)
        await wait_until(lambda: find_clip(call.caller.heard(), spoken[: 5 * FRAME_BYTES]))
        call.port.pause()
        call.port.send(more)
        call.port.mark(1)
        packets = len(call.caller.received)
        heard = len(call.diary.heard)
        await wait_until(lambda: len(call.diary.heard) > heard + 10, what="the caller's sound, meanwhile")
        # One packet may have been on its way.
        assert len(call.caller.received) <= packets + 1
        assert call.diary.marked == []
        call.port.resume()
        await call.diary.mark(1)
        assert find_clip(call.caller.heard(), spoken + more) is not None


async def test_a_full_queue_is_respected_relieved_and_flushed(switch: Switch) -> None:
    async with switch.call(switch.transport("engine")) as call:
        port, spoken = call.port, clip(950)
        port.send(spoken)
        # Held back by our own buffer for a moment, then by Asterisk's XOFF.
        await wait_until(lambda: port._queue_full, what="XOFF")
        port.send(spoken[:800])
        assert (port.frames_sent, port.frames_dropped) == (950, 5)
        await wait_until(lambda: port.writable, what="XON")
        played = sum(packet.is_sound for packet in call.caller.received)
        assert 140 < played < 200
        port.send(clip(150, 2))
        await wait_until(lambda: port._queue_full, what="XOFF")
        port.pause()
        packets = len(call.caller.received)
        port.flush()
        last = clip(10, 3)
        port.send(last)
        port.mark(1)
        await call.diary.mark(1)
        assert find_clip(call.heard_since(packets), last) in (0, FRAME_BYTES)
        assert find_clip(call.caller.heard(), spoken[: 100 * FRAME_BYTES]) is not None
        assert port.frames_dropped == 5 and port.writable


async def test_wrong_credentials_get_no_connection(switch: Switch) -> None:
    transport = switch.transport("asterisk", password="another")
    await transport.start()
    diary = Diary(transport)
    await switch.ari.client.external_media("unauthorized", diary.port.external_media())
    await switch.ari.event("ChannelDestroyed", "unauthorized")
    assert diary.events == []
    assert transport.counters["unauthorized"] == transport.counters["connections"] > 0
    await transport.close()


async def test_a_call_that_nobody_waits_for(switch: Switch) -> None:
    transport = switch.transport("asterisk")
    await transport.start()
    diary = Diary(transport)
    external = diary.port.external_media()
    diary.port.close()
    await switch.ari.client.external_media("nobody", external)
    await switch.ari.event("ChannelDestroyed", "nobody")
    assert transport.counters["refused"] == transport.counters["connections"] > 0
    await transport.close()


async def test_a_connection_that_asterisk_refuses(switch: Switch) -> None:
    transport = switch.transport("engine")
    diary, late = Diary(transport), Diary(transport)
    with pytest.raises(MediaUnavailable, match="HTTP 404"):
        await late.port.join({"MEDIA_WEBSOCKET_CONNECTION_ID": "unheard-of"})
    variables = await switch.ari.client.external_media("only-once", diary.port.external_media())
    await diary.port.join(variables)
    await diary.connected()
    with pytest.raises(MediaUnavailable, match="HTTP 409"):
        await late.port.join(variables)
    assert diary.port.writable
    assert counted(transport) == {"connections": 3, "refused": 2}
    await transport.close()
    await switch.ari.event("ChannelDestroyed", "only-once")


@pytest.mark.parametrize("way", ["engine", "asterisk-tls"])
async def test_a_close_of_ours_ends_the_channel_and_not_the_call(switch: Switch, way: str) -> None:
    async with switch.call(switch.transport(way)) as call:
        call.port.send(clip(100))
        call.port.close()
        destroyed = await switch.ari.event("ChannelDestroyed", call.channel_id)
        assert destroyed["cause"] == 16
        assert call.diary.events == [Connected()]
        assert call.caller.ended_by is None
