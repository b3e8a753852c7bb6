"""A WebSocket client for providers: sends without waiting, hands every message to a handler, ends once."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSHandshakeError,
    WSListener,
    WSMsgType,
    WSParsedURL,
    WSProtocolError,
    WSTransport,
    ws_connect,
)

from providers.base import ProviderError

MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""A longer message ends the connection; 4 MiB is six minutes of μ-law in base64."""

SEND_BUFFER_BYTES = 32 * 1024
"""Asked of the kernel, so that a peer that stops reading is noticed after seconds of sound, not minutes."""

WRITE_HIGH_WATER_BYTES = 16 * 1024
"""What the transport may hold on top before ``writable`` turns false: about a second of μ-law in JSON."""

ADDRESS_TIMEOUT_S = 1.0
"""How long an address may leave us waiting while there is another one to try."""

PING_AFTER_IDLE_S = 10.0
PONG_WITHIN_S = 5.0

NO_CLOSE_FRAME = 1006
"""The code of a connection that ended without a close frame (RFC 6455, 7.4.1)."""


@dataclass(slots=True, frozen=True)
class Close:
    """How the peer ended the connection; ``code`` as in RFC 6455."""

    code: int
    reason: str


class Handler(Protocol):
    """Whoever talks over the connection. What its methods raise ends the connection: see ``wait_closed``."""

    def on_open(self, websocket: WebSocket) -> None:
        """The connection stands; called before ``connect`` returns."""

    def on_text(self, message: bytes | memoryview) -> None:
        """One whole message. A memoryview is valid only during the call."""

    def on_binary(self, message: bytes | memoryview) -> None: ...

    def on_writable(self) -> None:
        """The peer reads again: ``writable`` turned true."""


