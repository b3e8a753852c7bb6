"""The codecs that the test telephone speaks, 20 ms a packet.

Payload types are those that Asterisk itself gives to what has no static one; a phone that offers them is answered
with them, so that a packet's payload type tells its codec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from audio._audioop import audioop
from audio.g722 import G722Decoder, G722Encoder
from testkit.rtp import RtpPacket
from testkit.sdp import MediaFormat

Coder = Callable[[bytes], bytes]
"""From 16-bit little-endian sound to the payload of a packet, or back. May carry state: one belongs to one stream."""

PACKETS_PER_S = 50


@dataclass(slots=True, frozen=True)
class Codec:
    """How sound looks on the wire. Two objects of the same payload type are never in use."""

    media: MediaFormat
    rate_hz: int
    """Of the sound; that of the wire's clock may be another (RFC 3551: G.722 counts 8000)."""
    new_encoder: Callable[[], Coder]
    new_decoder: Callable[[], Coder]
    packet_bytes: int | None
    """Of one packet's payload; None where that varies."""
    padding: bytes
    """The byte that fills up a clip's last packet, as near to silence as a byte of this codec comes."""
    silence: bytes | None
    """The payload of a silent packet; None where that depends on what was said before."""

    @property
    def name(self) -> str:
        return self.media.encoding.upper()

    @property
    def packet_ticks(self) -> int:
        """By how much the timestamp goes on with each packet."""
        return self.media.clock_rate_hz // PACKETS_PER_S

    @property
    def packet_pcm_bytes(self) -> int:
        """Of one packet's sound as 16-bit samples."""
        return 2 * self.rate_hz // PACKETS_PER_S


def _byteswap(pcm: bytes) -> bytes:
    return audioop.byteswap(pcm, 2)


def _opus_encoder() -> Coder:
    from av.audio.codeccontext import AudioCodecContext
    from av.audio.frame import AudioFrame

    context = AudioCodecContext.create("libopus", "w")
    context.sample_rate, context.layout, context.format = 48000, "mono", "s16"
    context.bit_rate = 64000
    context.options = {"application": "audio", "frame_duration": "20", "vbr": "off"}
    frame = AudioFrame(format="s16", layout="mono", samples=960)
    frame.sample_rate = 48000

    def encode(pcm: bytes) -> bytes:
        frame.planes[0].update(pcm)
        return b"".join(bytes(packet) for packet in context.encode(frame))

    return encode


def _opus_decoder() -> Coder:
    from av.audio.codeccontext import AudioCodecContext
    from av.packet import Packet

    context = AudioCodecContext.create("libopus", "r")
    context.sample_rate, context.layout = 48000, "mono"

    def decode(payload: bytes) -> bytes:
        return b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in context.decode(Packet(payload)))

    return decode


PCMU = Codec(
    MediaFormat(0, "PCMU"),
    rate_hz=8000,
    new_encoder=lambda: lambda pcm: audioop.lin2ulaw(pcm, 2),
    new_decoder=lambda: lambda payload: audioop.ulaw2lin(payload, 2),
    packet_bytes=160,
    padding=b"\xff",
    silence=b"\xff" * 160,
)
PCMA = Codec(
    MediaFormat(8, "PCMA"),
    rate_hz=8000,
    new_encoder=lambda: lambda pcm: audioop.lin2alaw(pcm, 2),
    new_decoder=lambda: lambda payload: audioop.alaw2lin(payload, 2),
    packet_bytes=160,
    padding=b"\xd5",
    silence=b"\xd5" * 160,
)
G722 = Codec(
    MediaFormat(9, "G722"),
    rate_hz=16000,
    new_encoder=lambda: G722Encoder().encode,
    new_decoder=lambda: G722Decoder().decode,
    packet_bytes=160,
    padding=b"\xfa",
    silence=None,
)
L16 = Codec(
    MediaFormat(118, "L16", 16000),
    rate_hz=16000,
    new_encoder=lambda: _byteswap,
    new_decoder=lambda: _byteswap,
    packet_bytes=640,
    padding=b"\0",
    silence=bytes(640),
)
"""Big-endian on the wire; Asterisk calls it slin16."""
OPUS = Codec(
    MediaFormat(107, "opus", 48000, channels=2),
    rate_hz=48000,
    new_encoder=_opus_encoder,
    new_decoder=_opus_decoder,
    packet_bytes=None,
    padding=b"",
    silence=None,
)
"""Mono, though it is always announced with two channels (RFC 7587, 7). Through PyAV's libopus."""

CODECS = {codec.name: codec for codec in (PCMU, PCMA, G722, L16, OPUS)}
_BY_TYPE = {codec.media.payload_type: codec for codec in CODECS.values()}


def codec_of(packet: RtpPacket) -> Codec | None:
    """What a packet is spoken in; None for keys and whatever else a phone was not asked about."""
    return _BY_TYPE.get(packet.payload_type)


def decoded(packets: Iterable[RtpPacket]) -> Iterator[tuple[RtpPacket, bytes]]:
    """Each packet of sound with its sound, as 16-bit samples at its codec's rate. The order should be that of sending:
    some decoders remember."""
    decoders: dict[int, Coder] = {}
    for packet in packets:
        codec = codec_of(packet)
        if codec is None:
            continue
        decode = decoders.get(packet.payload_type)
        if decode is None:
            decode = decoders[packet.payload_type] = codec.new_decoder()
        yield packet, decode(packet.payload)
