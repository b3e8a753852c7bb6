"""The engine as a process of its own, on free ports, for tests, benchmarks and the demo."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

from testkit.waiting import wait_until

REPOSITORY = Path(__file__).resolve().parent.parent


class EngineFailedError(Exception):
    """The engine ended, or did not become ready; the text has its last lines."""


class EngineProcess:
    """Starts ``python -m engine run`` with ``settings`` laid over free ports; stops it in any case."""

    def __init__(
        self,
        *,
        ari_port: int,
        username: str,
        password: str,
        app_name: str,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        on_log: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.http_port, self.audiosocket_port = _free_port(), _free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self.config_path = self.folder / "ai-agent.yaml"
        self.events: list[dict[str, Any]] = []
        """Every log line, parsed; lines that are no JSON are under ``event``."""
        self._on_log = on_log
        self._environment = {
            "ASTERISK_ARI_USERNAME": username,
            "ASTERISK_ARI_PASSWORD": password,
            "OPENAI_API_KEY": "sk-test-of-the-double",
            **(environment or {}),
        }
        self.settings = _merge(
            {
                "asterisk": {"port": ari_port, "app_name": app_name},
                "http": {"port": self.http_port},
                "audiosocket": {"port": self.audiosocket_port},
                "messages_dir": str(self.folder / "messages"),
                "logging": {"level": "info", "format": "json"},
                "limits": {"drain_s": 0},
                "providers": {"local": {"faq_file": str(REPOSITORY / "config" / "faq.yaml")}},
            },
            settings or {},
        )
        self.process: asyncio.subprocess.Process | None = None
        self._readers: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def start(self, timeout_s: float = 60) -> None:
        """Starts it and waits until it would answer a call."""
        self.write_config()
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "engine", "run", "--config", str(self.config_path), "--env", str(self.folder / "no.env")),
            env={**os.environ, **self._environment},
            cwd=self.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._readers = asyncio.create_task(self._read_log())
        self._http = aiohttp.ClientSession()
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not await self.ready():
            if self.process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                lines = "\n".join(str(event) for event in self.events[-20:])
                raise EngineFailedError(f"the engine is not ready (exit {self.process.returncode}):\n{lines}")
            await asyncio.sleep(0.05)

    async def stop(self, timeout_s: float = 20) -> int:
        """SIGTERM, then SIGKILL after ``timeout_s``; returns the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), timeout_s)
            except TimeoutError:
                self.process.kill()
        code = await self.process.wait()
        if self._readers is not None:
            await self._readers
        if self._http is not None:
            await self._http.close()
        return code

    def forget(self) -> None:
        """Removes its folder, once nothing in it is of interest any more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        self.forget()

    def write_config(self) -> None:
        self.config_path.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    async def get(self, path: str) -> tuple[int, str]:
        assert self._http is not None
        async with self._http.get(f"http://127.0.0.1:{self.http_port}{path}") as response:
            return response.status, await response.text()

    async def ready(self) -> bool:
        try:
            status, _ = await self.get("/ready")
        except aiohttp.ClientError:
            return False
        return status == 200

    async def health(self) -> dict[str, Any]:
        _, body = await self.get("/health")
        health: dict[str, Any] = json.loads(body)
        return health

    async def metric(self, name: str, **labels: str) -> float:
        """One sample of /metrics, by its full name; 0 if it is not there."""
        _, body = await self.get("/metrics")
        for line in body.splitlines():
            match = re.fullmatch(r"([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[2] or ""))
                if labels.items() <= found.items():
                    return float(match[3])
        return 0.0

    async def idle(self, timeout_s: float = 5) -> None:
        """Waits until no call is left. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while (await self.health())["active_calls"]:  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(0.05)

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The log lines of this event whose fields are these."""
        return [line for line in self.events if line.get("event") == event and fields.items() <= line.items()]

    async def wait_for_log(self, event: str, timeout_s: float = 10, **fields: Any) -> dict[str, Any]:
        lines = await wait_until(lambda: self.logged(event, **fields) or None, timeout_s, f"log line {event}")
        return lines[-1]

    async def _read_log(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode(errors="replace").rstrip()
            try:
                event = json.loads(text)
            except ValueError:
                event = {"event": text}
            self.events.append(event)
            if self._on_log is not None:
                self._on_log(event)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        mine = merged.get(key)
        merged[key] = _merge(mine, value) if isinstance(mine, dict) and isinstance(value, Mapping) else value
    return merged


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
