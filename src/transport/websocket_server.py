"""chan_websocket with Asterisk as the one that connects, as a section of its websocket_client.conf tells it to."""

from __future__ import annotations

import asyncio
import hmac
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import parse_qs
from uuid import UUID

import structlog
from websockets.headers import build_authorization_basic
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from audio.formats import AudioFormat
from transport.media import ExternalMedia, Requirement
from transport.sockets import is_loopback
from transport.websocket import (
    ARI_FORMATS,
    SINCE,
    WebSocketPort,
    WebSocketTransport,
)
from transport.websocket_wire import MAX_MESSAGE_BYTES, Wire, websocket_log

log = structlog.get_logger(__name__)

REQUEST_TIMEOUT_S = 5.0
MAX_UNIDENTIFIED = 64
"""Connections that have not said which call they are for; beyond it the oldest makes room."""
MAX_REQUEST_BYTES = 8192
CALL_PARAMETER = "call"

_REQUIREMENT = Requirement(("chan_websocket.so", "res_websocket_client.so"), SINCE)
_METHOD = b"GET "
_END_OF_REQUEST = b"\r\n\r\n"


class _RefusalError(Exception):
    """Why a request gets no connection; the text is for people."""

    def __init__(self, status: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Guest(Wire):
    """A connection that somebody has made to us."""

    _websocket: ServerProtocol

    def __init__(self, server: WebSocketServerTransport) -> None:
        super().__init__(server, ServerProtocol(max_size=MAX_MESSAGE_BYTES, logger=websocket_log))
        self.is_answered = False
        """Its request, with a connection or a refusal."""
        self._server = server
        self._request = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server._welcome(self)

    def data_received(self, data: bytes) -> None:
        if self.user is not None:
            super().data_received(data)
        elif not self.is_answered:
            self._read_request(data)

    def _read_request(self, data: bytes) -> None:
        """Nothing but a request gets as far as the library, which is not made for what else may come."""
        self._request += data
        head, end, rest = self._request.partition(_END_OF_REQUEST)
        if not head.startswith(_METHOD[: len(head)]):
            self._refuse(_RefusalError(HTTPStatus.BAD_REQUEST, "not a WebSocket request"))
        elif len(head) > MAX_REQUEST_BYTES:
            self._refuse(_RefusalError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too long"))
        elif end:
            super().data_received(bytes(head + end))
            if self.user is not None and rest:
                super().data_received(bytes(rest))

    def _shake_hands(self, message: Request | Response) -> None:
        assert isinstance(message, Request)
        try:
            port = self._server._admit(message)
        except _RefusalError as refusal:
            self._refuse(refusal)
            return
        response = self._websocket.accept(message)
        self._websocket.send_response(response)
        self._write()
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.is_answered = True
            self._server._settle(self)
            port.attach(self)

    def _fail_handshake(self, error: Exception) -> None:
        self.is_answered = True
        self._server._note(self, _RefusalError(HTTPStatus.BAD_REQUEST, str(error)))

    def _refuse(self, refusal: _RefusalError) -> None:
        self.is_answered = True
        response = self._websocket.reject(refusal.status, f"{refusal}\n")
        if refusal.status is HTTPStatus.UNAUTHORIZED:
            response.headers["WWW-Authenticate"] = 'Basic realm="media"'
        self._websocket.send_response(response)
        self._write()
        self._server._note(self, refusal)


class WebSocketServerTransport(WebSocketTransport):
    """The ``MediaTransport`` that listens for WebSocket connections of Asterisk.

    ``client_name`` is the section of Asterisk's websocket_client.conf that describes the way here; its ``uri``
    must lead to ``path``, its ``connection_type`` be per_call_config. ``port`` 0 takes a free one; ``address``
    tells which. Raises ValueError where others than this machine could connect without credentials.
    """

    def __init__(
        self,
        client_name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        path: str = "/media",
        username: str = "",
        password: str = "",
        tls: ssl.SSLContext | None = None,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        max_unidentified: int = MAX_UNIDENTIFIED,
    ) -> None:
        if not (username and password) and not is_loopback(host):
            raise ValueError(f"listening on {host!r} needs a username and a password: who else could connect?")
        super().__init__()
        self._client_name = client_name
        self._host = host
        self._port = port
        self._path = path
        self._authorization = build_authorization_basic(username, password).encode() if username else None
        self._tls = tls
        self._request_timeout_s = request_timeout_s
        self._max_unidentified = max_unidentified
        self._ports: dict[UUID, WebSocketPort] = {}
        """Those that are not closed."""
        self._listener: asyncio.Server | None = None
        self._unidentified: dict[_Guest, asyncio.TimerHandle] = {}
        """Oldest first, each with the timer that closes it."""

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        if self._listener is None or not self._listener.sockets:
            raise RuntimeError("the WebSocket transport does not listen")
        host, port = self._listener.sockets[0].getsockname()[:2]
        return host, port

    def requirement(self, audio_format: AudioFormat) -> Requirement:
        return _REQUIREMENT

    async def start(self) -> None:
        self._listener = await asyncio.get_running_loop().create_server(
            lambda: _Guest(self),
            self._host,
            self._port,
            ssl=self._tls,
            ssl_handshake_timeout=self._request_timeout_s if self._tls else None,
            ssl_shutdown_timeout=self._request_timeout_s if self._tls else None,
            backlog=512,
            start_serving=False,
        )
        await self._listener.start_serving()
        log.info("websocket_listening", host=self.address[0], port=self.address[1], tls=self._tls is not None)

    async def close(self) -> None:
        """Stops listening and drops every connection; a close of our own, so no port reports ``Closed``."""
        if self._listener is None:
            return
        self._listener.close()
        for port in list(self._ports.values()):
            port.close()
        for guest in list(self._unidentified):
            self._settle(guest)
        await self._drop_all()
        await self._listener.wait_closed()

    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> WebSocketPort:
        port = self._ports[media_id] = WebSocketPort(self, media_id, audio_format)
        return port

    def _external_media(self, port: WebSocketPort) -> ExternalMedia:
        return ExternalMedia(
            format=ARI_FORMATS[port.format],
            encapsulation="none",
            transport="websocket",
            external_host=self._client_name,
            transport_data=f"f(json)v({CALL_PARAMETER}={port.media_id})",
        )

    async def _join(self, port: WebSocketPort, variables: Mapping[str, str]) -> None:
        """Nothing to do: Asterisk connects to us."""

    def _forget(self, port: WebSocketPort) -> None:
        self._ports.pop(port.media_id, None)

    def _admit(self, request: Request) -> WebSocketPort:
        """The port that a request is for. Raises ``_RefusalError``."""
        path, _, query = request.path.partition("?")
        if path != self._path:
            raise _RefusalError(HTTPStatus.NOT_FOUND, "nothing is here")
        if not self._authorizes(request.headers.get_all("Authorization")):
            raise _RefusalError(HTTPStatus.UNAUTHORIZED, "the credentials are missing or wrong")
        try:
            media_id = UUID(parse_qs(query).get(CALL_PARAMETER, [""])[0])
        except ValueError:
            raise _RefusalError(HTTPStatus.NOT_FOUND, f"no call is named: {CALL_PARAMETER}=UUID") from None
        port = self._ports.get(media_id)
        if port is None:
            raise _RefusalError(HTTPStatus.NOT_FOUND, "no such call waits")
        if not port.is_waiting:
            raise _RefusalError(HTTPStatus.CONFLICT, "the call has its connection")
        return port

    def _authorizes(self, given: list[str]) -> bool:
        if self._authorization is None:
            return True
        return len(given) == 1 and hmac.compare_digest(given[0].encode(), self._authorization)

    def _note(self, guest: _Guest, refusal: _RefusalError) -> None:
        match refusal.status:
            case HTTPStatus.UNAUTHORIZED:
                self._counts.unauthorized += 1
            case HTTPStatus.NOT_FOUND | HTTPStatus.CONFLICT:
                self._counts.refused += 1
            case _:
                self._counts.protocol_errors += 1
        log.warning("websocket_refused", peer=guest.peer, status=int(refusal.status), fault=str(refusal))

    def _welcome(self, guest: _Guest) -> None:
        if self._listener is None or not self._listener.is_serving():
            guest.abort()
            return
        if len(self._unidentified) >= self._max_unidentified:
            oldest = next(iter(self._unidentified))
            self._counts.crowded_out += not oldest.is_answered
            self._give_up(oldest)
        self._unidentified[guest] = asyncio.get_running_loop().call_later(
            self._request_timeout_s, self._time_out, guest
        )

    def _time_out(self, guest: _Guest) -> None:
        # A refused one may be slow to take its refusal.
        self._counts.timeouts += not guest.is_answered
        self._give_up(guest)

    def _give_up(self, guest: _Guest) -> None:
        self._settle(guest)
        guest.abort()

    def _settle(self, guest: _Guest) -> bool:
        """Waits no longer for the connection's request; False where it did not."""
        timer = self._unidentified.pop(guest, None)
        if timer is not None:
            timer.cancel()
        return timer is not None

    def remove(self, wire: Wire) -> None:
        super().remove(wire)
        assert isinstance(wire, _Guest)
        if self._settle(wire) and not wire.is_answered:
            self._counts.abandoned += 1
