"""One speech worker, seen from the engine: its process, its log, the way to it."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import structlog

from providers.base import ProviderError
from providers.wyoming import Connection, connection, is_answering

log = structlog.get_logger(__name__)

_MODULE = "providers.local.speech.worker"
_NICE = "5"
"""The engine's 20 ms come first where both want the processor."""
_POLL_S = 0.02
_EXIT_LIMIT_S = 1.0
_LEVELS = frozenset(("debug", "info", "warning", "error"))


class WorkerProcess:
    """A place in the pool: one process after the other serves at the same socket.

    ``folder`` is private to the pool; the socket and all temporary files of the process are in it.
    """

    def __init__(self, folder: Path, number: int, voice: str) -> None:
        self.number = number
        self.connections = 0
        self.ready = False
        self._folder = folder
        self._voice = voice
        self._uri = f"unix://{folder / f'worker-{number}'}"
        self._process: Process | None = None
        self._failure = ProviderError("unavailable", "the speech worker ended before it answered")
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def first_answer(self) -> None:
        """Returns when the first process serves; raises ProviderError when it ended instead."""
        await asyncio.shield(self._first)

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Starts a process and returns when it has ended. Cancelling this ends it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _MODULE, "--uri", self._uri, "--voice", self._voice),
            *("--phrases", str(self._folder / "phrases"), "--names", str(self._folder / "names")),
            *("--nice", _NICE, "--parents-folder", str(self._folder)),
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=PIPE,
            env=os.environ | {"TMPDIR": str(self._folder)},
        )
        self._process = process
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forward_log(process))
                answering = tasks.create_task(self._wait_for_answer(on_ready))
                await process.wait()
                answering.cancel()
        finally:
            self.ready = False
            await _end(process)
            if not self._first.done():
                self._first.set_exception(self._failure)
                # Nobody waits for it any more when the pool is closed during its start.
                self._first.exception()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Raises ProviderError."""
        self.connections += 1
        try:
            async with connection(self._uri) as streams:
                yield streams
        finally:
            self.connections -= 1

    async def _wait_for_answer(self, on_ready: Callable[[], None]) -> None:
        # Another process cannot set an event of ours.
        while not await is_answering(self._uri):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)
        self.ready = True
        on_ready()
        if not self._first.done():
            self._first.set_result(None)

    async def _forward_log(self, process: Process) -> None:
        assert process.stderr is not None
        while line := await _line(process.stderr):
            try:
                fields = orjson.loads(line)
                level, event = fields.pop("level"), fields.pop("event")
            except (ValueError, KeyError, TypeError, AttributeError):
                text = line.decode("utf-8", "replace").rstrip()
                log.warning("speech_worker_wrote", worker=self.number, line=text)
                continue
            if event == "speech_worker_failed":
                self._failure = ProviderError(fields["code"], fields["reason"])
            getattr(log, level if level in _LEVELS else "info")(event, **fields | {"worker": self.number})


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, empty at the end of the stream; of one that is too long, its beginning."""
    try:
        return await stream.readuntil()
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.read(error.consumed)


async def _end(process: Process) -> None:
    """Asks by closing the standard input, then insists."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(_EXIT_LIMIT_S):
            await process.wait()
    except TimeoutError:
        log.warning("speech_worker_killed", pid=process.pid)
    finally:
        if process.returncode is None:
            process.kill()
    await process.wait()
