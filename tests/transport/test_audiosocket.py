from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from testkit.waiting import wait_until
from transport.audiosocket import MAX_BACKLOG_MS, AudioSocketPort, AudioSocketTransport
from transport.audiosocket_codec import (
    AudioReceived,
    DigitReceived,
    ErrorReceived,
    HangupReceived,
    Identified,
    encode,
    encode_audio,
)
from transport.media import Closed, Connected, DtmfReceived, PortEvent

FRAME = bytes(range(160)) * 2
REFUSED = encode(ErrorReceived(b"\x01"))
NOT_UNDERSTOOD = encode(ErrorReceived(b"\x02"))


class Listener:
    """An AudioSocketTransport, the calls that wait for Asterisk, and what Asterisk's side would do."""

    def __init__(self, transport: AudioSocketTransport) -> None:
        self.transport = transport
        self.waiting: dict[UUID, AudioSocketPort] = {}
        self.peers: list[Peer] = []

    @property
    def counters(self) -> dict[str, int]:
        """Those that are not zero."""
        counters = self.transport.counters
        return {name: count for name in counters.__slots__ if (count := getattr(counters, name))}

    def claim(self, media_id: UUID) -> AudioSocketPort | None:
        return self.waiting.pop(media_id, None)

    def expect_call(self) -> Call:
        call = Call(uuid4(), self.transport.open_port())
        self.waiting[call.media_id] = call.port
        return call

    async def connect(self, hello: bytes = b"") -> Peer:
        reader, writer = await asyncio.open_connection(*self.transport.address)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        writer.write(hello)
        return peer

    async def live_call(self) -> tuple[Call, Peer]:
        call = self.expect_call()
        peer = await self.connect(encode(Identified(call.media_id)))
        await wait_until(lambda: call.events == [Connected()])
        return call, peer


class Call:
    def __init__(self, media_id: UUID, port: AudioSocketPort) -> None:
        self.media_id = media_id
        self.port = port
        self.events: list[PortEvent] = []
        self.heard: list[bytes] = []
        port.on_event = self.events.append
        port.on_audio = self.heard.append

    @property
    def hello(self) -> bytes:
        return encode(Identified(self.media_id))

    async def ended(self) -> str:
        """The reason of ``Closed``, the last event and the only one of its kind."""
        await wait_until(lambda: self.events and isinstance(self.events[-1], Closed))
        closed = [event for event in self.events if isinstance(event, Closed)]
        assert len(closed) == 1
        return closed[0].reason


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, message: bytes) -> None:
        self.writer.write(message)

    async def rest(self) -> bytes:
        """All that still comes until the connection ends."""
        received = b""
        async with asyncio.timeout(5):
            try:
                while chunk := await self.reader.read(65536):
                    received += chunk
            except ConnectionResetError:
                pass
        return received

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.transport.abort()


Open = Callable[..., Awaitable[Listener]]


@pytest.fixture
async def listen() -> AsyncIterator[Open]:
    """Opens listeners, and closes them and their peers when the test is over."""
    listeners: list[Listener] = []

    async def open_listener(**options: object) -> Listener:
        listener = Listener(AudioSocketTransport(**options))  # type: ignore[arg-type]
        await listener.transport.start(listener.claim)
        listeners.append(listener)
        return listener

    yield open_listener
    for listener in listeners:
        await listener.transport.close()
        for peer in listener.peers:
            peer.writer.close()


@pytest.fixture
async def listener(listen: Open) -> Listener:
    return await listen()


async def test_sound_both_ways_bit_for_bit(listener: Listener) -> None:
    call, peer = await listener.live_call()
    frames = [bytes([n]) * 320 for n in range(100)]
    for frame in frames:
        peer.send(encode_audio(frame))
        call.port.send(frame)
    assert await peer.reader.readexactly(323 * 100) == b"".join(map(encode_audio, frames))
    await wait_until(lambda: len(call.heard) == 100)
    assert call.heard == frames
    assert (call.port.frames_received, call.port.frames_sent, call.port.frames_dropped) == (100, 100, 0)
    assert listener.counters == {"connections": 1}


