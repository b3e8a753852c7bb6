"""Spoken sentences through whole calls, in PESQ: what the caller hears of the agent, and the provider of the caller."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import numpy as np
import pytest

from audio.convert import convert
from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat, Encoding
from testkit.caller import SipCaller
from testkit.codecs import CODECS, Codec
from testkit.fidelity import CLIPS, SpokenClip, pesq_nb
from testkit.hearing import voice_edges
from testkit.openai_realtime import Reply, Script, Session
from testkit.waiting import wait_until
from tests.calls.conftest import Line, LineFactory

pytestmark = pytest.mark.asterisk

GATE = 4.35
MARGIN_S = 0.5
"""What the path may be late by, and what is not voice at the beginning of a clip."""
TRANSPORTS = ("audiosocket", "externalmedia", "websocket")


@dataclass
class Conversation:
    """A call in which the agent says ``clip``, and then the caller says it back."""

    clip: SpokenClip
    transport: str
    call: SipCaller
    session: Session

    @property
    def name(self) -> str:
        return f"{self.clip.name} over {self.transport} in {self.call.codec.name}"

    async def talk(self) -> None:
        spoken = slin(self.call.codec.rate_hz)
        said = self.clip.sound(spoken)
        duration_s = spoken.duration_ms(len(said)) / 1000
        packets, session = self.call.received, self.session
        await wait_until(lambda: bool(voice_edges(packets)), 10, f"the beginning of {self.name}")
        ends_at = voice_edges(packets)[0].at + duration_s + MARGIN_S
        await wait_until(lambda: packets[-1].arrived_at > ends_at, 10, f"the end of {self.name}")
        await self.call.speak_pcm(said).done
        spoken_at = time.monotonic()
        await wait_until(lambda: session.appends[-1].at > spoken_at + MARGIN_S, 10, f"the end of {self.name}")

    def reference(self) -> bytes:
        """The clip as the codec alone leaves it."""
        codec = self.call.codec
        encode, decode = codec.new_encoder(), codec.new_decoder()
        said, size = self.clip.sound(slin(codec.rate_hz)), codec.packet_pcm_bytes
        packets = [encode(said[start : start + size].ljust(size, b"\0")) for start in range(0, len(said), size)]
        return narrow(b"".join(map(decode, packets)), slin(codec.rate_hz))

    def heard(self) -> bytes:
        """By the caller."""
        return narrow(self.call.heard_pcm(), slin(self.call.codec.rate_hz))

    def received(self) -> bytes:
        """By the provider."""
        return narrow(bytes(self.session.received_audio), self.session.input_format)


def slin(rate_hz: int) -> AudioFormat:
    return AudioFormat(Encoding.SLIN, rate_hz)


def narrow(sound: bytes, audio_format: AudioFormat) -> bytes:
    return convert(sound, audio_format, SLIN_8K)


async def talk(line: Line, codec: Codec, transports: tuple[str, ...], spoken: AudioFormat) -> list[Conversation]:
    """Every clip over every transport, all at once, while the provider speaks ``spoken``."""
    async with AsyncExitStack() as calls:
        talked = [
            await connect(line, codec, transport, clip, spoken, calls) for transport in transports for clip in CLIPS
        ]
        await asyncio.gather(*(conversation.talk() for conversation in talked))
    return talked


async def connect(
    line: Line, codec: Codec, transport: str, clip: SpokenClip, spoken: AudioFormat, calls: AsyncExitStack
) -> Conversation:
    """A call that is answered; the agent begins to speak."""
    sound = clip.provider_sound() if spoken == SLIN_24K else clip.sound(spoken)
    line.double.script = Script(greeting=Reply(audio=sound, audio_format=spoken))
    sessions = line.double.sessions
    known = len(sessions)
    call = await calls.enter_async_context(line.caller(codec=codec.name, headers={"X-AI-Transport": transport}))
    await call.dial()
    await wait_until(lambda: len(sessions) > known, 10, "the provider's session")
    return Conversation(clip, transport, call, sessions[known])


def judge(talked: list[Conversation]) -> None:
    """Every clip in both directions against what its codec alone leaves of it."""
    failed = []
    for it in talked:
        reference = it.reference()
        for listener, sound in (("the caller", it.heard()), ("the provider", it.received())):
            score = pesq_nb(reference, sound)
            if score < GATE:
                failed.append(f"{it.name}: {listener} heard {score:.3f}")
    assert not failed, "\n".join(failed)


def level_above_telephone(sound: bytes, rate_hz: int) -> float:
    """Decibels of what is between 4 and 7 kHz."""
    samples = np.frombuffer(sound, "<i2").astype(float)
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequencies_hz = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    above = (frequencies_hz > 4000) & (frequencies_hz < 7000)
    # All the energy there is (Parseval), so that the silence around the speech makes no difference.
    return float(10 * np.log10(power[above].sum() / len(samples) / rate_hz))


@pytest.mark.parametrize(
    ("codec", "spoken"),
    # Over AudioSocket, which carries no A-law, too: what is companded twice would score 4.2 to 4.5.
    [("PCMU", ULAW_8K), ("PCMA", ALAW_8K), ("G722", SLIN_24K)],
)
async def test_speech_comes_through_as_well_as_its_codec_allows(
    open_line: LineFactory, codec: str, spoken: AudioFormat
) -> None:
    async with open_line(validate="first_of_kind") as line:
        talked = await talk(line, CODECS[codec], TRANSPORTS, spoken)
        await line.nothing_left()
    assert {(it.session.input_format, it.session.output_format) for it in talked} == {(spoken, spoken)}
    judge(talked)
    for it in talked if spoken == SLIN_24K else ():
        said_db = level_above_telephone(it.clip.sound(SLIN_16K), SLIN_16K.rate_hz)
        received = bytes(it.session.received_audio)
        assert abs(level_above_telephone(it.call.heard_pcm(), SLIN_16K.rate_hz) - said_db) < 3, it.name
        assert abs(level_above_telephone(received, SLIN_24K.rate_hz) - said_db) < 3, it.name
