"""The whole local agent: spoken questions in real time, spoken answers, through the provider of the factory."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest
from local_speech_corpus import said

from audio.formats import FRAME_MS
from engine.tools import TOOLS
from providers.base import AgentText, CallContext, ProviderError, ProviderEvent, Ready, ReplyEnded, ToolCalled
from providers.local.config import LocalAgentConfig
from providers.local.factory import LocalAgentFactory
from providers.pipeline.provider import PipelineProvider

FOLDER = Path(__file__).parents[2] / "config"
CALLER = "rms"
SILENCE = b"\xff" * 160
QUIET = 0x5F
"""μ-law bytes above it, the sign aside, are fainter than -38 dB."""
LIMIT_S = 10.0
GREETING = "Hello, this is the automatic assistant. How can I help you?"

QUESTIONS = (
    ("what are your opening hours", "9 a.m."),
    ("where are you located", "12 Green Street"),
    ("what are your prices", "$15"),
    ("is there parking", "behind the shop"),
    ("can i pay by card", "in cash, by card"),
    ("are you open on sunday", "9 a.m."),
    ("how much is a repair", "$15"),
    ("i would like to make an appointment", "no appointment"),
    ("can i speak to a person", "Shall I take a message"),
    ("no thank you", "Is there anything else"),
    ("how do i get to you", "12 Green Street"),
    ("what can you do", "automatic assistant"),
    ("thank you very much", "You are welcome"),
)


@dataclass(slots=True)
class Recorder:
    """A sink that notes what came and when."""

    events: list[ProviderEvent] = field(default_factory=list)
    first_sound_at: float | None = None
    sound_bytes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def audio(self, item_id: str, chunk: bytes) -> None:
        if self.first_sound_at is None:
            self.first_sound_at = time.monotonic()
        self.sound_bytes += len(chunk)

    def event(self, event: ProviderEvent) -> None:
        self.events.append(event)
        self.changed.set()

    def forget(self) -> None:
        self.events.clear()
        self.first_sound_at, self.sound_bytes = None, 0

    @property
    def agent_text(self) -> str:
        return " ".join(event.text for event in self.events if isinstance(event, AgentText) and event.final)

    async def wait_for(self, kind: type[ProviderEvent]) -> ProviderEvent:
        async with asyncio.timeout(LIMIT_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self.changed.clear()
                await self.changed.wait()


class Line:
    """A caller's telephone: sends a frame every 20 ms, silence where nothing is said."""

    def __init__(self, provider: PipelineProvider) -> None:
        self._provider = provider
        self._to_say: list[bytes] = []
        self._said = asyncio.Event()

    async def run(self) -> None:
        due = time.monotonic()
        while True:
            talking = bool(self._to_say)
            self._provider.push_audio(self._to_say.pop(0) if talking else SILENCE)
            if talking and not self._to_say:
                self._said.set()
            due += FRAME_MS / 1000
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def say(self, text: str) -> float:
        """Returns when the last voiced sound of it has gone out; its time."""
        frames = [*said(text, CALLER)]
        while frames and all(byte & 0x7F > QUIET for byte in frames[-1]):
            frames.pop()
        self._said.clear()
        self._to_say = frames
        await self._said.wait()
        return time.monotonic()


@dataclass(slots=True, frozen=True)
class Call:
    sink: Recorder
    line: Line
    provider: PipelineProvider

    async def asks(self, text: str) -> tuple[str, float]:
        """The answer, and how long the caller waited for its first sound, in ms."""
        self.sink.forget()
        said_at = await self.line.say(text)
        await self.sink.wait_for(ReplyEnded)
        assert self.sink.first_sound_at is not None
        assert self.sink.sound_bytes > 1600
        return self.sink.agent_text, 1000 * (self.sink.first_sound_at - said_at)


@asynccontextmanager
async def calling(factory: LocalAgentFactory) -> AsyncIterator[Call]:
    provider = factory.create(CallContext("call-1", GREETING, "", tools=TOOLS))
    sink, line = Recorder(), Line(provider)
    running = [asyncio.create_task(provider.run(sink)), asyncio.create_task(line.run())]
    try:
        await sink.wait_for(Ready)
        await sink.wait_for(ReplyEnded)
        assert sink.agent_text == GREETING
        yield Call(sink, line, provider)
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=LIMIT_S)


@pytest.fixture
async def factory() -> AsyncIterator[LocalAgentFactory]:
    factory = LocalAgentFactory(LocalAgentConfig(workers=1, faq_file=FOLDER / "faq.yaml"))
    await factory.start()
    try:
        yield factory
    finally:
        await factory.close()


async def test_spoken_questions_are_answered_in_speech(
    factory: LocalAgentFactory, record_testsuite_property: Callable[[str, object], None]
) -> None:
    waits_ms, misunderstood = [], []
    async with calling(factory) as call:
        for question, expected in QUESTIONS:
            answer, wait_ms = await call.asks(question)
            waits_ms.append(round(wait_ms))
            if expected not in answer:
                misunderstood.append((question, answer))
    record_testsuite_property("local_agent_reply_ms", waits_ms)
    record_testsuite_property("local_agent_reply_median_ms", median(waits_ms))
    assert len(misunderstood) <= 1, misunderstood


async def test_a_message_is_taken_by_voice(factory: LocalAgentFactory) -> None:
    async with calling(factory) as call:
        await call.asks("can i leave a message")
        await call.asks("my name is sarah johnson")
        await call.asks("five five five oh one two three")
        answer, _ = await call.asks("my bicycle is broken")
        assert "Is that right?" in answer
        call.sink.forget()
        await call.line.say("yes that is right")
        called = await call.sink.wait_for(ToolCalled)
        assert isinstance(called, ToolCalled)
        message = json.loads(called.arguments)
        assert called.name == "take_message"
        assert message["number"] == "5550123"
        assert "bicycle" in message["reason"].lower()
        call.provider.tool_result(called.call_id, '{"status": "stored"}')
        await call.sink.wait_for(ReplyEnded)
        assert "has been taken" in call.sink.agent_text


async def test_the_status_tells_of_the_workers(factory: LocalAgentFactory) -> None:
    status = factory.status()
    assert status.ready
    assert status.facts["workers"] == 1
    await factory.close()
    assert not factory.status().ready
    await factory.close()


async def test_a_call_needs_a_started_agent() -> None:
    factory = LocalAgentFactory(LocalAgentConfig(faq_file=FOLDER / "faq.yaml"))
    assert not factory.status().ready
    with pytest.raises(ProviderError, match="has not been started"):
        factory.create(CallContext("call-1", "", ""))


async def test_a_faq_that_is_missing_is_named(tmp_path: Path) -> None:
    factory = LocalAgentFactory(LocalAgentConfig(faq_file=tmp_path / "faq.yaml"))
    with pytest.raises(ProviderError, match=r"faq\.yaml: no such file") as caught:
        await factory.start()
    assert caught.value.code == "unavailable"
    assert "faq.yaml" in factory.status().detail


@pytest.mark.parametrize("package", ["sklearn", "wyoming"])
async def test_a_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.split(".")[0] == package or name.startswith(("providers.local.speech.pool", "providers.wyoming")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    factory = LocalAgentFactory(LocalAgentConfig(faq_file=FOLDER / "faq.yaml"))
    with pytest.raises(ProviderError, match=rf"needs {package}.*voice-engine\[local\]") as caught:
        await factory.start()
    assert caught.value.code == "unavailable"
