"""The agent's side of a pipeline: model, voice and tools, joined. One thing is said at a time."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Generic, Protocol, TypeVar, runtime_checkable

import structlog

from providers.base import (
    AgentItemDone,
    AgentText,
    ProviderError,
    ProviderEvent,
    ProviderSink,
    ProviderWarned,
    ReplyEnded,
    Tool,
    ToolCalled,
)
from providers.pipeline.clauses import ClauseSplitter, split_clauses
from providers.pipeline.clock import now
from providers.pipeline.history import History
from providers.pipeline.options import PipelineOptions
from providers.pipeline.stages import LanguageModel, Message, TextToSpeech, ToolRequest

log = structlog.get_logger(__name__)

MAX_QUEUED_CLAUSES = 16
"""How far the model may write ahead of the voice."""
MAX_QUEUED_SAYINGS = 16
MAX_TOOL_ROUNDS = 8
"""A model that asks for tools more often than this in one reply is going round in circles."""
_CLOSING_LIMIT_S = 1.0
"""How long what was cut off may take to close its stages before the next thing is said."""

_T = TypeVar("_T")


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


class _Speech:
    """A reply or a saying that is being made."""

    def __init__(self) -> None:
        self.task: asyncio.Task[None]
        self.sounded = False
        """Sound of it was handed over."""


class Speaking:
    """Says what it is asked to. Its methods are synchronous; only ``_speech`` is heard, what was cut is mute."""

    def __init__(
        self,
        history: History,
        llm: LanguageModel,
        tts: TextToSpeech,
        tools: tuple[Tool, ...],
        options: PipelineOptions,
    ) -> None:
        self._history = history
        self._llm = llm
        self._tts = tts
        self._tools = tools
        self._options = options
        self._tasks: asyncio.TaskGroup | None = None
        self._sink: ProviderSink
        self._speech: _Speech | None = None
        self._closing: set[asyncio.Task[None]] = set()
        """What was cut and still closes its stages."""
        self._sayings: deque[str] = deque()
        self._reply_wanted = False
        self._asks_back = False
        self._tools_due: dict[str, float] = {}
        """Tools that run: when their result must be there."""
        self._changed = asyncio.Event()
        """A tool's result came, or something else is to be said meanwhile."""
        self._items = 0
        self.owes_reply = False
        """The caller cut off what was being said, or prepared: silence would be no answer."""
        self.proven = asyncio.Event()
        """The voice has made sound, or need not any more."""

    @property
    def preparing(self) -> bool:
        """Something is being made of which no sound was handed over yet."""
        return self._speech is not None and not self._speech.sounded

    def start(self, tasks: asyncio.TaskGroup, sink: ProviderSink) -> None:
        """From now on ``tasks`` run what is to be said, and ``sink`` gets it."""
        self._tasks = tasks
        self._sink = sink
        self._proceed()

    def close(self) -> None:
        self._tasks = None

    def say(self, text: str) -> None:
        """Queues a text of somebody else's, which is said as soon as nothing else is."""
        if len(self._sayings) >= MAX_QUEUED_SAYINGS:
            log.warning("saying_dropped", queued=len(self._sayings))
            return
        self._sayings.append(text)
        self._changed.set()
        self._proceed()

    def reply(self, *, asks_back: bool) -> None:
        """Has the model answer the history; ``asks_back``: the caller's latest words could not be heard."""
        self._reply_wanted = True
        self._asks_back = asks_back
        self._proceed()

    def interrupt(self, item_id: str, heard_ms: float) -> None:
        """The caller heard so much of an item and nothing after it; all that is under way is dropped."""
        self._history.cut(item_id, heard_ms, now())
        self.cancel()
        self.owes_reply = True

    def cancel(self) -> None:
        """Drops what is being said and what waits to be said."""
        self._sayings.clear()
        self._reply_wanted = False
        speech, self._speech = self._speech, None
        if speech is not None:
            self.owes_reply = True
            self._closing.add(speech.task)
            speech.task.add_done_callback(self._closing.discard)
            speech.task.cancel()
            self._ended("cancelled")

    def tool_result(self, call_id: str, output: str) -> None:
        if not self._history.tool_answered(call_id, output):
            log.warning("tool_result_unexpected", tool_call_id=call_id)
        self._tools_due.pop(call_id, None)
        self._changed.set()

    def _proceed(self) -> None:
        """Begins what is to be said next, unless something is being said."""
        if self._tasks is None or self._speech is not None:
            return
        speech = _Speech()
        if self._sayings:
            work = partial(self._say, speech, self._sayings.popleft())
        elif self._reply_wanted:
            self._reply_wanted = False
            self.owes_reply = False
            work = partial(self._reply, speech, self._asks_back)
        else:
            return
        self._speech = speech
        speech.task = self._tasks.create_task(self._run(speech, work))

    async def _run(self, speech: _Speech, work: Callable[[], Awaitable[None]]) -> None:
        try:
            if self._closing:
                await asyncio.wait(self._closing, timeout=_CLOSING_LIMIT_S)
            await work()
        except Exception as error:
            if self._speech is speech:
                raise
            log.warning("cut_speech_failed", error=repr(error))  # nobody waits for it any more
        if self._speech is speech:
            self._speech = None
            self._ended("completed")
            self._proceed()

    def _ended(self, status: str) -> None:
        self.proven.set()
        self._sink.event(ReplyEnded(status))

    def _emit(self, speech: _Speech, event: ProviderEvent) -> None:
        if self._speech is speech:
            self._sink.event(event)

    async def _say(self, speech: _Speech, text: str) -> None:
        for clause in split_clauses(text):
            await self._speak(speech, clause)

    async def _reply(self, speech: _Speech, asks_back: bool) -> None:
        for _ in range(MAX_TOOL_ROUNDS):
            await self._settle_tools(speech)
            conversation = self._history.conversation()
            if asks_back:
                conversation.append(Message("caller", ""))
            if not await self._round(speech, conversation):
                return
            asks_back = False
        self._emit(speech, ProviderWarned("too_many_tools", f"more than {MAX_TOOL_ROUNDS} rounds of tools"))

    async def _round(self, speech: _Speech, conversation: list[Message]) -> bool:
        """One reply of the model, written and spoken side by side; whether it asked for tools."""
        called = False
        pieces: asyncio.Queue[str | ToolRequest | None] = asyncio.Queue(MAX_QUEUED_CLAUSES)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write(conversation, pieces))
            while (piece := await pieces.get()) is not None:
                if isinstance(piece, ToolRequest):
                    self._call_tool(speech, piece)
                    called = True
                else:
                    await self._speak(speech, piece)
        return called

    async def _write(self, conversation: list[Message], pieces: asyncio.Queue[str | ToolRequest | None]) -> None:
        splitter = ClauseSplitter()
        async with _Stage("llm", self._llm.reply(conversation, self._tools), self._options.stage_limit_s) as parts:
            async for part in parts:
                if isinstance(part, ToolRequest):
                    for clause in splitter.finish():
                        await pieces.put(clause)
                    await pieces.put(part)
                else:
                    for clause in splitter.feed(part.text):
                        await pieces.put(clause)
        for clause in splitter.finish():
            await pieces.put(clause)
        await pieces.put(None)

    async def _speak(self, speech: _Speech, clause: str) -> None:
        """Speaks one clause as an item of its own, so that what was heard of it can be told by its length."""
        if self._speech is not speech:
            return
        self._items += 1
        item_id = f"item-{self._items}"
        line = self._history.agent_says(item_id, clause)
        self._emit(speech, AgentText(item_id, clause))
        async with _Stage("tts", self._tts.synthesize(clause), self._options.stage_limit_s) as chunks:
            async for chunk in chunks:
                if self._speech is not speech:
                    return
                self._history.sounded(line, self._tts.format.duration_ms(len(chunk)), now())
                speech.sounded = True
                self._sink.audio(item_id, chunk)
                self.proven.set()
        line.whole = True
        self._emit(speech, AgentItemDone(item_id))

    def _call_tool(self, speech: _Speech, request: ToolRequest) -> None:
        if self._speech is not speech:
            return
        self._history.tool_called(request.call_id, request.name)
        self._tools_due[request.call_id] = now() + self._options.tool_limit_s
        self._emit(speech, ToolCalled(request.call_id, request.name, request.arguments))

    async def _settle_tools(self, speech: _Speech) -> None:
        """Waits for the results of all tools, also of a reply that was cut; says meanwhile what is to be said."""
        while self._tools_due:
            self._changed.clear()
            if self._sayings:
                await self._say(speech, self._sayings.popleft())
                self._emit(speech, ReplyEnded())
                continue
            due = min(self._tools_due.values())
            try:
                async with asyncio.timeout(due - now()):
                    await self._changed.wait()
            except TimeoutError:
                self._give_up_tools()

    def _give_up_tools(self) -> None:
        moment = now()
        for call_id in [call_id for call_id, due in self._tools_due.items() if due <= moment]:
            del self._tools_due[call_id]
            limit_s = self._options.tool_limit_s
            self._history.tool_answered(call_id, json.dumps({"error": f"no result within {limit_s:g} s"}))


class _Stage(Generic[_T]):
    """Iterates over what a stage makes; limits the wait for each part, names its failures, and closes it."""

    def __init__(self, name: str, parts: AsyncIterator[_T], limit_s: float) -> None:
        self._name = name
        self._parts = parts
        self._limit_s = limit_s

    async def __aenter__(self) -> _Stage[_T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        if isinstance(self._parts, _Closable):
            with self._named_failures():
                await self._parts.aclose()

    def __aiter__(self) -> _Stage[_T]:
        return self

    async def __anext__(self) -> _T:
        try:
            async with asyncio.timeout(self._limit_s):
                with self._named_failures():
                    return await anext(self._parts)
        except TimeoutError as error:
            raise ProviderError(f"{self._name}_stalled", f"nothing for {self._limit_s:g} s") from error

    @contextmanager
    def _named_failures(self) -> Iterator[None]:
        try:
            yield
        except (ProviderError, StopAsyncIteration):
            raise
        except Exception as error:
            raise ProviderError(f"{self._name}_failed", f"{type(error).__name__}: {error}") from error
