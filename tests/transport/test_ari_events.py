from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from transport import ari_events
from transport.ari_events import EventStream, open_events
from transport.ari_rest import AriUnauthorized, AriUnavailable


class FakeEvents:
    """A WebSocket server that sends what it is told and remembers how it was asked."""

    def __init__(self, messages: list[str | bytes], status: int) -> None:
        self.port = 0
        self.path = ""
        self.headers = Headers()
        self._messages = messages
        self._status = status

    def answer(self, _: ServerConnection, request: Request) -> Response | None:
        self.path, self.headers = request.path, request.headers
        return None if self._status == 101 else Response(self._status, "No", Headers())

    async def converse(self, connection: ServerConnection) -> None:
        for message in self._messages:
            await connection.send(message)


@asynccontextmanager
async def fake_events(*messages: str | bytes, status: int = 101) -> AsyncIterator[FakeEvents]:
    fake = FakeEvents(list(messages), status)
    async with serve(fake.converse, "127.0.0.1", 0, process_request=fake.answer) as server:
        fake.port = next(iter(server.sockets)).getsockname()[1]
        yield fake


async def read_all(events: EventStream) -> tuple[list[object], str]:
    """The events, and why there are no more."""
    received: list[object] = []
    try:
        async for event in events:
            received.append(event)
    except AriUnavailable as error:
        return received, error.reason
    raise AssertionError("the stream ended without saying why")


async def test_events_come_in_order_until_the_connection_is_lost() -> None:
    async with (
        fake_events('{"type":"A"}', b'{"type":"B","x":"\xc3\xbc"}') as fake,
        open_events("127.0.0.1", fake.port, "app", "Basic xyz") as events,
    ):
        assert await read_all(events) == (
            [{"type": "A"}, {"type": "B", "x": "ü"}],
            "the event socket was lost: received 1000 (OK); then sent 1000 (OK)",
        )


async def test_what_is_no_event_is_reported_and_passed_over() -> None:
    with capture_logs() as logs:
        async with (
            fake_events("{", "[1]", "", '{"type":"A"}') as fake,
            open_events("127.0.0.1", fake.port, "app", "Basic xyz") as events,
        ):
            received, _ = await read_all(events)
    assert received == [{"type": "A"}]
    assert [entry["event"] for entry in logs] == ["ari_event_not_understood"] * 3


async def test_credentials_travel_in_the_header_and_the_name_is_quoted() -> None:
    async with (
        fake_events() as fake,
        open_events("127.0.0.1", fake.port, "a b&c", "Basic xyz"),
    ):
        assert fake.path in ("/ari/events?app=a+b%26c", "/ari/events?app=a%20b%26c")
        assert fake.headers["Authorization"] == "Basic xyz"
        assert "Sec-WebSocket-Extensions" not in fake.headers


@pytest.mark.parametrize("status", [401, 403])
async def test_refused_credentials_have_their_own_error(status: int) -> None:
    async with fake_events(status=status) as fake:
        with pytest.raises(AriUnauthorized) as caught:
            async with open_events("127.0.0.1", fake.port, "app", "Basic xyz"):
                pass
    assert caught.value.status == status


async def test_any_other_answer_is_unavailability() -> None:
    async with fake_events(status=404) as fake:
        with pytest.raises(AriUnavailable, match="answered 404 instead of opening the event socket"):
            async with open_events("127.0.0.1", fake.port, "app", "Basic xyz"):
                pass


@pytest.mark.parametrize("answer", [b"", b"SIP/2.0 200 OK\r\n\r\n", None], ids=["eof", "not http", "silence"])
async def test_what_does_not_speak_http_is_unavailability(
    answer: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ari_events, "OPEN_TIMEOUT_S", 0.1)

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(converse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(AriUnavailable):
            async with open_events("127.0.0.1", port, "app", "Basic xyz"):
                pass
    finally:
        server.close()


async def test_nobody_listening_is_unavailability() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(AriUnavailable, match="not reachable"):
        async with open_events("127.0.0.1", port, "app", "Basic xyz"):
            pass
