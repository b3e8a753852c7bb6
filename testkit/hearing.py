"""What was heard in a call: found bit for bit, timed, measured, written to a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from audio._audioop import audioop
from audio.formats import AudioFormat, Encoding
from audio.wav import write_stereo_wav
from testkit.caller import SipCaller
from testkit.codecs import codec_of, decoded
from testkit.rtp import RtpPacket, in_sequence, sequence_numbers

VOICE_LEVEL = 400
"""Root mean square of 16-bit samples above which a packet counts as voice."""
PACKET_S = 0.02
# μ-law has two zeros: 0x7F and 0xFF sound the same, and Asterisk makes one of the other. In other codecs these are two
# values that differ, but so does every other byte of a clip that is somewhere else.
_ONE_ZERO = bytes.maketrans(b"\x7f", b"\xff")


def find_clip(heard: bytes, clip: bytes) -> int | None:
    """Where ``clip`` was heard whole and bit for bit, in bytes; None if it was not."""
    found = heard.translate(_ONE_ZERO).find(clip.translate(_ONE_ZERO))
    return None if found < 0 else found


def clip_arrived_at(packets: Sequence[RtpPacket], clip: bytes) -> float | None:
    """When the packet with the first sample of ``clip`` arrived (monotonic seconds); None if it never did."""
    ordered = [packet for packet in in_sequence(list(packets)) if packet.is_sound]
    offset = find_clip(b"".join(packet.payload for packet in ordered), clip)
    if offset is None:
        return None
    for packet in ordered:
        offset -= len(packet.payload)
        if offset < 0:
            return packet.arrived_at
    return None


def gaps_ms(packets: Sequence[RtpPacket]) -> list[float]:
    """The time from each packet of sound to the next, by arrival; 20 each on a quiet machine."""
    arrivals = [packet.arrived_at for packet in packets if packet.is_sound]
    return [1000 * (later - earlier) for earlier, later in pairwise(arrivals)]


def lost_packets(packets: Sequence[RtpPacket]) -> int:
    """How many sequence numbers between the first packet and the last, keys included, never arrived."""
    numbers = sequence_numbers(packets)
    return max(numbers) - min(numbers) + 1 - len(set(numbers)) if numbers else 0


def is_voice(payload: bytes) -> bool:
    """Whether a packet's μ-law is as loud as voice."""
    return is_loud(audioop.ulaw2lin(payload, 2))


def is_loud(pcm: bytes) -> bool:
    """Whether 16-bit samples are as loud as voice."""
    return audioop.rms(pcm, 2) >= VOICE_LEVEL


@dataclass(slots=True, frozen=True)
class VoiceEdge:
    """The agent begins (``voice``) or ceases to be heard; ``at`` is the arrival in monotonic seconds."""

    at: float
    voice: bool


def voice_edges(packets: Sequence[RtpPacket], hang_ms: float = 200) -> list[VoiceEdge]:
    """Where voice begins and ends; pauses shorter than ``hang_ms`` belong to it."""
    edges: list[VoiceEdge] = []
    last_voice = float("-inf")
    speaking = False
    for packet, pcm in decoded(packets):
        if speaking and packet.arrived_at - last_voice > hang_ms / 1000:
            edges.append(VoiceEdge(last_voice + PACKET_S, voice=False))
            speaking = False
        if is_loud(pcm):
            if not speaking:
                edges.append(VoiceEdge(packet.arrived_at, voice=True))
                speaking = True
            last_voice = packet.arrived_at
    return edges


def longest_silence_ms(packets: Sequence[RtpPacket], after: float = float("-inf")) -> float:
    """The longest time without voice among the packets that arrived after ``after``."""
    longest, last = 0.0, None
    for packet, pcm in decoded(packets):
        if packet.arrived_at < after:
            continue
        if last is None:
            last = packet.arrived_at
        if is_loud(pcm):
            longest = max(longest, packet.arrived_at - last)
            last = packet.arrived_at
    return 1000 * longest


def write_call_wav(path: Path, call: SipCaller) -> None:
    """The call as stereo at its codec's rate: the caller on the left, what it heard on the right, by the clock.

    For a call that kept its codec.
    """
    codec = call.codec
    sent = [(at, payload) for at, payload in call.sent if payload]
    received = [packet for packet in call.received if codec_of(packet) is codec]
    starts = [at for at, _ in sent[:1]] + [packet.arrived_at for packet in received[:1]]
    if not starts:
        raise ValueError("nothing was sent or received")
    start = min(starts)
    decode = codec.new_decoder()
    left = _lay_out([(at - start, decode(payload)) for at, payload in sent], codec.rate_hz)
    right = _lay_out([(packet.arrived_at - start, pcm) for packet, pcm in decoded(received)], codec.rate_hz)
    size = max(len(left), len(right))
    rate = AudioFormat(Encoding.SLIN, codec.rate_hz)
    write_stereo_wav(path, left.ljust(size, b"\0"), right.ljust(size, b"\0"), rate)


def _lay_out(packets: Sequence[tuple[float, bytes]], rate_hz: int) -> bytes:
    """Packets as linear sound, each where it belongs; jitter of less than 60 ms does not move them."""
    sound = bytearray()
    for at, pcm in packets:
        behind = int(at * rate_hz) - len(sound) // 2
        if behind > 0.06 * rate_hz:
            sound += bytes(2 * behind)
        sound += pcm
    return bytes(sound)