async def test_everything_in_one_write_and_in_single_bytes(listener: Listener) -> None:
    stream = encode_audio(FRAME) + encode(DigitReceived("#")) + encode_audio(b"\1\2")
    at_once, dripping = listener.expect_call(), listener.expect_call()
    await listener.connect(at_once.hello + stream)
    peer = await listener.connect()
    for byte in dripping.hello + stream:
        peer.send(bytes([byte]))
        await peer.writer.drain()
        await asyncio.sleep(0)
    for call in (at_once, dripping):
        await wait_until(lambda call=call: len(call.heard) == 2)
        assert call.heard == [FRAME, b"\1\2"]
        assert call.events == [Connected(), DtmfReceived("#")]


async def test_frames_of_other_lengths_pass_as_they_are(listener: Listener) -> None:
    call, peer = await listener.live_call()
    for size in (2, 160, 640, 16000):
        peer.send(encode_audio(bytes(size)))
        call.port.send(bytes(size))
        assert await peer.reader.readexactly(3 + size) == encode_audio(bytes(size))
    await wait_until(lambda: len(call.heard) == 4)
    assert [len(frame) for frame in call.heard] == [2, 160, 640, 16000]


async def test_a_frame_that_would_kill_the_channel_is_dropped(listener: Listener) -> None:
    call, peer = await listener.live_call()
    call.port.send(b"")
    call.port.send(bytes(70_000))
    call.port.send(FRAME)
    assert await peer.reader.readexactly(323) == encode_audio(FRAME)
    assert (call.port.frames_sent, call.port.frames_dropped) == (1, 2)


async def test_frames_without_a_connection_are_dropped_and_counted(listener: Listener) -> None:
    call = listener.expect_call()
    call.port.send(FRAME)
    peer = await listener.connect(call.hello)
    await wait_until(lambda: call.events == [Connected()])
    call.port.send(FRAME)
    peer.writer.close()
    await call.ended()
    call.port.send(FRAME)
    assert (call.port.frames_sent, call.port.frames_dropped) == (1, 2)


async def test_the_socket_is_tuned(listener: Listener) -> None:
    call, _ = await listener.live_call()
    wire = call.port._wire
    assert wire.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert getattr(wire, "max_size", 8192) == 8192


# --- who may come in


async def test_an_unknown_uuid_is_refused(listener: Listener) -> None:
    peer = await listener.connect(encode(Identified(uuid4())) + encode_audio(FRAME) * 3)
    assert await peer.rest() == REFUSED
    assert listener.counters == {"connections": 1, "refused": 1}


async def test_a_uuid_is_accepted_once(listener: Listener) -> None:
    call, first = await listener.live_call()
    second = await listener.connect(call.hello)
    assert await second.rest() == REFUSED
    call.port.send(FRAME)
    assert await first.reader.readexactly(323) == encode_audio(FRAME)
    assert call.events == [Connected()]
    assert listener.counters == {"connections": 2, "refused": 1}


async def test_a_port_that_is_handed_out_again_keeps_its_connection(listener: Listener) -> None:
    call, first = await listener.live_call()
    listener.waiting[call.media_id] = call.port
    assert await (await listener.connect(call.hello)).rest() == REFUSED
    call.port.send(FRAME)
    assert await first.reader.readexactly(323) == encode_audio(FRAME)


