"""The engine's side of the speech workers: starts, watches and restarts them, and shares calls among them."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from providers.base import ProviderError, ProviderStatus
from providers.local.speech.adapters import CachedVoice, ClauseCache
from providers.local.speech.worker_process import WorkerProcess
from providers.pipeline.stages import SpeechToText, TextToSpeech
from providers.wyoming import Connection, WyomingSpeechToText, WyomingTextToSpeech

log = structlog.get_logger(__name__)

DEFAULT_CACHE_BYTES = 16 << 20
"""Half an hour of speech."""
_MOST_WORKERS_UNASKED = 2
_START_LIMIT_S = 20.0
_READY_LIMIT_S = 5.0
"""How long a caller waits for a worker that is being restarted."""
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 30.0
_STEADY_S = 60.0
"""A worker that ran this long was in order: its successor starts after the first delay again."""
_MOST_PREWARMED = 1000


class SpeechPool:
    """Speech recognition and voice for all calls of the local agent.

    ``phrases`` are what callers are likely to ask, ``names`` personal names beside the common ones.
    ``workers`` 0 means: by the number of processor cores.
    """

    def __init__(
        self,
        phrases: Sequence[str],
        *,
        voice: str = "slt",
        workers: int = 0,
        names: Sequence[str] = (),
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self._phrases = tuple(phrases)
        self._names = tuple(names)
        self._voice = voice
        self._wanted = workers or max(1, min(_MOST_WORKERS_UNASKED, (os.cpu_count() or 1) // 2))
        self._workers: list[WorkerProcess] = []
        self._restarts = 0
        self._cache = ClauseCache(cache_bytes)
        self._to_prewarm: deque[str] = deque(maxlen=_MOST_PREWARMED)
        self._prewarm_wanted = asyncio.Event()
        self._serving = asyncio.Event()
        """Set while at least one worker serves."""
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when every worker answers; raises ProviderError with the reason why one does not."""
        folder = Path(tempfile.mkdtemp(prefix="speech-"))
        (folder / "phrases").write_text("\n".join(self._phrases), encoding="utf-8")
        (folder / "names").write_text("\n".join(self._names), encoding="utf-8")
        self._workers = [WorkerProcess(folder, number, self._voice) for number in range(self._wanted)]
        self._running = asyncio.create_task(self._run(folder), name="speech pool")
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                for worker in self._workers:
                    await worker.first_answer()
        except TimeoutError as error:
            await self.close()
            raise ProviderError("unavailable", f"speech is not ready after {_START_LIMIT_S:g} s") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Ends the workers; idempotent."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait((running,))
        self._workers = []
        self._serving.clear()

    def status(self) -> ProviderStatus:
        ready = [worker for worker in self._workers if worker.ready]
        facts = {
            "workers": len(self._workers),
            "workers_ready": len(ready),
            "worker_pids": [worker.pid for worker in ready],
            "connections": sum(worker.connections for worker in self._workers),
            "connections_by_worker": [worker.connections for worker in self._workers],
            "restarts": self._restarts,
            "cached_clauses": len(self._cache),
            "cached_bytes": self._cache.size_bytes,
            "cache_hits": self._cache.hits,
            "cache_misses": self._cache.misses,
        }
        detail = "" if ready else "no speech worker is running"
        return ProviderStatus(ready=bool(ready), detail=detail, facts=facts)

    def recognizer(self) -> SpeechToText:
        """For one call."""
        return WyomingSpeechToText(self._connect, model_for=lambda expects: expects)

    def voice(self) -> TextToSpeech:
        return CachedVoice(WyomingTextToSpeech(self._connect), self._voice, self._cache)

    def prewarm(self, texts: Iterable[str]) -> None:
        """Speaks ``texts`` into the cache in the background, now or as soon as the pool has started."""
        self._to_prewarm.extend(texts)
        self._prewarm_wanted.set()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        """A connection to the worker that serves the fewest; waits while one is being restarted."""
        if self._running is None:
            raise ProviderError("unavailable", "the speech workers are stopped")
        try:
            async with asyncio.timeout(_READY_LIMIT_S):
                await self._serving.wait()
        except TimeoutError as error:
            raise ProviderError("unavailable", "no speech worker is running") from error
        ready = [worker for worker in self._workers if worker.ready]
        async with min(ready, key=lambda worker: worker.connections).connect() as connection:
            yield connection

    async def _run(self, folder: Path) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for worker in self._workers:
                    tasks.create_task(self._keep_running(worker))
                tasks.create_task(self._prewarm())
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _keep_running(self, worker: WorkerProcess) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            started_s = time.monotonic()
            await worker.run(on_ready=self._serving.set)
            if not any(other.ready for other in self._workers):
                self._serving.clear()
            if time.monotonic() - started_s > _STEADY_S:
                delay_s = _FIRST_DELAY_S
            log.error("speech_worker_died", worker=worker.number, restarts_in_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            self._restarts += 1

    async def _prewarm(self) -> None:
        voice = self.voice()
        while True:
            await self._prewarm_wanted.wait()
            self._prewarm_wanted.clear()
            while self._to_prewarm:
                text = self._to_prewarm.popleft()
                try:
                    async for _ in voice.synthesize(text):
                        pass
                except ProviderError as error:
                    log.warning("clause_not_prewarmed", code=error.code, reason=str(error))
