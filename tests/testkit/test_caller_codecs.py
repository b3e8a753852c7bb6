"""The telephone in every codec that Asterisk takes: bit for bit, keys, changes in mid-call, and without a voice."""

from __future__ import annotations

import asyncio
import math
import socket
from array import array
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from testkit import rtp
from testkit.asterisk import AsteriskInstance
from testkit.caller import CallRejected, SipCaller
from testkit.codecs import CODECS, G722, OPUS, PCMA, PCMU, Codec, codec_of
from testkit.hearing import find_clip, lost_packets, voice_edges, write_call_wav
from testkit.rtp import RtpPacket
from testkit.rtp_stream import CallOverError, RtpStream
from testkit.sdp import MediaFormat
from testkit.speech import noise
from testkit.waiting import wait_until

ECHO = "600"
ALL = list(CODECS)
OF_FIXED_SIZE = [name for name in ALL if name != OPUS.name]


def phone(asterisk: AsteriskInstance, *codecs: str, sends: bool = True) -> SipCaller:
    return SipCaller(server=("127.0.0.1", asterisk.sip_port), extension=ECHO, codecs=codecs, sends=sends)


def sine(codec: Codec, duration_ms: int, frequency_hz: float = 440) -> bytes:
    samples = codec.rate_hz * duration_ms // 1000
    wave = (int(8000 * math.sin(2 * math.pi * frequency_hz * n / codec.rate_hz)) for n in range(samples))
    return array("h", wave).tobytes()


def likeness(heard: bytes, said: bytes) -> float:
    """The highest correlation of what was said with any stretch of what was heard, 0 … 1."""
    found, wanted = (np.frombuffer(pcm, dtype="<i2").astype(float) for pcm in (heard, said))
    if len(found) < len(wanted):
        return 0.0
    products = np.correlate(found, wanted, "valid")
    energies = np.convolve(found**2, np.ones(len(wanted)), "valid")
    return float(np.max(products / np.sqrt(np.maximum(energies, 1.0) * np.sum(wanted**2))))


def key_packets(call: SipCaller) -> int:
    return sum(not packet.is_sound for packet in call.received)


# --- the codecs themselves