async def test_a_call_that_ended_before_asterisk_connected_is_refused(listener: Listener) -> None:
    call = listener.expect_call()
    call.port.close()
    peer = await listener.connect(call.hello)
    assert await peer.rest() == REFUSED
    assert call.events == []
    assert listener.counters == {"connections": 1, "refused": 1}


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes.fromhex("16 0301 0200 01 0001fc0303"),
        encode_audio(FRAME),
        b"\x01\x00\x0f",
        b"\xff" * 100_000,
    ],
    ids=["http", "tls", "sound before the uuid", "short uuid", "a lot"],
)
async def test_a_stranger_is_told_and_dismissed(
    listener: Listener, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await listener.connect(garbage)
    assert await peer.rest() == NOT_UNDERSTOOD
    assert listener.counters == {"connections": 1, "protocol_errors": 1}
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("said", [b"", b"\x01\x00\x10" + bytes(15)], ids=["nothing", "half a uuid"])
async def test_a_peer_that_does_not_name_its_call_is_closed(listen: Open, said: bytes) -> None:
    listener = await listen(identify_timeout_s=0.05)
    peer = await listener.connect(said)
    assert await peer.rest() == b""
    assert listener.counters == {"connections": 1, "timeouts": 1}


async def test_a_call_outlives_the_limit_for_its_uuid(listen: Open) -> None:
    listener = await listen(identify_timeout_s=0.05)
    call, peer = await listener.live_call()
    silent = await listener.connect()
    assert await silent.rest() == b""
    call.port.send(FRAME)
    assert await peer.reader.readexactly(323) == encode_audio(FRAME)


async def test_a_port_scanner_is_counted_and_leaves_no_trace(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    for end in (lambda peer: peer.writer.close(), lambda peer: peer.reset()):
        end(await listener.connect())
    await wait_until(lambda: listener.counters == {"connections": 2, "abandoned": 2})
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_silent_connections_cannot_crowd_out_a_call(listen: Open) -> None:
    listener = await listen(max_unidentified=4)
    silent = [await listener.connect() for _ in range(10)]
    await wait_until(lambda: listener.counters.get("connections") == 10)
    call, peer = await listener.live_call()
    assert listener.counters == {"connections": 11, "crowded_out": 7}
    for oldest in silent[:7]:
        assert await oldest.rest() == b""
    assert not any(late.reader.at_eof() for late in silent[7:])
    call.port.send(FRAME)
    assert await peer.reader.readexactly(323) == encode_audio(FRAME)


# --- how a call ends


async def test_asterisk_closes(listener: Listener) -> None:
    call, peer = await listener.live_call()
    peer.writer.close()
    assert await call.ended() == "Asterisk closed the connection"


async def test_asterisk_resets(listener: Listener) -> None:
    call, peer = await listener.live_call()
    peer.reset()
    assert "ConnectionResetError" in await call.ended()
    call.port.send(FRAME)
    assert call.port.frames_dropped == 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (encode(HangupReceived()), "Asterisk hung up"),
        (encode(ErrorReceived(b"\x02")), "Asterisk reported error 02"),
        (encode(ErrorReceived(b"")), "Asterisk reported error without a code"),
    ],
)
async def test_asterisk_says_goodbye(listener: Listener, message: bytes, reason: str) -> None:
    call, peer = await listener.live_call()
    peer.send(encode_audio(FRAME) + message + encode_audio(FRAME))
    assert await call.ended() == reason
    assert await peer.rest() == b""
    assert call.heard == [FRAME]
    assert listener.counters == {"connections": 1}


@pytest.mark.parametrize(
    ("message", "fault"),
    [
        (b"\x20\0\0", "unknown kind 0x20"),
        (encode(Identified(UUID(int=1))), "a second UUID"),
        (encode(AudioReceived(bytes(640), 16000)), "sound at 16000 Hz, expected 8000"),
    ],
)
async def test_a_fault_in_a_call_ends_it(listener: Listener, message: bytes, fault: str) -> None:
    call, peer = await listener.live_call()
    peer.send(encode_audio(FRAME) + message + encode_audio(FRAME))
    assert await call.ended() == f"protocol error: {fault}"
    assert await peer.rest() == NOT_UNDERSTOOD
    assert call.heard == [FRAME]
    assert listener.counters == {"connections": 1, "protocol_errors": 1}


async def test_our_own_close_reports_nothing(listener: Listener) -> None:
    call, peer = await listener.live_call()
    call.port.close()
    call.port.close()
    call.port.send(FRAME)
    assert await peer.rest() == b""
    await wait_until(lambda: not listener.transport._connections)
    assert call.events == [Connected()]
    assert call.port.frames_dropped == 1


async def test_nothing_is_heard_after_our_own_close(listener: Listener) -> None:
    call = listener.expect_call()

    def hear_one(frame: bytes) -> None:
        call.heard.append(frame)
        call.port.close()

    call.port.on_audio = hear_one
    peer = await listener.connect(call.hello + encode_audio(FRAME) * 5)
    await peer.rest()
    assert call.heard == [FRAME]
    assert call.events == [Connected()]


