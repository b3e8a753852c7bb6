"""Who may connect to the listener for Asterisk's WebSockets, and what strangers get."""

from __future__ import annotations

import asyncio
import logging
import ssl
from uuid import uuid4

import pytest
import structlog
from websocket_media_support import (
    BINARY,
    CLIENT_TLS,
    CLOSE,
    FRAME,
    MEDIA_START,
    PING,
    SERVER_TLS,
    TEXT,
    Diary,
    Guests,
    OpenGuests,
    basic,
    counted,
    frame,
    request,
    text,
)

from testkit.waiting import wait_until
from transport.media import Connected
from transport.websocket_server import WebSocketServerTransport

pytestmark = pytest.mark.usefixtures("no_traceback")


# --- who may connect


async def test_only_with_the_right_credentials(guests: Guests) -> None:
    diary = Diary(guests.transport)
    target = f"/media?call={diary.media_id}"
    right = guests.authorization
    wrong = [
        None,
        "",
        basic(guests.USERNAME, ""),
        basic(guests.USERNAME, guests.PASSWORD + "x"),
        basic("root", guests.PASSWORD),
        right.replace("Basic", "Bearer"),
        right + ", " + right,
        "Basic \xe9",
    ]
    for authorization in wrong:
        peer = await guests.connect(request(target, authorization))
        head = await peer.head()
        assert head.startswith("HTTP/1.1 401 ")
        assert 'WWW-Authenticate: Basic realm="media"' in head
        await peer.rest()
    twice = await guests.connect(request(target, right, f"Authorization: {right}"))
    assert (await twice.head()).startswith("HTTP/1.1 401 ")
    assert counted(guests.transport) == {"connections": 9, "unauthorized": 9}
    await guests.connect(guests.hello(diary) + frame(TEXT, text(**MEDIA_START)))
    await diary.connected()


async def test_without_credentials_only_this_machine(open_guests: OpenGuests) -> None:
    for host in ("0.0.0.0", "", "::", "10.0.0.1", "pbx.example"):
        with pytest.raises(ValueError, match="username and a password"):
            WebSocketServerTransport("voice-engine", host)
        with pytest.raises(ValueError, match="username and a password"):
            WebSocketServerTransport("voice-engine", host, username="asterisk")
        WebSocketServerTransport("voice-engine", host, username="asterisk", password="x")
    for host in ("::1", "127.0.0.2", "localhost"):
        WebSocketServerTransport("voice-engine", host)
    guests = await open_guests(username="", password="")
    diary = Diary(guests.transport)
    await guests.connect(request(f"/media?call={diary.media_id}") + frame(TEXT, text(**MEDIA_START)))
    await diary.connected()


async def test_only_a_call_that_waits_and_only_once(guests: Guests) -> None:
    diary, peer = await guests.live_call()
    closed = Diary(guests.transport)
    closed.port.close()
    for target, status in (
        (f"/media?call={uuid4()}", 404),
        (f"/media?call={closed.media_id}", 404),
        ("/media", 404),
        ("/media?call=", 404),
        ("/media?call=1", 404),
        ("/media?call=%00", 404),
        (f"/other?call={diary.media_id}", 404),
        (f"//[?call={diary.media_id}", 404),
        (f"/media?call={diary.media_id}", 409),
    ):
        stranger = await guests.connect(request(target, guests.authorization))
        assert (await stranger.head()).startswith(f"HTTP/1.1 {status} "), target
    assert counted(guests.transport) == {"connections": 10, "refused": 9}
    peer.send(BINARY, FRAME)
    await wait_until(lambda: diary.heard == [FRAME])


async def test_the_uri_of_the_client_may_have_parameters_of_its_own(open_guests: OpenGuests) -> None:
    guests = await open_guests(path="/a/b")
    diary = Diary(guests.transport)
    peer = await guests.connect(request(f"/a/b?tenant=1&call={diary.media_id}", guests.authorization))
    assert (await peer.head()).startswith("HTTP/1.1 101 ")


# --- strangers

NO_REQUESTS = [
    b"\r\n\r\n",
    b"HELP\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"POST /media HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    b"\0",
    b"GEX",
    b"GET /media\r\n\r\n",
    b"GET /media HTTP/1.1\r\nno header\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\n\r\n",
    b"GET /media HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
]


@pytest.mark.parametrize("wire", NO_REQUESTS)
async def test_garbage_is_counted_and_disturbs_no_call(guests: Guests, wire: bytes) -> None:
    diary, peer = await guests.live_call()
    stranger = await guests.connect(wire)
    await stranger.rest()
    await wait_until(lambda: counted(guests.transport) == {"connections": 2, "protocol_errors": 1})
    peer.send(BINARY, FRAME)
    await wait_until(lambda: diary.heard == [FRAME])


