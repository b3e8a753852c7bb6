"""A response of the double, from ``response.created`` to ``response.done``, at the pace of the script."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from audio.convert import convert
from audio.formats import ULAW_8K, AudioFormat
from testkit.openai_realtime.garbage import send_garbage
from testkit.openai_realtime.script import FunctionCall, Reply

if TYPE_CHECKING:
    from testkit.openai_realtime.session import Session


@dataclass(slots=True)
class Item:
    """An item of the conversation."""

    id: str
    origin: Literal["user", "model", "client"]
    fields: dict[str, Any]
    sound: bytes = b""
    """What the model said in it and the client did not truncate."""
    audio_format: AudioFormat = ULAW_8K

    @property
    def audio_ms(self) -> int:
        return int(self.audio_format.duration_ms(len(self.sound)))

    @property
    def call_id(self) -> str | None:
        return self.fields.get("call_id") if self.fields["type"] == "function_call" else None

    def body(self, status: str = "completed") -> dict[str, Any]:
        return {"id": self.id, "object": "realtime.item", "status": status, **self.fields}


class Response:
    def __init__(self, session: Session, reply: Reply, *, instructed: bool, faulty: bool) -> None:
        self.id = session.new_id("resp")
        self.instructed = instructed
        self.status: str | None = None
        """None while it is active."""
        self._session = session
        self._script = session.script
        self._reply = reply
        self._faulty = faulty
        self._message: Item | None = None
        self._said = ""
        self._outputs: list[dict[str, Any]] = []
        self.task: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        return self.status is None

    @property
    def item_id(self) -> str | None:
        """Id of its message, once it has begun."""
        return self._message.id if self._message else None

    def start(self) -> None:
        self._session.emit("response.created", response=self._body("in_progress"))
        self.task = asyncio.create_task(self._speak(), name=self.id)
        self.task.add_done_callback(self._check)

    def cancel(self, reason: Literal["turn_detected", "client_cancelled"]) -> None:
        self.abandon()
        if self._message is not None:
            self._finish_message(self._message, "incomplete")
        self._done("cancelled", reason)

    def abandon(self) -> None:
        """Stops without a word: the connection is gone."""
        if self.task is not None:
            self.task.cancel()

    def _check(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._session.violated(f"the double failed: {error!r}")

    async def _speak(self) -> None:
        if self._script.response_delay_ms:
            await asyncio.sleep(self._script.response_delay_ms / 1000)
        if self._reply.audio:
            self._message = self._begin_message()
            if not await self._say(self._message):
                return
            self._finish_message(self._message, "completed")
        for index, call in enumerate(self._reply.calls, start=len(self._outputs)):
            self._call(call, index)
        self._done("completed")

    def _begin_message(self) -> Item:
        session = self._session
        fields = {"type": "message", "role": "assistant", "content": []}
        item = Item(session.new_id("item"), "model", fields, audio_format=session.output_format)
        session.items[item.id] = item
        body = item.body("in_progress")
        session.emit("response.output_item.added", response_id=self.id, output_index=0, item=body)
        session.emit("conversation.item.added", item=body, previous_item_id=None)
        session.emit("response.content_part.added", **self._part(item), part={"type": "audio", "transcript": ""})
        return item

    async def _say(self, item: Item) -> bool:
        """Sends the sound; False when a fault of the script ended it."""
        session, script, spoken = self._session, self._script, item.audio_format
        sound = convert(self._reply.audio, self._reply.audio_format, spoken)
        loop = asyncio.get_running_loop()
        step = spoken.size_bytes(script.chunk_ms)
        interval_s = 0.0 if script.burst_factor is None else script.chunk_ms / 1000 / script.burst_factor
        started = loop.time()
        for number, start in enumerate(range(0, len(sound), step)):
            if interval_s and number:
                await asyncio.sleep(started + number * interval_s - loop.time())
            said_ms = spoken.duration_ms(start)
            if self._faulty and script.stall_after_ms is not None and said_ms >= script.stall_after_ms:
                return False
            hangs_up_at_ms = script.disconnect_after_ms
            if self._faulty and hangs_up_at_ms is not None and said_ms >= hangs_up_at_ms:
                session.hang_up(script.disconnect_code, script.disconnect_reason)
                return False
            self._transcribe(item, min(start + step, len(sound)) / len(sound))
            if number == 0:
                session.first_byte_sent_at.append(time.monotonic())
            session.emit_audio(self.id, item.id, sound[start : start + step])
            item.sound += sound[start : start + step]
            if number == 0:
                send_garbage(session, script.garbage)
        return True

    def _transcribe(self, item: Item, share: float) -> None:
        words = self._reply.transcript.split(" ")
        said = " ".join(words[: round(share * len(words))])
        delta, self._said = said[len(self._said) :], said
        if delta:
            self._session.emit("response.output_audio_transcript.delta", **self._part(item), delta=delta)

    def _finish_message(self, item: Item, status: Literal["completed", "incomplete"]) -> None:
        session = self._session
        session.emit("response.output_audio.done", **self._part(item))
        session.emit("response.output_audio_transcript.done", **self._part(item), transcript=self._said)
        part = {"type": "audio", "transcript": self._said}
        session.emit("response.content_part.done", **self._part(item), part=part)
        item.fields["content"] = [{"type": "output_audio", "transcript": self._said}]
        body = item.body(status)
        session.emit("conversation.item.done", item=body, previous_item_id=None)
        session.emit("response.output_item.done", response_id=self.id, output_index=0, item=body)
        self._outputs.append(body)

    def _call(self, call: FunctionCall, index: int) -> None:
        session = self._session
        fields = {
            "type": "function_call",
            "name": call.name,
            "call_id": session.new_id("call"),
            "arguments": "",
        }
        item = Item(session.new_id("item"), "model", fields)
        place = {"response_id": self.id, "output_index": index}
        session.emit("response.output_item.added", **place, item=item.body("in_progress"))
        argument_place = {**place, "item_id": item.id, "call_id": fields["call_id"]}
        session.emit("response.function_call_arguments.delta", **argument_place, delta=call.arguments)
        session.emit(
            "response.function_call_arguments.done",
            **argument_place,
            name=call.name,
            arguments=call.arguments,
        )
        fields["arguments"] = call.arguments
        session.add_item(item)
        session.emit("response.output_item.done", **place, item=item.body())
        self._outputs.append(item.body())

    def _done(self, status: Literal["completed", "cancelled"], reason: str | None = None) -> None:
        self.status = status
        details = {"type": status, "reason": reason} if reason else None
        self._session.emit("response.done", response=self._body(status) | {"status_details": details})
        limits = [{"name": "requests", "limit": 1000, "remaining": 999, "reset_seconds": 60.0}]
        self._session.emit("rate_limits.updated", rate_limits=limits)

    def _body(self, status: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "output": self._outputs,
            "output_modalities": ["audio"],
        }

    def _part(self, item: Item) -> dict[str, Any]:
        return {"response_id": self.id, "item_id": item.id, "output_index": 0, "content_index": 0}
