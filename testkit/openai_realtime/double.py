"""The double itself: a server on loopback that plays the OpenAI Realtime API."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from picows import (
    WSListener,
    WSUpgradeRequest,
    WSUpgradeResponse,
    WSUpgradeResponseWithListener,
    ws_create_server,
)

from audio import resample
from testkit.openai_realtime.script import Script
from testkit.openai_realtime.session import Session

PATH = "/v1/realtime"


class OpenAIRealtimeDouble:
    """Use it as ``async with OpenAIRealtimeDouble(script) as double`` and connect to ``double.url``.

    What either side sends that the official SDK's types do not know is noted in ``violations``; with
    ``validate="first_of_kind"`` (for load) only a session's first message of each type is looked at.
    ``script`` may be exchanged between connections, except for ``never_answers="accepts"``.
    """

    def __init__(
        self,
        script: Script | None = None,
        *,
        validate: Literal["all", "first_of_kind"] = "all",
        port: int = 0,
        trace: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.script = script or Script()
        self.port = port
        self.sessions: list[Session] = []
        self.violations: list[str] = []
        self._validate: Literal["all", "first_of_kind"] = validate
        self._trace = trace
        self._server: asyncio.Server | None = None
        self._mute_listener: socket.socket | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{PATH}"

    async def start(self) -> None:
        resample.load()  # not while a session waits for it
        if self.script.never_answers == "accepts":
            # the kernel completes TCP handshakes for a socket that nobody accepts from
            self._mute_listener = socket.create_server(("127.0.0.1", self.port))
            self.port = self._mute_listener.getsockname()[1]
            return
        self._server = await ws_create_server(self._admit, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._mute_listener is not None:
            self._mute_listener.close()
        if self._server is not None:
            self._server.close()
        for session in self.sessions:
            if session.is_open:
                session.hang_up(1006)
        for session in self.sessions:
            await asyncio.wait_for(session.closed.wait(), 5)
            await asyncio.wait_for(session.settle(), 5)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def stats(self) -> dict[str, Any]:
        """What happened, ready for JSON."""
        return {
            "violations": self.violations,
            "sessions": [
                {
                    "model": session.model,
                    "open": session.is_open,
                    "appends": len(session.appends),
                    "received_audio_ms": int(session.input_format.duration_ms(len(session.received_audio))),
                    "received_events": [event["type"] for event in session.received_events],
                    "responses": [response.status for response in session.responses],
                    "first_byte_sent_at": session.first_byte_sent_at,
                    "speech_started_sent_at": session.speech_started_sent_at,
                    "truncated": [
                        {"item_id": cut.item_id, "audio_end_ms": cut.audio_end_ms} for cut in session.truncated
                    ],
                    "deleted": session.deleted,
                    "errors": session.errors,
                }
                for session in self.sessions
            ],
        }

    def _admit(self, request: WSUpgradeRequest) -> WSListener | WSUpgradeResponseWithListener | None:
        status = self.script.reject_status
        target = urlsplit(request.path.decode())
        model = parse_qs(target.query).get("model", [""])[0]
        if not request.headers.get("Authorization", "").startswith("Bearer "):
            status = status or 401
        if "OpenAI-Beta" in request.headers:
            self.violations.append("the client asked for the beta")
        if target.path != PATH or not model:
            status = status or 404
        if status is not None:
            return WSUpgradeResponseWithListener(WSUpgradeResponse.create_error_response(status, b"refused"), None)
        session = Session(self.script, model, self._validate, self.violations.append, self._trace)
        self.sessions.append(session)
        return session