class WebSocket(WSListener):
    """One connection; made by ``connect``, alive until ``wait_closed`` returns or raises."""

    _transport: WSTransport

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._close = Close(NO_CLOSE_FRAME, "the connection was cut")
        self._error: ProviderError | None = None
        self._closing = False
        self._fragments = bytearray()
        self._fragments_type = WSMsgType.TEXT
        self.writable = False

    def send(self, message: bytes) -> None:
        """One text message, at once: dropped on a closed connection, buffered while not ``writable``."""
        self._transport.send(WSMsgType.TEXT, message)

    async def wait_closed(self) -> Close:
        """Waits for the end of the connection.

        Raises ProviderError ``protocol_error`` when the peer broke the protocol, and whatever ``fail`` was
        given or a handler has raised.
        """
        try:
            await self._transport.wait_disconnected()
        except WSProtocolError as error:
            raise ProviderError("protocol_error", str(error)) from error
        if self._error is not None:
            raise self._error
        return self._close

    def fail(self, error: ProviderError) -> None:
        """Ends the connection; ``wait_closed`` raises ``error``."""
        self._error = self._error or error
        self.close()

    def close(self) -> None:
        """Closes without waiting for the peer, which may have stopped reading. Idempotent."""
        self._closing = True
        self.writable = False
        self._transport.send_close(WSCloseCode.OK)
        self._transport.disconnect(graceful=False)

    def on_ws_connected(self, transport: WSTransport) -> None:
        transport.underlying_transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        self._transport = transport
        self.writable = True
        self._handler.on_open(self)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if self._closing:
            return
        try:
            self._receive(frame)
        except ProviderError as error:
            self.fail(error)
        except BaseException:
            self.close()
            raise

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._closing = True
        self.writable = False
        handshake = transport.close_handshake
        if handshake is not None and handshake.sent is not None and handshake.sent.reason:
            # picows gave the connection up by itself, over a pong that did not come
            self._close = Close(NO_CLOSE_FRAME, handshake.sent.reason)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        if not self._closing:
            self.writable = True
            self._handler.on_writable()

    def _receive(self, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is WSMsgType.TEXT and frame.fin:
            self._handler.on_text(frame.get_payload_as_memoryview())
        elif kind is WSMsgType.BINARY and frame.fin:
            self._handler.on_binary(frame.get_payload_as_memoryview())
        elif kind is WSMsgType.CLOSE:
            self._close = Close(frame.get_close_code().value, frame.get_close_reason() or "")
            self.close()
        elif kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._reassemble(frame)

    def _reassemble(self, frame: WSFrame) -> None:
        if frame.msg_type is not WSMsgType.CONTINUATION:
            self._fragments.clear()
            self._fragments_type = frame.msg_type
        self._fragments += frame.get_payload_as_memoryview()
        if len(self._fragments) > MAX_MESSAGE_BYTES:
            raise ProviderError("protocol_error", f"a message of more than {MAX_MESSAGE_BYTES} bytes")
        if not frame.fin:
            return
        message = bytes(self._fragments)
        self._fragments.clear()
        if self._fragments_type is WSMsgType.TEXT:
            self._handler.on_text(message)
        else:
            self._handler.on_binary(message)


async def connect(
    url: str,
    handler: Handler,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> WebSocket:
    """Opens a connection to a ``ws`` or ``wss`` url.

    Raises ProviderError with code ``connect_failed`` (name, network, TLS, refusal), ``connect_timeout`` or
    ``unauthorized`` (401 and 403). Cancelling it closes what was opened.
    """
    endpoint: socket.socket | None = None

    async def open_socket(target: WSParsedURL) -> socket.socket:
        nonlocal endpoint
        endpoint = await _open_socket(target.host, target.port)
        return endpoint

    connected = False
    try:
        async with asyncio.timeout(timeout_s):
            _, websocket = await ws_connect(
                lambda: WebSocket(handler),
                url,
                ssl_context=tls,
                websocket_handshake_timeout=timeout_s,
                enable_auto_ping=True,
                auto_ping_idle_timeout=PING_AFTER_IDLE_S,
                auto_ping_reply_timeout=PONG_WITHIN_S,
                max_frame_size=MAX_MESSAGE_BYTES,
                extra_headers=headers,
                max_redirects=0,  # a redirect would carry the credentials to another host
                socket_factory=open_socket,
            )
        # picows returns without a listener when the peer hangs up during the handshake
        if not isinstance(websocket, WebSocket):
            raise ProviderError("connect_failed", "the server hung up during the handshake")
        connected = True
        return websocket
    except TimeoutError as error:
        raise ProviderError("connect_timeout", f"no connection within {timeout_s:g} s") from error
    except WSHandshakeError as error:
        raise _refusal(error) from error
    except (OSError, WSError) as error:
        raise ProviderError("connect_failed", str(error)) from error
    finally:
        if endpoint is not None and not connected:
            # A cancelled picows handshake goes on by itself until its own timeout. Its transport owns the
            # socket and closes it as soon as it reads the end of the stream.
            with suppress(OSError):
                endpoint.shutdown(socket.SHUT_RDWR)


def _refusal(error: WSHandshakeError) -> ProviderError:
    if error.response is None:
        return ProviderError("connect_failed", str(error))
    status = error.response.status
    code = "unauthorized" if status in (401, 403) else "connect_failed"
    return ProviderError(code, f"the server answered HTTP {int(status)}")


async def _open_socket(host: str, port: int) -> socket.socket:
    """A socket connected to the first address of ``host`` that answers. Raises OSError."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, address in addresses[:-1]:
        with suppress(OSError):
            async with asyncio.timeout(ADDRESS_TIMEOUT_S):
                return await _connected_socket(family, kind, protocol, address)
    family, kind, protocol, _, address = addresses[-1]
    return await _connected_socket(family, kind, protocol, address)


async def _connected_socket(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    endpoint = socket.socket(family, kind, protocol)
    try:
        endpoint.setblocking(False)
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        await asyncio.get_running_loop().sock_connect(endpoint, address)
    except BaseException:
        endpoint.close()
        raise
    return endpoint