@pytest.mark.parametrize("name", ALL)
def test_what_is_encoded_decodes_to_what_it_was(name: str) -> None:
    codec = CODECS[name]
    encode, decode = codec.new_encoder(), codec.new_decoder()
    said = sine(codec, 400)
    size = codec.packet_pcm_bytes
    packets = [encode(said[start : start + size]) for start in range(0, len(said), size)]
    if codec.packet_bytes is not None:
        assert {len(packet) for packet in packets} == {codec.packet_bytes}
    heard = b"".join(decode(packet) for packet in packets)
    assert len(heard) == len(said)
    assert likeness(heard, said[: len(said) // 2]) > 0.99


@pytest.mark.parametrize("codec", CODECS.values(), ids=ALL)
def test_silence_is_silent(codec: Codec) -> None:
    payload = codec.silence or codec.new_encoder()(bytes(codec.packet_pcm_bytes))
    samples = array("h", codec.new_decoder()(payload))
    assert len(samples) == codec.rate_hz // 50
    assert max(map(abs, samples)) < 64
    if codec.packet_bytes is not None:
        padded = array("h", codec.new_decoder()(codec.padding * codec.packet_bytes))
        assert max(map(abs, padded)) < 64


# --- calls

pytestmark = pytest.mark.asterisk


@pytest.mark.parametrize("name", OF_FIXED_SIZE)
async def test_the_echo_is_heard_bit_for_bit_with_keys_in_between(asterisk: AsteriskInstance, name: str) -> None:
    clip, after = noise(500, seed=1), noise(300, seed=2)
    async with phone(asterisk, name) as call:
        await call.dial()
        assert call.codec is CODECS[name]
        call.speak(clip)
        call.dtmf("12")
        call.speak(after)
        await wait_until(lambda: find_clip(call.heard(), after))
        assert find_clip(call.heard(), clip) is not None
        assert key_packets(call) > 0
        assert lost_packets(call.received) == 0
        call.dtmf("#")
        await call.wait_ended(5)  # which only a well-formed key makes Asterisk's echo do


@pytest.mark.parametrize("name", ALL)
async def test_what_is_said_as_samples_is_heard_as_samples(
    asterisk: AsteriskInstance, name: str, tmp_path: Path
) -> None:
    codec = CODECS[name]
    said = sine(codec, 300)
    async with phone(asterisk, name) as call:
        await call.dial()
        await call.speak_pcm(said).done
        await wait_until(lambda: likeness(call.heard_pcm(), said[: len(said) * 2 // 3]) > 0.95, 5, "the tone")
        assert {codec_of(packet) for packet in call.received} == {codec}
        begun = next(edge for edge in voice_edges(call.received) if edge.voice)
        assert begun.at > (call.answered_at or math.inf)
        call.dtmf("#")
        await call.wait_ended(5)
        write_call_wav(tmp_path / "call.wav", call)
    size = (tmp_path / "call.wav").stat().st_size
    assert size > 4 * codec.rate_hz * 0.3


async def test_opus_is_spoken_as_samples_only(asterisk: AsteriskInstance) -> None:
    async with phone(asterisk, OPUS.name) as call:
        with pytest.raises(ValueError, match="PCM"):
            call.speak(b"sound")


async def test_of_several_codecs_one_is_spoken(asterisk: AsteriskInstance) -> None:
    clip = noise(300, seed=3)
    async with phone(asterisk, G722.name, PCMA.name) as call:
        await call.dial()
        assert call.codec in (G722, PCMA)
        call.speak(clip)
        await wait_until(lambda: find_clip(call.heard(), clip))
        assert {codec_of(packet) for packet in call.received} == {call.codec}


@pytest.fixture
def speex(monkeypatch: pytest.MonkeyPatch) -> str:
    """A codec that our Asterisk does not speak."""
    monkeypatch.setitem(CODECS, "SPEEX", replace(PCMU, media=MediaFormat(110, "speex")))
    return "SPEEX"


async def test_a_codec_that_the_other_side_does_not_speak_is_refused(asterisk: AsteriskInstance, speex: str) -> None:
    async with phone(asterisk, speex) as call:
        with pytest.raises(CallRejected, match="488"):
            await call.dial()


async def test_a_change_that_is_refused_leaves_the_call_as_it_was(asterisk: AsteriskInstance, speex: str) -> None:
    before, after = noise(300, seed=8), noise(300, seed=9)
    async with phone(asterisk, PCMU.name) as call:
        await call.dial()
        with pytest.raises(CallRejected, match="re-INVITE"):
            await call.reinvite(codec=speex, direction="inactive", move=True)
        call.speak(before)
        await wait_until(lambda: find_clip(call.heard(), before))
        await call.reinvite()
        call.speak(after)
        await wait_until(lambda: find_clip(call.heard(), after))
        assert lost_packets(call.received) == 0


async def test_a_call_goes_on_in_another_codec_at_another_port(asterisk: AsteriskInstance) -> None:
    """The echo, begun in μ-law, goes on through it: what it returns is alike, no longer the same bit for bit."""
    async with phone(asterisk, PCMU.name) as call:
        await call.dial()
        cut_short = call.speak(noise(60_000, seed=7))
        await cut_short.started
        for codec in (G722, OPUS, PCMA):
            await call.reinvite(codec=codec.name)
            assert call.codec is codec
            await hear_tone(call, 440)
        with pytest.raises(CallOverError, match="codec"):
            await cut_short.done
        old = call._offer.port
        await call.reinvite(move=True)
        assert call._offer.port != old
        await hear_tone(call, 600)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", old))  # given back
        assert call.codec is PCMA


async def hear_tone(call: SipCaller, frequency_hz: float) -> None:
    said = sine(call.codec, 300, frequency_hz)
    call.speak_pcm(said)
    await wait_until(lambda: likeness(call.heard_pcm(), said[: len(said) // 2]) > 0.95, 5, "the tone")


async def test_a_direction_that_forbids_sending_is_obeyed(asterisk: AsteriskInstance) -> None:
    async with phone(asterisk, PCMA.name) as call:
        await call.dial()
        await wait_until(lambda: len(call.sent) > 5)
        await call.reinvite(direction="inactive")
        sent = len(call.sent)
        await asyncio.sleep(0.2)
        assert len(call.sent) == sent
        await call.reinvite(direction="sendrecv")
        await wait_until(lambda: len(call.sent) > sent + 5)


async def test_a_phone_that_sends_nothing_until_it_does(asterisk: AsteriskInstance) -> None:
    clip = noise(300, seed=9)
    async with phone(asterisk, PCMU.name, sends=False) as call:
        await call.dial()
        spoken = call.speak(clip)
        await asyncio.sleep(0.3)
        assert call.sent == []
        assert not spoken.started.settled
        assert call.received == [], "an echo has nothing to say then"
        call.resume_sending()
        await wait_until(lambda: find_clip(call.heard(), clip))
        call.stop_sending()
        sent = len(call.sent)
        await asyncio.sleep(0.2)
        assert len(call.sent) == sent
        call.resume_sending()
        await wait_until(lambda: len(call.sent) > sent)


@pytest.mark.parametrize("codec", CODECS.values(), ids=ALL)
async def test_after_a_pause_the_clock_has_gone_on_and_the_numbers_have_not(codec: Codec) -> None:
    stream = RtpStream(codec)
    await stream.open()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        far.setblocking(False)

        async def hear() -> RtpPacket:
            async with asyncio.timeout(5):
                return rtp.parse(await asyncio.get_running_loop().sock_recv(far, 2000))

        stream.start(far.getsockname(), codec, 99, 98)
        packets = [await hear() for _ in range(5)]
        stream.press("1")
        packets += [await hear() for _ in range(12)]
        stream.sends = False
        await asyncio.sleep(0.2)
        with suppress(BlockingIOError):
            while True:
                packets.append(rtp.parse(far.recv(2000)))
        stream.sends = True
        packets += [await hear() for _ in range(5)]
        stream.close()
    resumed = packets[-5:]
    assert [packet.marker for packet in resumed] == [True] + [False] * 4
    numbers = [packet.sequence for packet in packets]
    assert numbers == [(numbers[0] + n) & 0xFFFF for n in range(len(numbers))]
    sound = [packet for packet in packets if packet.payload_type == 99]
    assert len(sound) < len(packets)
    steps = [(later.timestamp - earlier.timestamp) & 0xFFFFFFFF for earlier, later in pairwise(sound)]
    assert all(step % codec.packet_ticks == 0 for step in steps)
    assert max(steps[-5:]) > 5 * codec.packet_ticks
    assert sum(steps) // codec.packet_ticks >= len(sound)
