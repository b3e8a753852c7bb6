"""One connection to the double: the API's side of a conversation, and a record of what the client did."""

from __future__ import annotations

import asyncio
import time
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

import orjson
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport

from audio.convert import Converter, converter
from audio.formats import ALAW_8K, SLIN_24K, ULAW_8K, AudioFormat
from testkit.openai_realtime import validation
from testkit.openai_realtime.garbage import send_garbage
from testkit.openai_realtime.responses import Item, Response
from testkit.openai_realtime.script import Reply, Script
from testkit.openai_realtime.voice import VoiceDetector

Event = dict[str, Any]

MIN_COMMIT_MS = 100
"""The API refuses to commit less sound."""

FORMATS: dict[str, tuple[Event | None, AudioFormat]] = {
    "audio/pcmu": ({"type": "audio/pcmu"}, ULAW_8K),
    "audio/pcma": ({"type": "audio/pcma"}, ALAW_8K),
    "audio/pcm": ({"type": "audio/pcm", "rate": 24000}, SLIN_24K),
}
"""How a session may declare each format. One that declares none speaks μ-law here (24 kHz with the real API)."""


@dataclass(slots=True, frozen=True)
class Append:
    """A piece of the caller's sound, and when it came (``time.monotonic``)."""

    at: float
    size_bytes: int


@dataclass(slots=True, frozen=True)
class Truncated:
    item_id: str
    audio_end_ms: int


