"""A caller who takes turns by ear: speaks when the agent has finished, or on purpose while it has not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from testkit.caller import SipCaller
from testkit.hearing import PACKET_S, is_voice
from testkit.rtp import RtpPacket
from testkit.rtp_stream import FRAME_SAMPLES

POLL_S = 0.02


class CallEndedError(Exception):
    """The other side hung up while the caller was listening."""


@dataclass(slots=True)
class Said:
    """Something that the caller said; times in ``time.monotonic()`` seconds."""

    first_voice_at: float
    last_voice_at: float


class Ear:
    """Follows what arrives in a call, as it arrives."""

    def __init__(self, call: SipCaller) -> None:
        self._call = call
        self._read = 0
        self.last_voice_at = float("-inf")

    async def wait_for_voice(self, after: float, timeout_s: float = 10) -> float:
        """When the first voice after ``after`` arrived. Raises TimeoutError or CallEndedError."""
        async with asyncio.timeout(timeout_s):
            while True:
                for packet in self._new():
                    if packet.arrived_at > after and self.last_voice_at == packet.arrived_at:
                        return packet.arrived_at
                await self._pause()

    async def wait_for_quiet(self, quiet_s: float, timeout_s: float = 30) -> None:
        """Waits until the agent has been silent for ``quiet_s``. Raises TimeoutError or CallEndedError."""
        async with asyncio.timeout(timeout_s):
            while True:
                for _ in self._new():
                    pass
                if time.monotonic() - self.last_voice_at >= quiet_s:
                    return
                await self._pause()

    def _new(self) -> Iterator[RtpPacket]:
        packets = self._call.received
        while self._read < len(packets):
            packet = packets[self._read]
            self._read += 1
            if is_voice(packet.payload):
                self.last_voice_at = packet.arrived_at
            yield packet

    async def _pause(self) -> None:
        if self._call.ended_by is not None:
            raise CallEndedError(f"hung up by the {self._call.ended_by}")
        await asyncio.sleep(POLL_S)


async def say(call: SipCaller, sound: bytes) -> Said:
    """Says something to its end; tells when its voice began and ended, silence around it left out."""
    frames = [sound[start : start + FRAME_SAMPLES] for start in range(0, len(sound), FRAME_SAMPLES)]
    voiced = [number for number, frame in enumerate(frames) if is_voice(frame.ljust(FRAME_SAMPLES, b"\xff"))]
    utterance = call.speak(sound)
    started = await utterance.started
    await utterance.done
    return Said(started + voiced[0] * PACKET_S, started + (voiced[-1] + 1) * PACKET_S)
