"""RTP ports against a peer that is a bare UDP socket: formats, sources, faults, and the end."""

from __future__ import annotations

import asyncio
import math
import random
import resource
import socket
import struct
from array import array
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from audio._audioop import audioop
from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, ULAW_8K, AudioFormat
from testkit.waiting import wait_until
from transport.media import Closed, Connected, MediaUnavailable, PortEvent, Requirement
from transport.rtp import MAX_DATAGRAM_BYTES, RtpPort, RtpTransport
from transport.rtp_codec import RtpPacket, encode, parse

LOOPBACK = "127.0.0.1"
ELSEWHERE = "127.0.0.2"
"""Another address of this machine, which Linux has without being told."""
FRAME = bytes(range(160))
SSRC = 77


class Peer(asyncio.DatagramProtocol):
    """Asterisk's end, or a stranger's: a UDP socket that keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[RtpPacket] = []
        self.sources: set[tuple[str, int]] = set()
        self.address: tuple[str, int]
        self._transport: asyncio.DatagramTransport

    @classmethod
    async def open(cls, host: str = LOOPBACK) -> Self:
        peer = cls()
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: peer, (host, 0))
        peer._transport = transport
        peer.address = transport.get_extra_info("sockname")[:2]
        return peer

    @property
    def variables(self) -> dict[str, str]:
        return {"UNICASTRTP_LOCAL_ADDRESS": self.address[0], "UNICASTRTP_LOCAL_PORT": str(self.address[1])}

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.sources.add(addr[:2])
        self.received.append(parse(data))

    def throw(self, target: tuple[str, int], datagram: bytes) -> None:
        self._transport.sendto(datagram, target)

    def speak(
        self, target: tuple[str, int], number: int, payload: bytes = FRAME, *, payload_type: int = 0, ssrc: int = SSRC
    ) -> None:
        """Sends packet ``number`` of a stream."""
        self.throw(target, encode(payload_type, number & 0xFFFF, number * 160, ssrc, payload))

    def close(self) -> None:
        self._transport.close()


class Call:
    """A port, what it said, and a peer that Asterisk would be."""

    def __init__(self, transport: RtpTransport, peer: Peer, audio_format: AudioFormat) -> None:
        self.peer = peer
        self.heard: list[bytes] = []
        self.events: list[PortEvent] = []
        self.port: RtpPort = transport.open_port(uuid4(), audio_format)
        self.port.on_audio = self.heard.append
        self.port.on_event = self.events.append
        host, _, port = (self.port.external_media().external_host or "").rpartition(":")
        self.address = host.strip("[]"), int(port)

    async def join(self) -> Self:
        await self.port.join(self.peer.variables)
        return self

    async def heard_frames(self, count: int) -> list[bytes]:
        await wait_until(lambda: len(self.heard) >= count, what=f"{count} frames")
        return self.heard


class Exchange:
    """A transport, and the peers that a test opens."""

    def __init__(self) -> None:
        self._peers: list[Peer] = []
        self._transports: list[RtpTransport] = []

    async def transport(self, **options: object) -> RtpTransport:
        transport = RtpTransport(**options)  # type: ignore[arg-type]
        await transport.start()
        self._transports.append(transport)
        return transport

    async def peer(self, host: str = LOOPBACK) -> Peer:
        peer = await Peer.open(host)
        self._peers.append(peer)
        return peer

    async def call(self, audio_format: AudioFormat = ULAW_8K, **options: object) -> tuple[RtpTransport, Call]:
        """A call that has joined."""
        transport = await self.transport(**options)
        return transport, await Call(transport, await self.peer(), audio_format).join()

    async def close(self) -> None:
        for transport in self._transports:
            await transport.close()
        for peer in self._peers:
            peer.close()
        await asyncio.sleep(0)  # the sockets are closed by the loop's next turn


def counted(transport: RtpTransport) -> dict[str, int]:
    """The counters that are not zero."""
    return {name: count for name, count in transport.counters.items() if count}


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    exchange = Exchange()
    yield exchange
    await exchange.close()


# --- sound, both ways


async def test_the_port_speaks_first_and_from_where_it_listens(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    assert call.events == [Connected()]
    frames = [bytes([number]) * 160 for number in range(5)]
    for frame in frames:
        call.port.send(frame)
    await wait_until(lambda: len(call.peer.received) == 5)
    packets = call.peer.received
    assert call.peer.sources == {call.address}
    assert [packet.payload for packet in packets] == frames
    assert [packet.marker for packet in packets] == [True, False, False, False, False]
    assert [(packet.sequence - packets[0].sequence) & 0xFFFF for packet in packets] == [0, 1, 2, 3, 4]
    assert [(packet.timestamp - packets[0].timestamp) & 0xFFFFFFFF for packet in packets] == [0, 160, 320, 480, 640]
    assert {(packet.ssrc, packet.payload_type) for packet in packets} == {(packets[0].ssrc, 0)}
    assert (call.port.frames_sent, call.port.frames_dropped) == (5, 0)

    for number, frame in enumerate(frames):
        call.peer.speak(call.address, number, frame)
    assert await call.heard_frames(5) == frames
    assert (call.port.frames_received, call.port.frames_lost, call.port.frames_concealed) == (5, 0, 0)
    assert counted(transport) == {}


@pytest.mark.parametrize(
    ("audio_format", "name", "payload_type", "wire"),
    [
        (ULAW_8K, "ulaw", 0, FRAME),
        (ALAW_8K, "alaw", 8, FRAME),
        (SLIN_8K, "slin", 10, audioop.byteswap(FRAME * 2, 2)),
    ],
    ids=str,
)
async def test_formats_of_8_khz(
    exchange: Exchange, audio_format: AudioFormat, name: str, payload_type: int, wire: bytes
) -> None:
    _, call = await exchange.call(audio_format)
    assert call.port.external_media().format == name
    frame = (FRAME * 2)[: audio_format.frame_bytes]
    call.port.send(frame)
    call.port.send(frame)
    await wait_until(lambda: len(call.peer.received) == 2)
    first, second = call.peer.received
    assert (first.payload_type, first.payload) == (payload_type, wire)
    assert (second.timestamp - first.timestamp) & 0xFFFFFFFF == 160
    call.peer.speak(call.address, 1, wire, payload_type=payload_type)
    assert await call.heard_frames(1) == [frame]


async def test_16_khz_goes_as_g722(exchange: Exchange) -> None:
    _, call = await exchange.call(SLIN_16K)
    assert call.port.external_media().format == "g722"
    sound = array("h", (round(6000 * math.sin(n / 4)) for n in range(320 * 25))).tobytes()
    for start in range(0, len(sound), 640):
        call.port.send(sound[start : start + 640])
    await wait_until(lambda: len(call.peer.received) == 25)
    first, *_, last = packets = call.peer.received
    assert {(packet.payload_type, len(packet.payload)) for packet in packets} == {(9, 160)}
    assert (last.timestamp - first.timestamp) & 0xFFFFFFFF == 24 * 160
    # Back again, one lost on the way: 20 ms of it are 320 samples.
    for number, packet in enumerate(packets):
        if number != 10:
            call.peer.speak(call.address, number, packet.payload, payload_type=9)
    heard = b"".join(await call.heard_frames(25))
    assert len(heard) == len(sound)
    assert call.port.frames_concealed == 1
    offset, factor = audioop.findfit(heard[:1280], sound[320:1120])
    assert offset >= 0
    assert factor == pytest.approx(1, abs=0.05)


async def test_frames_of_any_length_are_taken_whole(exchange: Exchange) -> None:
    _, call = await exchange.call()
    for number, size in enumerate((80, 240, 480, 1200)):
        call.peer.speak(call.address, number, bytes(size))
    assert [len(frame) for frame in await call.heard_frames(4)] == [80, 240, 480, 1200]


async def test_what_is_lost_is_concealed_though_nothing_more_comes(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    for number in (0, 1, 2, 3, 4, 6):
        call.peer.speak(call.address, number)
    heard = await call.heard_frames(7)
    assert [frame == FRAME for frame in heard[:5]] == [True] * 5
    assert len(heard[5]) == 160
    assert heard[6][-100:] == FRAME[-100:]
    assert (call.port.frames_received, call.port.frames_lost, call.port.frames_concealed) == (6, 1, 1)
    assert counted(transport) == {"lost": 1, "concealed": 1}
    call.port.close()
    assert counted(transport) == {"lost": 1, "concealed": 1}


async def test_disorder_is_mended(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    for number in (0, 1, 3, 2, 2, 4):
        call.peer.speak(call.address, number, bytes([number]) * 160)
    assert await call.heard_frames(5) == [bytes([number]) * 160 for number in range(5)]
    await wait_until(lambda: counted(transport) == {"reordered": 1, "duplicate": 1})


async def test_other_payload_types_are_not_heard(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    call.peer.speak(call.address, 0)
    call.peer.speak(call.address, 1, b"\x01\x0a\x00\xa0", payload_type=101)
    call.peer.speak(call.address, 2, b"\x10" * 10, payload_type=13)
    call.peer.speak(call.address, 3)
    assert await call.heard_frames(2) == [FRAME, FRAME]
    assert counted(transport) == {"foreign_type": 2}


# --- where the other end is


@pytest.mark.parametrize("useless", ["0.0.0.0", "", "::"])
async def test_a_useless_address_is_replaced_by_the_configured_one(exchange: Exchange, useless: str) -> None:
    transport = await exchange.transport(asterisk_host="localhost")
    peer = await exchange.peer()
    call = Call(transport, peer, ULAW_8K)
    await call.port.join(peer.variables | {"UNICASTRTP_LOCAL_ADDRESS": useless})
    call.port.send(FRAME)
    await wait_until(lambda: len(peer.received) == 1)
    peer.speak(call.address, 1)
    assert await call.heard_frames(1) == [FRAME]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"UNICASTRTP_LOCAL_ADDRESS": LOOPBACK},
        {"UNICASTRTP_LOCAL_ADDRESS": LOOPBACK, "UNICASTRTP_LOCAL_PORT": ""},
        {"UNICASTRTP_LOCAL_ADDRESS": LOOPBACK, "UNICASTRTP_LOCAL_PORT": "0"},
        {"UNICASTRTP_LOCAL_ADDRESS": LOOPBACK, "UNICASTRTP_LOCAL_PORT": "65536"},
        {"UNICASTRTP_LOCAL_ADDRESS": LOOPBACK, "UNICASTRTP_LOCAL_PORT": "x"},
        {"UNICASTRTP_LOCAL_ADDRESS": "nobody.invalid", "UNICASTRTP_LOCAL_PORT": "4000"},
    ],
)
async def test_no_address_no_wire(exchange: Exchange, variables: dict[str, str]) -> None:
    transport = await exchange.transport()
    call = Call(transport, await exchange.peer(), ULAW_8K)
    with pytest.raises(MediaUnavailable):
        await call.port.join(variables)
    call.port.send(FRAME)
    assert (call.events, call.port.frames_dropped) == ([], 1)


async def test_joining_twice_or_after_the_end_is_refused(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    with pytest.raises(MediaUnavailable):
        await call.join()
    closed = Call(transport, call.peer, ULAW_8K)
    closed.port.close()
    with pytest.raises(MediaUnavailable):
        await closed.join()
    assert (call.events, closed.events) == ([Connected()], [])


async def test_ipv6(exchange: Exchange) -> None:
    try:
        peer = await exchange.peer("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    transport = await exchange.transport(host="::1", asterisk_host="::1")
    call = await Call(transport, peer, ULAW_8K).join()
    assert call.port.external_media().external_host == f"[::1]:{call.address[1]}"
    call.port.send(FRAME)
    await wait_until(lambda: len(peer.received) == 1)
    peer.speak(call.address, 1)
    assert await call.heard_frames(1) == [FRAME]


def test_a_wildcard_must_be_told_how_it_is_reached() -> None:
    with pytest.raises(ValueError, match="advertise_host"):
        RtpTransport("0.0.0.0")
    assert RtpTransport("0.0.0.0", advertise_host="192.0.2.1").advertised_host == "192.0.2.1"


def test_what_asterisk_needs() -> None:
    assert RtpTransport().requirement(ULAW_8K) == Requirement(("chan_rtp.so", "res_rtp_asterisk.so"))
    assert "codec_g722.so" in RtpTransport().requirement(SLIN_16K).modules


# --- who may speak


async def test_strangers_are_neither_heard_nor_answered(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    strangers = [await exchange.peer(ELSEWHERE), await exchange.peer()]
    call.peer.speak(call.address, 0)
    await call.heard_frames(1)
    for number in range(1, 20):
        # The very packet that is expected next, and from the address that is allowed.
        for stranger in strangers:
            stranger.speak(call.address, number, b"\0" * 160)
        await wait_until(lambda number=number: transport.counters["strangers"] == 2 * number)
        call.peer.speak(call.address, number)
        call.port.send(FRAME)
    assert await call.heard_frames(20) == [FRAME] * 20
    await wait_until(lambda: len(call.peer.received) == 19)
    assert [stranger.received for stranger in strangers] == [[], []]
    assert counted(transport) == {"strangers": 38}


async def test_sound_may_come_from_another_port_of_asterisk_until_the_announced_one_speaks(
    exchange: Exchange,
) -> None:
    transport, call = await exchange.call()
    other = await exchange.peer()
    for number in range(3):
        other.speak(call.address, number, b"\1" * 160)
    await call.heard_frames(3)
    # We keep sending to where Asterisk said.
    call.port.send(FRAME)
    await wait_until(lambda: len(call.peer.received) == 1)
    assert other.received == []
    for number in range(3):
        call.peer.speak(call.address, number + 500, ssrc=1)
    assert await call.heard_frames(6) == [b"\1" * 160] * 3 + [FRAME] * 3
    other.speak(call.address, 3, b"\1" * 160)
    await wait_until(lambda: counted(transport) == {"strangers": 1, "restarts": 1})


async def test_the_first_to_speak_keeps_the_line(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    first, second = await exchange.peer(), await exchange.peer()
    first.speak(call.address, 0)
    await call.heard_frames(1)
    second.speak(call.address, 1, b"\1" * 160)
    await wait_until(lambda: transport.counters["strangers"] == 1)
    first.speak(call.address, 1)
    assert await call.heard_frames(2) == [FRAME] * 2


async def test_other_hosts_may_be_allowed(exchange: Exchange) -> None:
    transport, call = await exchange.call(allowed_hosts=[ELSEWHERE])
    (await exchange.peer("127.0.0.3")).speak(call.address, 0, b"\1" * 160)
    await wait_until(lambda: transport.counters["strangers"] == 1)
    (await exchange.peer(ELSEWHERE)).speak(call.address, 0)
    assert await call.heard_frames(1) == [FRAME]


async def test_rubbish_does_not_lock_the_line(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    (await exchange.peer()).throw(call.address, b"rubbish")
    await wait_until(lambda: transport.counters["malformed"] == 1)
    (await exchange.peer()).speak(call.address, 0)
    assert await call.heard_frames(1) == [FRAME]


# --- faults


async def test_rubbish_is_counted_and_one_line_is_logged(exchange: Exchange) -> None:
    with capture_logs() as lines:
        transport, call = await exchange.call(SLIN_8K)
        wire = FRAME * 2
        chance = random.Random(3)
        rubbish = [
            b"\x00",
            b"\x80",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xbf" + bytes(30),
            bytes(172),
            encode(10, 5, 5, 5, b"odd"),
            encode(10, 1, 160, SSRC, bytes(MAX_DATAGRAM_BYTES)),
            bytes(60_000),
            *(b"\x41" + chance.randbytes(50) for _ in range(100)),
        ]
        reports = [struct.pack("!BBHI", 0x80, kind, 6, SSRC) + bytes(20) for kind in range(200, 205)]
        for number, datagram in enumerate(rubbish + reports, 1):
            call.peer.throw(call.address, datagram)
            if number % 10 == 8:  # no more at once than the socket's buffer takes
                await wait_until(lambda number=number: sum(transport.counters.values()) == number)
        for number in range(3):
            call.peer.speak(call.address, number, wire, payload_type=10)
        assert await call.heard_frames(3) == [audioop.byteswap(wire, 2)] * 3
        await asyncio.sleep(0)
    assert counted(transport) == {"malformed": len(rubbish), "rtcp": 5}
    assert [line["event"] for line in lines if line["log_level"] != "info"] == ["rtp_fault_noticed"]


async def test_an_unreachable_peer_does_not_end_the_call(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    call.peer.close()
    await asyncio.sleep(0)
    # On Linux nobody tells an unconnected socket that nobody is there.
    for _ in range(10):
        call.port.send(FRAME)
    assert call.port.frames_sent == 10
    # This address the kernel refuses, each time.
    refused = Call(transport, call.peer, ULAW_8K)
    await refused.port.join({"UNICASTRTP_LOCAL_ADDRESS": "255.255.255.255", "UNICASTRTP_LOCAL_PORT": "9"})
    for _ in range(10):
        refused.port.send(FRAME)
    assert (refused.port.frames_sent, refused.port.frames_dropped) == (0, 10)
    assert (call.events, refused.events) == ([Connected()], [Connected()])
    assert counted(transport) == {"icmp_errors": 10}


async def test_an_error_that_the_loop_reports_is_counted(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    assert call.port._endpoint is not None
    # A connected socket is told that nobody is there, as other systems tell all.
    silent = await exchange.peer()
    call.port._socket.connect(silent.address)
    silent.close()
    await asyncio.sleep(0)

    def told() -> bool:
        # An error that has come already is told to whoever sends next instead.
        with suppress(ConnectionRefusedError):
            call.port._socket.send(b"x")
        return bool(counted(transport))

    await wait_until(told)
    assert set(counted(transport)) == {"icmp_errors"}
    assert call.events == [Connected()]


async def test_a_socket_that_breaks_ends_the_call(exchange: Exchange) -> None:
    _, call = await exchange.call()
    assert call.port._endpoint is not None
    call.port._endpoint.abort()
    await wait_until(lambda: len(call.events) == 2)
    assert isinstance(call.events[1], Closed)
    call.port.send(FRAME)
    assert call.port.frames_dropped == 1


# --- ports


def free_ports(count: int) -> range:
    """Neighbouring ports that are free."""
    while True:
        first = random.randrange(40_000, 60_000)
        sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(count)]
        try:
            for number, free in enumerate(sockets):
                free.bind((LOOPBACK, first + number))
        except OSError:
            continue
        else:
            return range(first, first + count)
        finally:
            for free in sockets:
                free.close()


async def test_ports_run_out_and_come_back(exchange: Exchange) -> None:
    transport, call = await exchange.call(ports=free_ports(3))
    others = [Call(transport, call.peer, ULAW_8K) for _ in range(2)]
    assert len({call.address, *(other.address for other in others)}) == 3
    with pytest.raises(MediaUnavailable, match="no RTP port"):
        transport.open_port(uuid4(), ULAW_8K)
    assert counted(transport) == {"ports_exhausted": 1}
    # One that has joined, and one that has not.
    for gone in (call, others[0]):
        gone.port.close()
        await asyncio.sleep(0.01)
        assert Call(transport, call.peer, ULAW_8K).address == gone.address


async def test_ports_go_round_and_pass_over_those_of_others(exchange: Exchange) -> None:
    ports = free_ports(4)
    transport = await exchange.transport(ports=ports)
    taken = socket.socket(type=socket.SOCK_DGRAM)
    taken.bind((LOOPBACK, ports[1]))
    used = []
    for _ in range(6):
        call = Call(transport, await exchange.peer(), ULAW_8K)
        used.append(call.address[1])
        call.port.close()
    taken.close()
    assert set(used[:3]) == set(used[3:]) == {ports[0], ports[2], ports[3]}


async def test_thousands_of_calls(exchange: Exchange) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
    try:
        transport = await exchange.transport(ports=range(21_000, 25_000))
        allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert allowed == min(5024, before[1])
        peer = await exchange.peer()
        calls = [await Call(transport, peer, ULAW_8K).join() for _ in range(min(2000, allowed - 200))]
        for call in calls:
            peer.speak(call.address, 0)
            call.port.send(FRAME)
        await wait_until(lambda: all(call.heard for call in calls))
        await transport.close()
        await asyncio.sleep(0.05)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- the end


async def test_a_closed_port_is_quiet_and_says_nothing_of_it(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    call.peer.speak(call.address, 0)
    await call.heard_frames(1)
    call.peer.speak(call.address, 2)
    await wait_until(lambda: call.port._incoming.due is not None)
    call.port.close()
    call.port.close()
    call.port.send(FRAME)
    call.port.flush()
    await asyncio.sleep(0.15)  # beyond the time at which the hole would have been concealed
    assert (call.heard, call.events, call.peer.received) == ([FRAME], [Connected()], [])
    assert call.port.frames_dropped == 1
    await transport.close()


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("way", ["close", "cancel"])
async def test_the_end_may_come_while_it_joins(exchange: Exchange, way: str, turns: int) -> None:
    transport = await exchange.transport()
    call = Call(transport, await exchange.peer(), ULAW_8K)
    joining = asyncio.create_task(call.join())
    for _ in range(turns):
        await asyncio.sleep(0)
    if way == "cancel":
        joining.cancel()
    else:
        call.port.close()
    (outcome,) = await asyncio.gather(joining, return_exceptions=True)
    call.port.close()
    await wait_until(lambda: call.port._socket.fileno() == -1)
    assert isinstance(outcome, Call | MediaUnavailable | asyncio.CancelledError)
    assert (call.events == [Connected()]) == isinstance(outcome, Call)


async def test_whoever_listens_may_close(exchange: Exchange) -> None:
    _, call = await exchange.call()

    def hear(frame: bytes) -> None:
        call.heard.append(frame)
        if len(call.heard) == 2:
            call.port.close()

    call.port.on_audio = hear
    # Of these the last lets three leave at once.
    for number in (10, 12, 13, 11):
        call.peer.speak(call.address, number)
    await call.heard_frames(2)
    await asyncio.sleep(0.02)
    assert call.heard == [FRAME] * 2


async def test_closing_the_transport_closes_its_ports(exchange: Exchange) -> None:
    transport, call = await exchange.call()
    waiting = Call(transport, call.peer, ULAW_8K)
    await transport.close()
    for port in (call.port, waiting.port):
        port.send(FRAME)
        assert port.frames_dropped == 1
    assert (call.events, waiting.events) == ([Connected()], [])
    await asyncio.sleep(0.01)
    assert call.port._socket.fileno() == waiting.port._socket.fileno() == -1
