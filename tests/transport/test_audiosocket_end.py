"""How calls over AudioSocket end, and what a peer that does not read cannot do."""

from __future__ import annotations

import asyncio
import socket
from uuid import UUID

import pytest
from audiosocket_support import FRAME, NOT_UNDERSTOOD, Call, Listener

from testkit.waiting import wait_until
from transport.audiosocket import MAX_BACKLOG_MS
from transport.audiosocket_codec import (
    AudioReceived,
    ErrorReceived,
    HangupReceived,
    Identified,
    encode,
    encode_audio,
)
from transport.media import Connected

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


async def test_an_error_in_one_call_ends_that_call_only(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
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


async def stalled_call(listener: Listener) -> tuple[Call, Reluctant, bytes]:
    """A call, its peer that does not read, and what the peer will find when it does."""
    call = listener.expect_call()
    peer = await Reluctant.connect(listener.transport.address, call.hello)
    await wait_until(lambda: call.events == [Connected()])
    accepted, dropped_in_a_row = b"", 0
    for number in range(2000):
        frame = number.to_bytes(2, "little") * 160
        before = call.port.frames_sent
        call.port.send(frame)
        if call.port.frames_sent > before:
            accepted += encode_audio(frame)
            dropped_in_a_row = 0
            await asyncio.sleep(0)
        else:
            dropped_in_a_row += 1
            # The kernel packs what it holds more tightly for a while.
            await asyncio.sleep(0.005)
        if dropped_in_a_row == 100:
            return call, peer, accepted
    raise AssertionError("40 s of sound were taken for a peer that does not read")


async def test_frames_for_a_peer_that_stopped_reading_are_dropped_not_stored(listener: Listener) -> None:
    call, peer, accepted = await stalled_call(listener)
    stored = call.port._wire.get_write_buffer_size()
    assert 0 < stored <= MAX_BACKLOG_MS // 20 * 323 + 323
    # When it reads again it gets whole frames in order, and then new ones.
    assert await peer.read(len(accepted)) == accepted
    await wait_until(lambda: call.port._wire.get_write_buffer_size() == 0)
    call.port.send(FRAME)
    assert await peer.read(323) == encode_audio(FRAME)
    peer.wire.close()
    await call.ended()


@pytest.mark.parametrize("how", ["close", "garbage"])
async def test_a_peer_that_does_not_read_cannot_delay_the_end(listener: Listener, how: str) -> None:
    call, peer, _ = await stalled_call(listener)
    if how == "close":
        call.port.close()
    else:
        peer.wire.send(b"\x77\0\0")
    await wait_until(lambda: not listener.transport._connections)
    peer.wire.close()


async def test_a_peer_that_never_reads_again_is_given_up(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transport.audiosocket.STALL_LIMIT_S", 0.1)
    call, peer, _ = await stalled_call(listener)
    assert await call.ended() == "Asterisk has stopped reading"
    await wait_until(lambda: not listener.transport._connections)
    peer.wire.close()
