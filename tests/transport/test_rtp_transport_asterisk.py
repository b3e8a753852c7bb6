"""ExternalMedia through a real Asterisk: a telephone calls, and a port of ours speaks with it."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import pairwise
from uuid import uuid4

import pytest
from ari_support import Recorder

from audio._audioop import audioop
from audio.convert import converter
from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, ULAW_8K, AudioFormat
from engine.metronome import Metronome
from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller, in_sequence
from testkit.hearing import find_clip, gaps_ms, lost_packets
from testkit.speech import noise, tone
from testkit.waiting import wait_until
from transport.ari import AriClient
from transport.media import Connected, PortEvent
from transport.rtp import RtpPort, RtpTransport
from transport.rtp_codec import encode

pytestmark = pytest.mark.asterisk

CALLERS_CLIP = noise(1000, seed=11)
OUR_CLIP = noise(2000, seed=12)


class Call:
    """A telephone and a port of ours, in a bridge."""

    def __init__(self, caller: SipCaller, transport: RtpTransport, port: RtpPort) -> None:
        self.caller = caller
        self.transport = transport
        self.port = port
        self.events: list[PortEvent] = []
        self.frames: list[bytes] = []
        port.on_event = self.events.append
        port.on_audio = self.frames.append

    def heard(self) -> bytes:
        return b"".join(self.frames)

    async def say(self, sound: bytes) -> None:
        """Sends sound at its own pace, as the engine does."""
        size = self.port.format.frame_bytes
        frames = [sound[start : start + size] for start in range(0, len(sound), size)][::-1]
        said = asyncio.Event()

        def beat() -> None:
            if frames:
                self.port.send(frames.pop())
            else:
                said.set()

        leave = Metronome().join(beat)
        try:
            await said.wait()
        finally:
            leave()


@pytest.fixture
async def ari(asterisk: AsteriskInstance) -> AsyncIterator[Recorder]:
    client = AriClient("127.0.0.1", asterisk.ari_port, asterisk.app_name, asterisk.username, asterisk.password)
    recorder = Recorder(client)
    recorder.runner = asyncio.create_task(client.run())
    await recorder.connected()
    yield recorder
    recorder.runner.cancel()
    await asyncio.gather(recorder.runner, return_exceptions=True)
    await client.close()


Begin = Callable[..., AbstractAsyncContextManager[Call]]


@pytest.fixture
def begin(asterisk: AsteriskInstance, ari: Recorder) -> Begin:
    """Makes calls: answered, bridged, joined, and taken down."""

    @asynccontextmanager
    async def begin_call(audio_format: AudioFormat = ULAW_8K, codec: str = "PCMU") -> AsyncIterator[Call]:
        transport = RtpTransport()
        await transport.start()
        media_id = uuid4()
        channel_id, bridge_id = f"media-{media_id}", f"bridge-{media_id}"
        server = ("127.0.0.1", asterisk.sip_port)
        try:
            async with SipCaller(server=server, extension="100", codec=codec) as caller:
                known = len(ari.events("StasisStart"))
                dialled = asyncio.create_task(caller.dial())
                await wait_until(lambda: len(ari.events("StasisStart")) > known, what="the caller's StasisStart")
                caller_id = ari.events("StasisStart")[known]["channel"]["id"]
                await ari.client.answer(caller_id)
                await dialled
                await ari.client.create_bridge(bridge_id, "call")
                await ari.client.add_to_bridge(bridge_id, caller_id)
                call = Call(caller, transport, transport.open_port(media_id, audio_format))
                variables = await ari.client.external_media(channel_id, call.port.external_media())
                await call.port.join(variables)
                assert call.events == [Connected()]
                await ari.event("StasisStart", channel_id)
                await ari.client.add_to_bridge(bridge_id, channel_id)
                await wait_until(lambda: len(call.frames) > 10, what="the caller")
                yield call
                await ari.client.hang_up(channel_id)
            await ari.client.destroy_bridge(bridge_id)
            await ari.event("ChannelDestroyed", channel_id)
            # Nobody tells the port: this wire knows no end.
            assert call.events == [Connected()]
        finally:
            await transport.close()

    return begin_call


def counted(call: Call) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: count for name, count in call.transport.counters.items() if count}


@pytest.mark.parametrize(("audio_format", "codec"), [(ULAW_8K, "PCMU"), (ALAW_8K, "PCMA")], ids=str)
async def test_companded_sound_goes_through_bit_for_bit(begin: Begin, audio_format: AudioFormat, codec: str) -> None:
    async with begin(audio_format, codec) as call:
        call.caller.speak(CALLERS_CLIP)
        await call.say(OUR_CLIP)
        await wait_until(lambda: find_clip(call.caller.heard(), OUR_CLIP), what="our clip at the caller's")
        await wait_until(lambda: find_clip(call.heard(), CALLERS_CLIP), what="the caller's clip at ours")
        assert (call.port.frames_dropped, call.port.frames_lost) == (0, 0)
        assert counted(call) == {}
        packets = in_sequence(call.caller.received)
        assert {later.timestamp - earlier.timestamp for earlier, later in pairwise(packets)} <= {160, 160 - 2**32}
        assert lost_packets(packets) == 0


async def test_linear_sound_has_the_right_byte_order(begin: Begin) -> None:
    """To and from a caller of μ-law: what Asterisk makes of linear sound is exactly the same again."""
    expand, compress = converter(ULAW_8K, SLIN_8K), converter(SLIN_8K, ULAW_8K)
    async with begin(SLIN_8K) as call:
        call.caller.speak(CALLERS_CLIP)
        await call.say(expand(OUR_CLIP))
        await wait_until(lambda: find_clip(call.caller.heard(), OUR_CLIP), what="our clip at the caller's")
        await wait_until(lambda: find_clip(compress(call.heard()), CALLERS_CLIP), what="the caller's clip at ours")
        assert counted(call) == {}


async def test_wideband_both_ways(begin: Begin) -> None:
    """A tone of 6 kHz, which no telephone of 8 kHz lets through."""
    sound = converter(ULAW_8K, SLIN_8K)(tone(3000, 1000))  # played at 16 kHz: 6 kHz, for half a second

    def loud_frames(pcm: bytes) -> int:
        """Frames in which the level of something near 6 kHz is that of the tone."""
        return sum(
            5000 < audioop.rms(pcm[start : start + 640], 2) < 6300
            and 235 <= audioop.cross(pcm[start : start + 640], 2) <= 245
            for start in range(0, len(pcm) - 639, 640)
        )

    async with begin(SLIN_16K, "G722") as call:
        call.caller.speak_pcm(sound)
        await call.say(sound)
        await wait_until(lambda: loud_frames(call.heard()) >= 23, what="the caller's tone")
        await wait_until(lambda: loud_frames(call.caller.heard_pcm()) >= 23, what="our tone")
        assert counted(call) == {}


async def test_our_times_are_right_after_a_pause(begin: Begin) -> None:
    """The marker is set, too, but Asterisk does not pass it on."""
    async with begin() as call:
        await call.say(noise(200, seed=1))
        await asyncio.sleep(1)
        await call.say(noise(200, seed=2))
        await wait_until(lambda: len(call.caller.received) == 20, what="20 packets")
        packets = call.caller.received
        assert lost_packets(packets) == 0
        steps = [(later.timestamp - earlier.timestamp) & 0xFFFFFFFF for earlier, later in pairwise(packets)]
        assert steps[:9] == steps[10:] == [160] * 9
        assert steps[9] % 160 == 0
        paused_s = packets[10].arrived_at - packets[9].arrived_at
        assert steps[9] / 8000 == pytest.approx(paused_s, abs=0.04)
        assert max(gaps_ms(packets)) > 1000


async def test_a_pause_of_the_callers_is_no_loss(begin: Begin) -> None:
    async with begin() as call:
        call.caller.stop_sending()
        await asyncio.sleep(0.1)
        silent_from = len(call.frames)
        await asyncio.sleep(0.5)
        assert len(call.frames) == silent_from
        call.caller.resume_sending()
        call.caller.speak(CALLERS_CLIP)
        await wait_until(lambda: find_clip(call.heard(), CALLERS_CLIP), what="the caller's clip")
        assert counted(call) == {}


async def test_keys_are_no_loss(begin: Begin) -> None:
    """Asterisk tells of them by ARI, and leaves a hole where they were."""
    async with begin() as call:
        call.caller.dtmf("12")
        call.caller.speak(CALLERS_CLIP)
        await wait_until(lambda: find_clip(call.heard(), CALLERS_CLIP), what="the caller's clip")
        assert (call.port.frames_lost, call.port.frames_concealed) == (0, 0)
        assert counted(call) == {"passed_over": 14}


async def test_what_the_callers_network_loses_is_concealed(begin: Begin) -> None:
    """Asterisk passes the caller's numbers on, holes and all."""
    async with begin() as call:
        for lost in (1, 3):
            # As if these had left and got lost: number and time go on.
            call.caller._stream._sequence += lost
            call.caller._stream._timestamp += lost * 160
            received = call.port.frames_received
            await wait_until(lambda received=received: call.port.frames_received > received + 15, what="the caller")
        assert (call.port.frames_lost, call.port.frames_concealed) == (4, 4)
        assert len(call.frames) == call.port.frames_received + 4
        assert counted(call) == {"lost": 4, "concealed": 4}


async def test_strangers_change_nothing(begin: Begin) -> None:
    async with begin() as call:
        host, _, port = (call.port.external_media().external_host or "").rpartition(":")
        with socket.socket(type=socket.SOCK_DGRAM) as stranger:
            stranger.bind(("127.0.0.1", 0))
            call.caller.speak(CALLERS_CLIP)
            sending = asyncio.create_task(call.say(OUR_CLIP))
            for number in range(100):
                stranger.sendto(encode(0, number, number * 160, 1, b"\0" * 160), (host, int(port)))
                stranger.sendto(secrets.token_bytes(100), (host, int(port)))
                await asyncio.sleep(0.01)
            await sending
            await wait_until(lambda: find_clip(call.caller.heard(), OUR_CLIP), what="our clip at the caller's")
            await wait_until(lambda: find_clip(call.heard(), CALLERS_CLIP), what="the caller's clip at ours")
            assert counted(call) == {"strangers": 200}
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(1)
