"""What the tests of the OpenAI Realtime provider share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import orjson
from pydantic import SecretStr

from providers.base import CallContext, ProviderError, ProviderEvent
from providers.openai_realtime import OpenAIRealtimeConfig, OpenAIRealtimeFactory, OpenAIRealtimeProvider
from providers.openai_realtime.protocol import RealtimeSession
from testkit.openai_realtime.validation import CLIENT_EVENTS, SERVER_EVENTS, problems
from testkit.waiting import wait_until

Kind = TypeVar("Kind")

CONTEXT = CallContext(call_id="call-1", greeting="Good morning!", prompt="You are a receptionist.")
SILENCE = b"\xff" * 160
VOICE = b"\x80\x00" * 80


class RecordingSink:
    """Keeps all that a provider reports, in order."""

    def __init__(self) -> None:
        self.events: list[ProviderEvent] = []
        self.sound: dict[str, bytearray] = {}
        self.chunks: list[tuple[str, bytes]] = []
        self.on_event: Callable[[ProviderEvent], None] = lambda event: None

    def audio(self, item_id: str, chunk: bytes) -> None:
        self.sound.setdefault(item_id, bytearray()).extend(chunk)
        self.chunks.append((item_id, chunk))

    def event(self, event: ProviderEvent) -> None:
        self.events.append(event)
        self.on_event(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.events if isinstance(event, kind)]


class Wire:
    """A session without a socket. What is said in both directions must satisfy the SDK's types."""

    def __init__(self, context: CallContext = CONTEXT, *, start: bool = True, **config: Any) -> None:
        self.session = RealtimeSession(OpenAIRealtimeConfig(**config), context)
        self.sink = RecordingSink()
        self.messages: list[dict[str, Any]] = []
        self._served = 0
        if start:
            self.session.start(self.sink, self.send)

    def send(self, message: bytes) -> None:
        event = orjson.loads(message)
        assert problems(CLIENT_EVENTS, event["type"], message) == []
        assert event["event_id"] not in [earlier["event_id"] for earlier in self.messages]
        self.messages.append(event)

    def sent(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    def sent_kinds(self) -> list[str]:
        return [message["type"] for message in self.messages]

    def serve(self, kind: str, **fields: Any) -> None:
        """A message of the API as it is today."""
        self._served += 1
        message = orjson.dumps({"type": kind, "event_id": f"event_{self._served}", **fields})
        assert problems(SERVER_EVENTS, kind, message) == []
        self.session.receive(message)

    def serve_raw(self, event: Any) -> None:
        self.session.receive(orjson.dumps(event))

    def response_created(self, response_id: str = "r1") -> None:
        self.serve("response.created", response={"id": response_id, "status": "in_progress"})

    def response_done(self, response_id: str = "r1", status: str = "completed", **fields: Any) -> None:
        self.serve("response.done", response={"id": response_id, "status": status, **fields})

    def sound(self, sound: bytes, item_id: str = "i1", response_id: str = "r1") -> None:
        self.serve("response.output_audio.delta", delta=_base64(sound), **_place(item_id, response_id))

    def sound_done(self, item_id: str = "i1", response_id: str = "r1") -> None:
        self.serve("response.output_audio.done", **_place(item_id, response_id))

    def transcript(self, delta: str, item_id: str = "i1", response_id: str = "r1") -> None:
        self.serve("response.output_audio_transcript.delta", delta=delta, **_place(item_id, response_id))

    def call(self, call_id: str, response_id: str = "r1", name: str = "hang_up", arguments: str = "{}") -> None:
        self.serve(
            "response.function_call_arguments.done",
            call_id=call_id,
            name=name,
            arguments=arguments,
            item_id=f"item-of-{call_id}",
            output_index=0,
            response_id=response_id,
        )

    def speech_started(self) -> None:
        self.serve("input_audio_buffer.speech_started", audio_start_ms=0, item_id="caller-1")

    def speech_stopped(self) -> None:
        self.serve("input_audio_buffer.speech_stopped", audio_end_ms=900, item_id="caller-1")

    def committed(self) -> None:
        self.serve("input_audio_buffer.committed", item_id="caller-1")

    def error(self, code: str, event_id: str | None = None) -> None:
        self.serve("error", error={"type": "t", "code": code, "message": f"about {code}", "event_id": event_id})


def _place(item_id: str, response_id: str) -> dict[str, Any]:
    return {"item_id": item_id, "response_id": response_id, "output_index": 0, "content_index": 0}


def _base64(sound: bytes) -> str:
    from base64 import b64encode

    return b64encode(sound).decode()


class Conversation:
    """A provider that talks with a server."""

    def __init__(self, provider: OpenAIRealtimeProvider) -> None:
        self.provider = provider
        self.sink = RecordingSink()
        self.task = asyncio.create_task(provider.run(self.sink), name="provider-under-test")

    async def sees(self, kind: type[Kind], number: int = 1) -> Kind:
        """Waits for the event of that kind with that number (from 1)."""
        await wait_until(lambda: self.task.done() or len(self.sink.of(kind)) >= number, what=kind.__name__)
        found = self.sink.of(kind)
        if len(found) < number:
            await self.task
        return found[number - 1]

    async def failure(self) -> ProviderError:
        """Waits for the provider to give up."""
        await asyncio.wait({self.task}, timeout=5)
        assert self.task.done(), "the provider goes on"
        error = self.task.exception()
        assert isinstance(error, ProviderError), error
        return error


@asynccontextmanager
async def conversation(
    url: str, context: CallContext = CONTEXT, *, before: Any = None, **config: Any
) -> AsyncIterator[Conversation]:
    """A provider that runs against ``url``; ``before`` is called with it before it starts."""
    factory = OpenAIRealtimeFactory(OpenAIRealtimeConfig(base_url=url, **config), SecretStr("sk-test-key"))
    await factory.start()
    provider = factory.create(context)
    if before is not None:
        before(provider)
    talk = Conversation(provider)
    try:
        yield talk
    finally:
        talk.task.cancel()
        with suppress(asyncio.CancelledError, ProviderError):
            await talk.task
        await factory.close()
