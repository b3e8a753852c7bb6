"""The engine's HTTP side: /health, /ready, /metrics and /reload. Loopback unless configured otherwise."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

Json = dict[str, Any]


class ReloadRefusedError(Exception):
    """The configuration on disk cannot be used; the old one stays. The text says why."""


@dataclass(slots=True, frozen=True)
class WebHooks:
    """What the pages show and do."""

    health: Callable[[], Json]
    ready: Callable[[], tuple[bool, str]]
    metrics: Callable[[], bytes]
    reload: Callable[[], Awaitable[Json]]


class WebServer:
    """Serves the pages on one address."""

    def __init__(self, host: str, port: int, hooks: WebHooks) -> None:
        self._host = host
        self._port = port
        self._hooks = hooks
        self._runner: web.AppRunner | None = None
        self.address = ("", 0)
        """Host and port that are really listened on, once started."""

    async def start(self) -> None:
        """Begins to listen. Raises OSError when the address cannot be had."""
        app = web.Application(client_max_size=64 * 1024)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/reload", self._reload)
        logging.getLogger("aiohttp.server").addFilter(_is_our_failure)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()
        self.address = self._runner.addresses[0][:2]

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response(self._hooks.health())

    async def _ready(self, _: web.Request) -> web.Response:
        ready, detail = self._hooks.ready()
        return web.json_response({"ready": ready, "detail": detail}, status=200 if ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._hooks.metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def _reload(self, _: web.Request) -> web.Response:
        try:
            return web.json_response(await self._hooks.reload())
        except ReloadRefusedError as error:
            return web.json_response({"reloaded": False, "error": str(error)}, status=422)


def _is_our_failure(record: logging.LogRecord) -> bool:
    """What a stranger sends that is no HTTP is answered with 400, and needs no traceback."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
