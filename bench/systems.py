"""The processes of a benchmark: the provider's double, the floors, the engine."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

import orjson

from bench.scenario import SCRIPT, Session
from testkit.asterisk import AsteriskInstance
from testkit.engine import REPOSITORY, EngineProcess

FLOORS = {
    "audiosocket": "bench.floor_audiosocket",
    "externalmedia": "bench.floor_rtp",
    "websocket": "bench.floor_websocket",
}
"""The modules of the floors, by the engine's names of the wires."""


class Double:
    """The double of OpenAI Realtime as a process of its own."""

    def __init__(self) -> None:
        self.url = ""
        self._process: asyncio.subprocess.Process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as script:
            script.write(SCRIPT.model_dump_json())
            script.flush()
            self._process = await _spawn("testkit.openai_realtime", "--config", script.name, "--sound", limit=1 << 30)
            assert self._process.stdout is not None
            self.url = orjson.loads(await self._process.stdout.readline())["url"]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> list[Session]:
        """Ends it; returns what it saw. Raises AssertionError when somebody broke the protocol."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = await self._process.communicate()
        stats = orjson.loads(output.splitlines()[-1])
        assert not stats["violations"], stats["violations"][:3]
        return [Session.read(entry, base64.b64decode(entry["received_audio"])) for entry in stats["sessions"]]


@asynccontextmanager
async def floor(transport: str, asterisk: AsteriskInstance, double: Double) -> AsyncIterator[int]:
    """Runs the floor; yields its process id."""
    process = await _spawn(
        FLOORS[transport],
        *("--ari", f"http://127.0.0.1:{asterisk.ari_port}/", "--app", asterisk.app_name),
        *("--provider", f"{double.url}?model=floor"),
        environment={
            "ASTERISK_ARI_USERNAME": asterisk.username,
            "ASTERISK_ARI_PASSWORD": asterisk.password,
        },
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield process.pid
    finally:
        process.terminate()
        await process.wait()


def engine(asterisk: AsteriskInstance, double: Double, transport: str = "audiosocket") -> EngineProcess:
    return EngineProcess(
        ari_port=asterisk.ari_port,
        username=asterisk.username,
        password=asterisk.password,
        app_name=asterisk.app_name,
        settings={
            "audio_transport": transport,
            "default_provider": "openai_realtime",
            "providers": {"openai_realtime": {"base_url": double.url}},
            "conversation": {"no_input_timeout_s": 600},
            "limits": {"max_calls": 1000},
        },
    )


async def _spawn(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, limit: int = 1 << 16
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        limit=limit,
    )
