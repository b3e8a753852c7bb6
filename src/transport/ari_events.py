"""ARI's event WebSocket: one connection, one reader."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from yarl import URL

from transport.ari_rest import AriUnauthorized, AriUnavailable

log = structlog.get_logger(__name__)

OPEN_TIMEOUT_S = 5.0
PING_INTERVAL_S = 10.0
PING_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 1.0

# At debug level websockets logs the headers, and with them the credentials.
_websocket_log = logging.getLogger(f"{__name__}.websocket")
_websocket_log.setLevel(logging.INFO)


@asynccontextmanager
async def open_events(host: str, port: int, app: str, authorization: str) -> AsyncIterator[EventStream]:
    """Registers ``app`` with Asterisk for as long as the context lasts.

    Raises ``AriUnauthorized`` or ``AriUnavailable``. Events wait in the socket until the stream is read;
    Asterisk gives up a reader that lets some megabytes gather.
    """
    url = URL.build(scheme="ws", host=host, port=port, path="/ari/events", query={"app": app})
    try:
        connection = await connect(
            str(url),
            additional_headers={"Authorization": authorization},
            compression=None,
            proxy=None,
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            ping_timeout=PING_TIMEOUT_S,
            close_timeout=_CLOSE_TIMEOUT_S,
            logger=_websocket_log,
        )
    except InvalidStatus as error:
        status = error.response.status_code
        if status in (401, 403):
            raise AriUnauthorized(status, error.response.reason_phrase) from error
        raise AriUnavailable(f"Asterisk answered {status} instead of opening the event socket") from error
    except TimeoutError as error:
        raise AriUnavailable(f"Asterisk did not open the event socket within {OPEN_TIMEOUT_S:g} s") from error
    except (OSError, InvalidHandshake) as error:
        raise AriUnavailable(f"Asterisk is not reachable: {error}") from error
    async with connection:
        yield EventStream(connection)


class EventStream:
    """The events of one connection, in order; ends with ``AriUnavailable`` when it is lost."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> dict[str, Any]:
        while True:
            try:
                message = await self._connection.recv(decode=False)
            except ConnectionClosed as error:
                raise AriUnavailable(f"the event socket was lost: {error}") from error
            event = _decode(message)
            if event is not None:
                return event


def _decode(message: bytes) -> dict[str, Any] | None:
    try:
        event = orjson.loads(message)
    except orjson.JSONDecodeError as error:
        log.warning("ari_event_not_understood", fault=str(error), size_bytes=len(message))
        return None
    if not isinstance(event, dict):
        log.warning("ari_event_not_understood", fault="not a JSON object", size_bytes=len(message))
        return None
    return event
