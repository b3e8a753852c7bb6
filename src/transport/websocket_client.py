"""chan_websocket with this engine as the one that connects, to the HTTP server of Asterisk."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote
from uuid import UUID

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.http11 import Request, Response
from websockets.uri import WebSocketURI, parse_uri

from audio.formats import AudioFormat
from transport.media import ExternalMedia, MediaUnavailable, Requirement
from transport.websocket import (
    ARI_FORMATS,
    SINCE,
    WebSocketPort,
    WebSocketTransport,
)
from transport.websocket_wire import MAX_MESSAGE_BYTES, Wire, websocket_log

CONNECT_TIMEOUT_S = 5.0

_REQUIREMENT = Requirement(("chan_websocket.so", "res_http_websocket.so"), SINCE)
_CONNECTION_ID = "MEDIA_WEBSOCKET_CONNECTION_ID"


class _Visit(Wire):
    """A connection that we make."""

    _websocket: ClientProtocol

    def __init__(self, owner: WebSocketTransport, uri: WebSocketURI, port: WebSocketPort) -> None:
        super().__init__(owner, ClientProtocol(uri, max_size=MAX_MESSAGE_BYTES, logger=websocket_log))
        self.opened: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        """What prevented it; None when nothing did."""
        self._host = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._websocket.send_request(self._websocket.connect())
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._fail_handshake(exc or ConnectionError("Asterisk closed the connection"))

    def _shake_hands(self, message: Request | Response) -> None:
        # What is wrong with the answer comes to ``_fail_handshake``.
        if self._websocket.handshake_exc is not None or self.opened.done():
            return
        if self._host.is_waiting:
            self._host.attach(self)
            self.opened.set_result(None)
        else:
            self._fail_handshake(ConnectionError("the call was over first"))

    def _fail_handshake(self, error: Exception) -> None:
        if not self.opened.done():
            self.opened.set_result(error)
        self.abort()


class WebSocketClientTransport(WebSocketTransport):
    """The ``MediaTransport`` that connects to Asterisk at ``base_url``, as in ``ws://127.0.0.1:8088``.

    The path of the URL is the ``prefix`` of Asterisk's http.conf. A connection id, which only the answer to our
    own request tells, is all the proof we give Asterisk: without TLS keep to a private network. Raises ValueError
    for an URL that is none.
    """

    def __init__(
        self,
        base_url: str,
        *,
        tls: ssl.SSLContext | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        super().__init__()
        try:
            self._base = parse_uri(base_url)
        except InvalidURI as error:
            # Without the URL, which may hold credentials.
            raise ValueError(f"not the URL of a WebSocket: {error.msg}") from None
        self._tls = (tls or True) if self._base.secure else None
        self._connect_timeout_s = connect_timeout_s
        self._ports: set[WebSocketPort] = set()
        """Those that are not closed."""

    def requirement(self, audio_format: AudioFormat) -> Requirement:
        return _REQUIREMENT

    async def start(self) -> None:
        """Nothing to do: we connect when there is a call."""

    async def close(self) -> None:
        """Drops every connection; a close of our own, so no port reports ``Closed``."""
        for port in list(self._ports):
            port.close()
        await self._drop_all()

    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> WebSocketPort:
        port = WebSocketPort(self, media_id, audio_format)
        self._ports.add(port)
        return port

    def _external_media(self, port: WebSocketPort) -> ExternalMedia:
        return ExternalMedia(
            format=ARI_FORMATS[port.format],
            encapsulation="none",
            transport="websocket",
            connection_type="server",
            transport_data="f(json)",
        )

    async def _join(self, port: WebSocketPort, variables: Mapping[str, str]) -> None:
        connection_id = variables.get(_CONNECTION_ID)
        if not connection_id:
            raise MediaUnavailable(f"Asterisk did not say where to connect: {_CONNECTION_ID} is not set")
        place = replace(self._base, path=f"{self._base.path.rstrip('/')}/media/{quote(connection_id, safe='')}")
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                error = await self._visit(port, place)
        except TimeoutError:
            self._counts.timeouts += 1
            raise MediaUnavailable(f"Asterisk did not answer within {self._connect_timeout_s:g} s") from None
        match error:
            case InvalidStatus():
                self._counts.refused += 1
                raise MediaUnavailable(f"Asterisk answered HTTP {error.response.status_code}") from error
            case InvalidHandshake():
                self._counts.protocol_errors += 1
                raise MediaUnavailable(f"Asterisk answered no WebSocket: {error}") from error
            case Exception():
                raise MediaUnavailable(f"no connection to Asterisk: {error}") from error

    async def _visit(self, port: WebSocketPort, place: WebSocketURI) -> Exception | None:
        """Connects; returns what prevented it."""
        visit = _Visit(self, place, port)
        try:
            await asyncio.get_running_loop().create_connection(lambda: visit, place.host, place.port, ssl=self._tls)
        except OSError as error:
            return error
        try:
            return await visit.opened
        except asyncio.CancelledError:
            visit.abort()
            raise

    def _forget(self, port: WebSocketPort) -> None:
        self._ports.discard(port)