class Session(WSListener):
    """Public attributes are for tests to read; methods without an underscore for them to call."""

    def __init__(
        self,
        script: Script,
        model: str,
        validate: Literal["all", "first_of_kind"],
        violated: Callable[[str], None],
        trace: Callable[[Event], None] | None = None,
    ) -> None:
        self.script = script
        self.model = model
        self.received_events: list[Event] = []
        """All but the appends, in order of arrival."""
        self.received_at: list[float] = []
        """When each of them came."""
        self.input_format = ULAW_8K
        self.output_format = ULAW_8K
        self.received_audio = bytearray()
        """In ``input_format``."""
        self.appends: list[Append] = []
        self.sent_events: list[str] = []
        """Types of what was sent, in order; audio deltas left out."""
        self.truncated: list[Truncated] = []
        self.deleted: list[str] = []
        self.errors: list[Event] = []
        """Bodies of the error events that were sent."""
        self.first_byte_sent_at: list[float] = []
        self.speech_started_sent_at: list[float] = []
        self.responses: list[Response] = []
        self.items: dict[str, Item] = {}
        self.closed = asyncio.Event()
        self.close_code: int | None = None
        """Code of the client's close frame."""
        self.settings: Event = {
            "type": "realtime",
            "model": model,
            "audio": {
                "input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 500}},
                "output": {},
            },
        }
        self._validate_all = validate == "all"
        self._seen: set[str] = set()
        self.violated = violated
        """Takes a description of what somebody did wrong."""
        self._trace = trace
        self._ids = count(1)
        self._buffer_bytes = 0
        self._turns = 0
        self._detector = VoiceDetector(script.speech_started_after_ms, 500)
        self._to_detector: Converter = converter(self.input_format, ULAW_8K)
        self._speech_item = ""
        self._greeted = False
        self._transport: WSTransport
        self._handlers: dict[str, Callable[[Event], None]] = {
            "session.update": self._on_session_update,
            "input_audio_buffer.commit": self._on_commit,
            "input_audio_buffer.clear": self._on_clear,
            "conversation.item.create": self._on_item_create,
            "conversation.item.truncate": self._on_truncate,
            "conversation.item.delete": self._on_delete,
            "response.create": self._on_response_create,
            "response.cancel": self._on_response_cancel,
        }

    # For tests

    def events(self, kind: str) -> list[Event]:
        """The received events of one type."""
        return [event for event in self.received_events if event["type"] == kind]

    @property
    def active(self) -> Response | None:
        return self.responses[-1] if self.responses and self.responses[-1].active else None

    @property
    def is_open(self) -> bool:
        return not self.closed.is_set()

    def stop_reading(self) -> None:
        self._transport.underlying_transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.underlying_transport.resume_reading()

    def hang_up(self, code: int = 1011, reason: str = "") -> None:
        """Ends the connection, with a close frame unless ``code`` is 1006."""
        if code == WSCloseCode.ABNORMAL_CLOSURE.value:
            self._transport.disconnect(graceful=False)
        else:
            self._transport.send_close(code, reason.encode())  # type: ignore[arg-type]
            self._transport.disconnect()

    def emit(self, kind: str, **fields: Any) -> None:
        """Sends an event of the API, which must be what the SDK's types say."""
        if self.closed.is_set():
            return
        message = orjson.dumps({"type": kind, "event_id": self.new_id("event"), **fields})
        if self._validate_all or kind not in self._seen:
            self._seen.add(kind)
            self._note(validation.problems(validation.SERVER_EVENTS, kind, message), "the double sent")
        if kind != "response.output_audio.delta":
            self.sent_events.append(kind)
            if self._trace is not None:
                self._trace({"sent": kind, "at": time.monotonic(), **fields})
        self._transport.send(WSMsgType.TEXT, message)

    def emit_audio(self, response_id: str, item_id: str, sound: bytes) -> None:
        self.emit(
            "response.output_audio.delta",
            response_id=response_id,
            item_id=item_id,
            output_index=0,
            content_index=0,
            delta=b2a_base64(sound, newline=False).decode(),
        )

    def emit_error(self, code: str, message: str, cause: str | None = None) -> None:
        body = {"type": "invalid_request_error", "code": code, "message": message, "event_id": cause}
        self.errors.append(body)
        self.emit("error", error=body)

    async def settle(self) -> None:
        """Waits until no response is being spoken any more."""
        await asyncio.gather(*(r.task for r in self.responses if r.task), return_exceptions=True)

    def send_raw(self, message: bytes, kind: WSMsgType = WSMsgType.TEXT) -> None:
        """Sends anything at all."""
        self._transport.send(kind, message)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._ids)}"

    # The connection

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport
        if self.script.never_answers == "no":
            self.emit("session.created", session=self.settings)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.closed.set()
        for response in self.responses:
            response.abandon()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind is WSMsgType.TEXT:
            if self.script.never_answers == "no":
                self._receive(frame.get_payload_as_bytes())
        elif kind is WSMsgType.CLOSE:
            self.close_code = frame.get_close_code().value
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()
        elif kind is not WSMsgType.PONG:
            self.violated(f"the client sent a frame of kind {kind}")

    def _receive(self, message: bytes) -> None:
        event = orjson.loads(message)
        kind = event.get("type", "")
        if self._validate_all or kind not in self._seen:
            self._seen.add(kind)
            self._note(validation.problems(validation.CLIENT_EVENTS, kind, message), "the client sent")
            if not event.get("event_id"):
                self.violated(f"{kind}: without event_id")
        if kind == "input_audio_buffer.append":
            self._on_append(a2b_base64(event["audio"]))
            return
        self.received_events.append(event)
        self.received_at.append(time.monotonic())
        if self._trace is not None:
            self._trace({"received": kind, "at": self.received_at[-1], **event})
        handler = self._handlers.get(kind)
        if handler is not None:
            handler(event)
        else:
            self.emit_error("invalid_value", f"{kind} is not supported here", event.get("event_id"))

    def _note(self, problems: list[str], who: str) -> None:
        for problem in problems:
            self.violated(f"{who}: {problem}")

    # The caller's sound

    def _on_append(self, sound: bytes) -> None:
        self.appends.append(Append(time.monotonic(), len(sound)))
        self.received_audio += sound
        self._buffer_bytes += len(sound)
        deaf_after_ms = self.script.deaf_after_ms
        if deaf_after_ms is not None and self.input_format.duration_ms(len(self.received_audio)) >= deaf_after_ms:
            self.stop_reading()
        turns = self._turn_detection
        if turns is None:
            return
        for edge in self._detector.hear(self._to_detector(sound)):
            if edge.speaking:
                self._speech_item = self.new_id("item")
                self.speech_started_sent_at.append(time.monotonic())
                self.emit("input_audio_buffer.speech_started", audio_start_ms=edge.at_ms, item_id=self._speech_item)
                if self.active is not None and turns.get("interrupt_response", True):
                    self.active.cancel("turn_detected")
            else:
                self.emit("input_audio_buffer.speech_stopped", audio_end_ms=edge.at_ms, item_id=self._speech_item)
                self._take_turn(self._speech_item)
                if turns.get("create_response", True) and self.active is None:
                    self._respond(self._next_reply())

    @property
    def _turn_detection(self) -> Event | None:
        turns: Event | None = self.settings["audio"]["input"].get("turn_detection")
        return turns

    def _take_turn(self, item_id: str) -> None:
        """The buffer becomes a message of the caller."""
        self._buffer_bytes = 0
        self._turns += 1
        item = Item(item_id, "user", {"type": "message", "role": "user", "content": [{"type": "input_audio"}]})
        self.emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=None)
        self.add_item(item)
        if self.settings["audio"]["input"].get("transcription"):
            texts = self.script.caller_texts
            words = texts[(self._turns - 1) % len(texts)]
            place = {"item_id": item_id, "content_index": 0}
            self.emit("conversation.item.input_audio_transcription.delta", **place, delta=words)
            self.emit(
                "conversation.item.input_audio_transcription.completed",
                **place,
                transcript=words,
                usage={"type": "duration", "seconds": 1.0},
            )

    def add_item(self, item: Item) -> None:
        self.items[item.id] = item
        self.emit("conversation.item.added", item=item.body(), previous_item_id=None)
        self.emit("conversation.item.done", item=item.body(), previous_item_id=None)

    # What the client asks for

    def _on_session_update(self, event: Event) -> None:
        wanted = event.get("session", {})
        for direction in ("input", "output"):
            changes = wanted.get("audio", {}).get(direction, {})
            if "format" in changes:
                self._settle_format(direction, changes["format"])
            self.settings["audio"][direction] |= changes
        self.settings |= {key: value for key, value in wanted.items() if key != "audio"}
        turns = self._turn_detection or {}
        self._detector.stop_ms = self.script.speech_stopped_after_ms or turns.get("silence_duration_ms", 500)
        if self.script.error is not None:
            self.errors.append(self.script.error)
            self.emit("error", error=self.script.error)
        self.emit("session.updated", session=self.settings)
        send_garbage(self, self.script.garbage)

    def _settle_format(self, direction: str, declared: Event) -> None:
        declaration, audio_format = FORMATS.get(declared.get("type", ""), (None, ULAW_8K))
        if declared != declaration:
            self.violated(f"audio.{direction}.format: {declared} is none of the API's")
        elif direction == "output":
            self.output_format = audio_format
        elif audio_format != self.input_format:
            if self.received_audio:
                self.violated("audio.input.format: changed amid the caller's sound")
            self.input_format = audio_format
            self._to_detector = converter(audio_format, ULAW_8K)

    def _on_commit(self, event: Event) -> None:
        buffered_ms = self.input_format.duration_ms(self._buffer_bytes)
        if buffered_ms < MIN_COMMIT_MS:
            self.emit_error(
                "input_audio_buffer_commit_empty",
                f"buffer too small: {buffered_ms:.0f} ms of at least {MIN_COMMIT_MS} ms",
                event.get("event_id"),
            )
        else:
            self._take_turn(self.new_id("item"))

    def _on_clear(self, _: Event) -> None:
        self._buffer_bytes = 0
        self.emit("input_audio_buffer.cleared")

    def _on_item_create(self, event: Event) -> None:
        body = dict(event["item"])
        if body.get("type") == "function_call_output" and not any(
            item.call_id == body.get("call_id") for item in self.items.values()
        ):
            self.emit_error("invalid_tool_call_id", "no such function call", event.get("event_id"))
            return
        self.add_item(Item(body.pop("id", None) or self.new_id("item"), "client", body))

    def _on_truncate(self, event: Event) -> None:
        item_id, audio_end_ms, cause = event["item_id"], event["audio_end_ms"], event.get("event_id")
        item = self.items.get(item_id)
        if item is None or item.origin != "model":
            self.emit_error("item_truncate_invalid_item_id", f"no message {item_id} of the model", cause)
        elif not 1 <= audio_end_ms <= item.audio_ms:
            self.emit_error("invalid_value", f"audio of {item.audio_ms} ms cannot end at {audio_end_ms} ms", cause)
        else:
            item.sound = item.sound[: item.audio_format.size_bytes(audio_end_ms)]
            self.truncated.append(Truncated(item_id, audio_end_ms))
            self.emit("conversation.item.truncated", item_id=item_id, content_index=0, audio_end_ms=audio_end_ms)

    def _on_delete(self, event: Event) -> None:
        item_id = event["item_id"]
        if self.items.pop(item_id, None) is None:
            self.emit_error("item_delete_invalid_item_id", f"no item {item_id}", event.get("event_id"))
        else:
            self.deleted.append(item_id)
            self.emit("conversation.item.deleted", item_id=item_id)

    def _on_response_create(self, event: Event) -> None:
        if self.active is not None:
            self.emit_error(
                "conversation_already_has_active_response",
                f"response {self.active.id} is in progress",
                event.get("event_id"),
            )
        elif not (event.get("response") or {}).get("instructions"):
            self._respond(self._next_reply())
        elif self._greeted:
            self._respond(self.script.announcement)
        else:
            self._greeted = True
            self._respond(self.script.greeting)

    def _on_response_cancel(self, event: Event) -> None:
        wanted = event.get("response_id")
        if self.active is None or wanted not in (None, self.active.id):
            self.emit_error("response_cancel_not_active", "no active response found", event.get("event_id"))
        else:
            self.active.cancel("client_cancelled")

    def _next_reply(self) -> Reply:
        answered = sum(not response.instructed for response in self.responses)
        return self.script.replies[answered % len(self.script.replies)]

    def _respond(self, reply: Reply) -> None:
        instructed = reply is self.script.greeting or reply is self.script.announcement
        faulty = len(self.responses) >= self.script.faultless_responses
        response = Response(self, reply, instructed=instructed, faulty=faulty)
        self.responses.append(response)
        response.start()