async def test_an_error_in_one_call_ends_that_call_only(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    (broken, broken_peer), (healthy, healthy_peer) = await listener.live_call(), await listener.live_call()

    def fail(_: bytes) -> None:
        raise ZeroDivisionError

    broken.port.on_audio = fail
    broken_peer.send(encode_audio(FRAME))
    assert "ZeroDivisionError" in await broken.ended()
    healthy_peer.send(encode_audio(FRAME))
    await wait_until(lambda: healthy.heard == [FRAME])
    assert "ZeroDivisionError" in caplog.text


async def test_closing_the_transport_drops_everybody_and_stops_listening(listener: Listener) -> None:
    call, peer = await listener.live_call()
    stranger = await listener.connect()
    await wait_until(lambda: listener.counters == {"connections": 2})
    address = listener.transport.address
    await listener.transport.close()
    assert await peer.rest() == await stranger.rest() == b""
    assert call.events == [Connected()]
    assert listener.counters == {"connections": 2}
    with pytest.raises(OSError):
        await asyncio.open_connection(*address)
    await listener.transport.close()


# --- a peer that stops reading


class Reluctant:
    """A peer that reads only when told to."""

    def __init__(self, wire: socket.socket) -> None:
        self.wire = wire

    @classmethod
    async def connect(cls, address: tuple[str, int], hello: bytes) -> Reluctant:
        wire = socket.socket()
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(wire, address)
        await loop.sock_sendall(wire, hello)
        return cls(wire)

    async def read(self, size: int) -> bytes:
        received = b""
        async with asyncio.timeout(5):
            while len(received) < size:
                chunk = await asyncio.get_running_loop().sock_recv(self.wire, 65536)
                assert chunk, "closed too early"
                received += chunk
        return received


async def stalled_call(listener: Listener) -> tuple[Call, Reluctant]:
    call = listener.expect_call()
    peer = await Reluctant.connect(listener.transport.address, call.hello)
    await wait_until(lambda: call.events == [Connected()])
    for number in range(2000):
        call.port.send(number.to_bytes(2, "little") * 160)
        await asyncio.sleep(0)
        if call.port.frames_dropped == 100:
            return call, peer
    raise AssertionError("frames of 40 s were buffered for a peer that does not read")


async def test_frames_for_a_peer_that_stopped_reading_are_dropped_not_stored(listener: Listener) -> None:
    call, peer = await stalled_call(listener)
    accepted = call.port.frames_sent
    stored = call.port._wire.get_write_buffer_size()
    assert 0 < stored <= MAX_BACKLOG_MS // 20 * 323 + 323
    # When it reads again it gets whole frames, the oldest first, and then new ones.
    received = await peer.read(323 * accepted)
    assert received == b"".join(
        encode_audio(number.to_bytes(2, "little") * 160) for number in range(accepted)
    )
    await wait_until(lambda: call.port._wire.get_write_buffer_size() == 0)
    call.port.send(FRAME)
    assert await peer.read(323) == encode_audio(FRAME)
    peer.wire.close()
    await call.ended()


@pytest.mark.parametrize("how", ["close", "garbage"])
async def test_a_peer_that_does_not_read_cannot_delay_the_end(listener: Listener, how: str) -> None:
    call, peer = await stalled_call(listener)
    if how == "close":
        call.port.close()
    else:
        peer.wire.send(b"\x77\0\0")
    await wait_until(lambda: not listener.transport._connections)
    peer.wire.close()


# --- what Asterisk is told


async def test_external_media_names_our_address_and_the_call(listener: Listener) -> None:
    media_id = uuid4()
    external = listener.transport.external_media(media_id)
    host, port = listener.transport.address
    assert external.external_host == f"{host}:{port}" == f"127.0.0.1:{port}"
    assert (external.format, external.encapsulation, external.transport) == ("slin", "audiosocket", "tcp")
    assert external.data == str(media_id)


async def test_the_advertised_host_is_named_instead(listen: Open) -> None:
    listener = await listen(host="0.0.0.0", advertise_host="engine.lan")
    port = listener.transport.address[1]
    assert listener.transport.external_media(uuid4()).external_host == f"engine.lan:{port}"


async def test_an_ipv6_address_is_bracketed(listen: Open) -> None:
    listener = await listen(advertise_host="fd00::7")
    port = listener.transport.address[1]
    assert listener.transport.external_media(uuid4()).external_host == f"[fd00::7]:{port}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_wildcard_needs_an_advertised_host(host: str) -> None:
    with pytest.raises(ValueError, match="advertise_host"):
        AudioSocketTransport(host)


async def test_a_port_in_use_is_an_error_at_start(listener: Listener) -> None:
    with pytest.raises(OSError):
        await AudioSocketTransport(*listener.transport.address).start(lambda _: None)