async def test_a_request_that_upgrades_nothing(guests: Guests) -> None:
    diary = Diary(guests.transport)
    for change in (
        (b"Upgrade: websocket\r\n", b""),
        (b"Version: 13", b"Version: 7"),
        (b"Key: dGhl", b"Key: "),
        (b"Connection: Upgrade", b"Connection: close"),
        (b"HTTP/1.1", b"HTTP/1.0"),
    ):
        stranger = await guests.connect(guests.hello(diary).replace(*change) + b"and more")
        head = await stranger.head()
        assert head.startswith(("HTTP/1.1 400 ", "HTTP/1.1 426 ", "HTTP/1.1 505 "))
        await stranger.rest()
    assert counted(guests.transport) == {"connections": 5, "protocol_errors": 5}
    # The call still waits.
    await guests.connect(guests.hello(diary) + frame(TEXT, text(**MEDIA_START)))
    await diary.connected()


@pytest.mark.parametrize("after", [frame(CLOSE), frame(PING, b"x"), b"\xff" * 50, frame(TEXT, b"{}")])
async def test_messages_behind_a_refused_request(guests: Guests, after: bytes) -> None:
    stranger = await guests.connect(request("/media?call=1", guests.authorization) + after)
    assert (await stranger.head()).startswith("HTTP/1.1 404 ")
    await stranger.rest()
    assert counted(guests.transport) == {"connections": 1, "refused": 1}


@pytest.mark.parametrize("piece", [b"GET /" + b"a" * 4000, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000])
async def test_a_request_without_end(guests: Guests, piece: bytes) -> None:
    stranger = await guests.connect(piece)
    try:
        async with asyncio.timeout(5):
            while not stranger.reader.at_eof():
                stranger.writer.write(b"b" * 1000)
                await stranger.writer.drain()
                await asyncio.sleep(0.001)
    except (ConnectionError, RuntimeError):  # uvloop's word for a closed connection
        pass
    await wait_until(lambda: counted(guests.transport) == {"connections": 1, "protocol_errors": 1})


async def test_a_request_that_does_not_come_in_time(open_guests: OpenGuests) -> None:
    guests = await open_guests(request_timeout_s=0.05)
    diary, peer = await guests.live_call()
    for hello in (b"", b"GET /media"):
        stranger = await guests.connect(hello)
        assert await stranger.rest() == b""
    assert counted(guests.transport) == {"connections": 3, "timeouts": 2}
    peer.send(BINARY, FRAME)
    await wait_until(lambda: diary.heard == [FRAME])


async def test_a_crowd_of_strangers(open_guests: OpenGuests) -> None:
    guests = await open_guests(max_unidentified=3)
    diary, peer = await guests.live_call()
    strangers = [await guests.connect() for _ in range(5)]
    assert [await stranger.rest() for stranger in strangers[:2]] == [b"", b""]
    await wait_until(lambda: counted(guests.transport) == {"connections": 6, "crowded_out": 2})
    late, _ = await guests.live_call()
    assert late.events == [Connected()]
    for stranger in strangers:
        stranger.writer.close()
    # Three were crowded out by now, one of them by the call.
    await wait_until(lambda: counted(guests.transport) == {"connections": 7, "crowded_out": 3, "abandoned": 2})
    peer.send(BINARY, FRAME)
    await wait_until(lambda: diary.heard == [FRAME])


async def test_a_secret_is_never_logged(guests: Guests, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        diary, peer = await guests.live_call()
        await guests.connect(request("/media", basic("root", "guessed")))
        await wait_until(lambda: guests.transport.counters["unauthorized"] == 1)
        peer.send(0x3)
        await diary.ended()
    written = repr(lines) + caplog.text
    assert "websocket_refused" in written and "websocket_message_rejected" in written
    for secret in (guests.PASSWORD, guests.authorization.split()[1], "guessed", basic("root", "guessed").split()[1]):
        assert secret not in written


# --- TLS


async def test_over_tls(open_guests: OpenGuests) -> None:
    guests = await open_guests(tls=SERVER_TLS, request_timeout_s=0.5)
    guests.tls = CLIENT_TLS
    diary, peer = await guests.live_call()
    sound = bytes(number % 256 for number in range(160 * 500))
    diary.port.send(sound)
    assert b"".join([(await peer.receive()).payload for _ in range(10)]) == sound
    peer.send(BINARY, FRAME)
    await wait_until(lambda: diary.heard == [FRAME])
    refused = await guests.connect(request("/media"))
    assert (await refused.head()).startswith("HTTP/1.1 401 ")
    await refused.rest()
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection(*guests.transport.address, ssl=ssl.create_default_context())
    guests.tls = None
    for hello in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b""):
        stranger = await guests.connect(hello)
        await stranger.rest()
    peer.writer.write(frame(CLOSE, b"\x03\xe8"))
    peer.writer.close()
    assert await diary.ended() == "Asterisk closed the connection"
