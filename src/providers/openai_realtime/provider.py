"""The OpenAI Realtime provider: one WebSocket per call, in the format nearest to the call's wire."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque

from pydantic import SecretStr

from providers import ws
from providers.base import CallContext, Capabilities, ProviderError, ProviderSink, ProviderStatus
from providers.openai_realtime.config import OpenAIRealtimeConfig
from providers.openai_realtime.protocol import RealtimeSession

CONNECT_TIMEOUT_S = 5.0
"""Within which the session must stand; the caller hears a filler meanwhile."""
HELD_MS = 5000
"""How much of the caller's newest sound is kept while nothing can be sent: before the connection stands, and
while the server does not read."""

NORMAL_CLOSURE = 1000
GOING_AWAY = 1001


class OpenAIRealtimeProvider:
    """Talks in one call. The counters are for metrics and tests; they only grow."""

    def __init__(
        self,
        config: OpenAIRealtimeConfig,
        context: CallContext,
        api_key: SecretStr,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._config = config
        self._api_key = api_key
        self._tls = tls
        self._session = RealtimeSession(config, context)
        spoken = self._session.audio_format
        self._capabilities = Capabilities(spoken, spoken, owns_turns=self._session.server_owns_turns)
        self._sink: ProviderSink
        self._socket: ws.WebSocket | None = None
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._held_limit_bytes = spoken.size_bytes(HELD_MS)
        self._turn_ended_early = False
        self.frames_dropped = 0
        """Frames of the caller that had to make room for newer ones."""

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def frames_sent(self) -> int:
        return self._session.frames_sent

    @property
    def warnings(self) -> int:
        return self._session.warnings

    @property
    def unknown_events(self) -> int:
        return self._session.unknown_events

    @property
    def late_deltas(self) -> int:
        """Pieces of audio that arrived for what the caller had cut off."""
        return self._session.late_deltas

    async def run(self, sink: ProviderSink) -> None:
        self._sink = sink
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONNECT_TIMEOUT_S
        socket = await ws.connect(
            self._config.url,
            self,
            headers={"Authorization": f"Bearer {self._api_key.get_secret_value()}"},
            timeout_s=CONNECT_TIMEOUT_S,
            tls=self._tls,
        )
        limit = loop.call_at(deadline, self._give_up, socket)
        try:
            close = await socket.wait_closed()
        except ProviderError:
            raise
        except Exception as error:
            raise ProviderError("internal_error", f"{type(error).__name__}: {error}") from error
        finally:
            limit.cancel()
            socket.close()
        _check(close)

    def push_audio(self, frame: bytes) -> None:
        if self._socket is not None and self._socket.writable:
            self._session.append(frame)
            return
        self._held.append(frame)
        self._held_bytes += len(frame)
        while self._held_bytes > self._held_limit_bytes:
            self._held_bytes -= len(self._held.popleft())
            self.frames_dropped += 1

    def interrupt(self, item_id: str, heard_ms: int) -> None:
        self._session.interrupt(item_id, heard_ms)

    def say(self, text: str) -> None:
        self._session.say(text)

    def caller_turn_ended(self) -> None:
        if self._socket is None:
            self._turn_ended_early = True
            return
        self._send_held()  # a turn is committed with its end, and the transport buffers what it must
        self._session.caller_turn_ended()

    def tool_result(self, call_id: str, output: str) -> None:
        self._session.tool_result(call_id, output)

    def on_open(self, websocket: ws.WebSocket) -> None:
        self._socket = websocket
        self._session.start(self._sink, websocket.send)
        self._send_held()
        if self._turn_ended_early:
            self._session.caller_turn_ended()

    def on_text(self, message: bytes | memoryview) -> None:
        self._session.receive(message)

    def on_binary(self, message: bytes | memoryview) -> None:
        self._session.malformed(f"a binary message of {len(message)} bytes")

    def on_writable(self) -> None:
        self._send_held()

    def _send_held(self) -> None:
        held, self._held, self._held_bytes = self._held, deque(), 0
        for frame in held:
            self._session.append(frame)

    def _give_up(self, socket: ws.WebSocket) -> None:
        if not self._session.ready:
            socket.fail(ProviderError("connect_timeout", f"no session within {CONNECT_TIMEOUT_S:g} s"))


def _check(close: ws.Close) -> None:
    """Returns when the server ended the session in good order; otherwise raises ProviderError."""
    if close.code == NORMAL_CLOSURE:
        return
    if close.code == GOING_AWAY and "maximum duration" in close.reason:
        raise ProviderError("session_expired", close.reason)
    raise ProviderError("connection_lost", f"closed with code {close.code}: {close.reason}")


class OpenAIRealtimeFactory:
    """Makes the providers of all calls; they share one TLS context."""

    name = "openai_realtime"

    def __init__(self, config: OpenAIRealtimeConfig, api_key: SecretStr | None) -> None:
        self._config = config
        self._api_key = api_key
        # loading the certificates takes some 20 ms: once, not per call
        self._tls = ssl.create_default_context() if config.uses_tls else None

    async def start(self) -> None:
        """Nothing to warm up: a session is opened per call."""

    async def close(self) -> None: ...

    def status(self) -> ProviderStatus:
        facts = {"model": self._config.model}
        if not self._api_key:
            return ProviderStatus(ready=False, detail="OPENAI_API_KEY is not set", facts=facts)
        return ProviderStatus(ready=True, facts=facts)

    def create(self, context: CallContext) -> OpenAIRealtimeProvider:
        """Raises ProviderError ``unauthorized`` when there is no key."""
        if not self._api_key:
            raise ProviderError("unauthorized", "OPENAI_API_KEY is not set")
        return OpenAIRealtimeProvider(self._config, context, self._api_key, self._tls)
