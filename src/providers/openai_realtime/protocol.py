"""A session with the Realtime API, without the socket: messages and commands in, messages and events out."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from providers.base import (
    AgentItemDone,
    AgentText,
    CallContext,
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerText,
    ProviderError,
    ProviderSink,
    ProviderWarned,
    Ready,
    ReplyEnded,
    ToolCalled,
)
from providers.openai_realtime import client_events
from providers.openai_realtime.agent_items import AgentItem, AgentItems, Truncation
from providers.openai_realtime.api_errors import ALREADY_ACTIVE, COMMIT_EMPTY, ApiError
from providers.openai_realtime.commits import Commits
from providers.openai_realtime.config import OpenAIRealtimeConfig
from providers.openai_realtime.reply_requests import ReplyRequest, ReplyRequests
from providers.openai_realtime.server_events import (
    UNUSED,
    Event,
    MalformedEventError,
    audio,
    mapping,
    objects,
    optional_mapping,
    optional_text,
    parse,
    text,
)
from providers.openai_realtime.sound import nearest
from providers.openai_realtime.tool_calls import Results, ToolCalls

logger = structlog.get_logger(__name__)

MAX_FAULTS = 50
"""Malformed events and refused pieces of the caller's sound that a session survives."""

STATUSES = frozenset({"completed", "cancelled", "failed", "incomplete"})


class RealtimeSession:
    """What is known of one session. ``start`` opens it; every method is synchronous and none waits.

    ``receive`` raises ProviderError when the session cannot go on.
    """

    def __init__(self, config: OpenAIRealtimeConfig, context: CallContext) -> None:
        self._config = config
        self._context = context
        self._log = logger.bind(call_id=context.call_id)
        self._sink: ProviderSink
        self._send: Callable[[bytes], None]
        self._started = False
        self._event_count = 0
        self.audio_format = nearest(context.wire)
        """Of the sound in both directions."""
        self._items = AgentItems(self.audio_format)
        self._requests = ReplyRequests()
        self._tools = ToolCalls()
        self._commits = Commits(self.audio_format.size_bytes(config.commit_threshold_ms))
        self._caller_text = ("", "")
        self._faults = 0
        self.server_owns_turns = config.turn_detection.type != "none"
        self.ready = False
        self.frames_sent = 0
        self.warnings = 0
        self.unknown_events = 0
        self.late_deltas = 0
        if context.greeting:
            self._requests.add(ReplyRequest(verbatim(context.greeting)))

    # Commands

    def start(self, sink: ProviderSink, send: Callable[[bytes], None]) -> None:
        """The connection stands: settles the session and asks for the greeting."""
        self._sink = sink
        self._send = send
        self._started = True
        event_id = self._event_id("session")
        send(client_events.session_update(event_id, self._config, self._context, self.audio_format))
        self._ask_next()

    def append(self, frame: bytes) -> None:
        """Sends a frame of the caller's sound."""
        self.frames_sent += 1
        self._send(client_events.append(self.frames_sent, frame))
        if not self.server_owns_turns:
            self._commits.appended(len(frame))

    def say(self, words: str) -> None:
        self._requests.add(ReplyRequest(verbatim(words)))
        self._ask_next()

    def caller_turn_ended(self) -> None:
        if not self.server_owns_turns and self._commits.turn_ended():
            self._commit()

    def interrupt(self, item_id: str, heard_ms: int) -> None:
        requests = self._requests
        if requests.active is not None:
            self._items.cut_response(requests.active)
            if not requests.active_is_cancelled:
                requests.active_is_cancelled = True
                self._send(client_events.response_cancel(self._event_id("cancel"), requests.active))
        for correction in self._items.cut(item_id, heard_ms):
            if isinstance(correction, Truncation):
                event_id = self._event_id("truncate")
                self._send(client_events.item_truncate(event_id, correction.item_id, correction.audio_end_ms))
            else:
                self._send(client_events.item_delete(self._event_id("delete"), correction.item_id))

    def tool_result(self, call_id: str, output: str) -> None:
        results = self._tools.result(call_id, output)
        if results is None:
            self._log.warning("tool_result_ignored", tool_call_id=call_id)
        else:
            self._send_results(results)
            self._ask_next()

    def _commit(self) -> None:
        self._send(client_events.commit(self._event_id("commit")))
        self._requests.add(ReplyRequest())
        self._ask_next()

    def _send_results(self, results: Results) -> None:
        for call_id, output in results.outputs:
            self._send(client_events.function_call_output(self._event_id("result"), call_id, output))
        if results.complete:
            self._requests.add(ReplyRequest(tells_results=True))

    def _ask_next(self) -> None:
        if self._started and (request := self._requests.next()) is not None:
            event_id = self._event_id("create")
            self._requests.asked(event_id, request)
            self._send(client_events.response_create(event_id, request.instructions))

    def _event_id(self, kind: str) -> str:
        self._event_count += 1
        return f"{kind}-{self._event_count}"

    # Messages of the server

    def receive(self, message: bytes | memoryview) -> None:
        """One text message. Raises ProviderError when the session cannot go on."""
        try:
            kind, event = parse(message)
            handler = _HANDLERS.get(kind)
            if handler is not None:
                handler(self, event)
            elif kind not in UNUSED:
                self.unknown_events += 1
        except MalformedEventError as error:
            self.malformed(str(error))

    def malformed(self, reason: str) -> None:
        """Something arrived that is no event. Raises ProviderError when that has happened too often."""
        self._warn("malformed_event", reason)
        self._count_fault("the server sends what is not its protocol")

    def _on_audio_delta(self, event: Event) -> None:
        item_id = text(event, "item_id")
        item = self._items.find(item_id) or self._begin(event, item_id)
        if item.cut:
            self.late_deltas += 1
            return
        chunk = audio(event, "delta")
        if chunk:
            self._items.sounded(item_id, len(chunk))
            self._sink.audio(item_id, chunk)

    def _on_audio_done(self, event: Event) -> None:
        self._finish(text(event, "item_id"))

    def _on_output_item_done(self, event: Event) -> None:
        self._finish(optional_text(mapping(event, "item"), "id"))

    def _on_agent_text_delta(self, event: Event) -> None:
        item_id, words = text(event, "item_id"), text(event, "delta")
        item = self._begin(event, item_id)
        if not item.cut:
            item.text += words
            self._sink.event(AgentText(item_id, item.text, final=False))

    def _on_agent_transcript_done(self, event: Event) -> None:
        self._agent_text_done(event, text(event, "transcript"))

    def _on_agent_text_done(self, event: Event) -> None:
        self._agent_text_done(event, text(event, "text"))

    def _agent_text_done(self, event: Event, words: str) -> None:
        item_id = text(event, "item_id")
        item = self._begin(event, item_id)
        if not item.cut:
            item.text = words
            self._sink.event(AgentText(item_id, words))

    def _on_session_updated(self, _: Event) -> None:
        self._become_ready()

    def _on_response_created(self, event: Event) -> None:
        self._become_ready()
        response_id = optional_text(mapping(event, "response"), "id")
        self._requests.created(response_id, knows_all=self._tools.all_confirmed)

    def _on_response_done(self, event: Event) -> None:
        response = mapping(event, "response")
        response_id = optional_text(response, "id")
        outputs = objects(response, "output")
        status = optional_text(response, "status")
        for item_id in self._items.unfinished(response_id):
            self._finish(item_id, broken_off=status != "completed")
        self._requests.done(response_id)
        for output in outputs:
            if output.get("type") == "function_call" and status == "completed":
                self._tool_called(response_id, output)
        self._send_results(self._tools.parent_done(response_id))
        if status == "failed":
            self._on_response_failed(response)
        self._sink.event(ReplyEnded(status if status in STATUSES else "failed"))
        self._ask_next()

    def _on_response_failed(self, response: Event) -> None:
        details = optional_mapping(response, "status_details")
        error = ApiError.read(optional_mapping(details, "error"))
        error.raise_if_fatal()
        self._warn(error.code, error.message)

    def _on_output_item_added(self, event: Event) -> None:
        item = mapping(event, "item")
        if item.get("type") == "function_call" and item.get("call_id") is not None:
            self._tools.announced(text(item, "call_id"), text(item, "name"))

    def _on_arguments_done(self, event: Event) -> None:
        self._tool_called(text(event, "response_id"), event)

    def _tool_called(self, response_id: str, call: Event) -> None:
        call_id, arguments = text(call, "call_id"), text(call, "arguments")
        name = optional_text(call, "name") or self._tools.name(call_id)
        if not name:
            raise MalformedEventError("name: a function call without one")
        if not self._items.is_cut(response_id) and self._tools.called(response_id, call_id):
            self._sink.event(ToolCalled(call_id, name, arguments))

    def _on_item_added(self, event: Event) -> None:
        item = mapping(event, "item")
        if item.get("type") == "function_call_output":
            self._tools.confirmed(text(item, "call_id"))

    def _on_speech_started(self, _: Event) -> None:
        requests = self._requests
        requests.caller_is_speaking = True
        if requests.active is not None:
            requests.active_is_cancelled = True
            if not self._items.has_begun(requests.active):
                # the server gives the reply up before its first sound: no fragment of it is to start now
                self._items.cut_response(requests.active)
        self._sink.event(CallerSpeechStarted(certain=True))

    def _on_speech_stopped(self, _: Event) -> None:
        self._requests.caller_is_speaking = False
        turns = self._config.turn_detection
        since_voice_ms = turns.silence_duration_ms if turns.type == "server_vad" else 0
        self._sink.event(CallerSpeechStopped(float(since_voice_ms)))

    def _on_committed(self, _: Event) -> None:
        if not self.server_owns_turns and self._commits.acknowledged():
            self._commit()

    def _on_caller_text_delta(self, event: Event) -> None:
        item_id, words = text(event, "item_id"), optional_text(event, "delta")
        known_id, known_words = self._caller_text
        if item_id == known_id:
            words = known_words + words
        self._caller_text = (item_id, words)
        self._sink.event(CallerText(words, final=False))

    def _on_caller_text_done(self, event: Event) -> None:
        self._sink.event(CallerText(text(event, "transcript")))

    def _on_transcription_failed(self, event: Event) -> None:
        self._warn("transcription_failed", optional_text(mapping(event, "error"), "message"))

    def _on_error(self, event: Event) -> None:
        error = ApiError.read(mapping(event, "error"))
        error.raise_if_fatal()
        kind = error.cause_kind
        if kind == "commit" or error.code == COMMIT_EMPTY:
            self._commits.refused()
        elif kind == "create":
            self._requests.refused(error.cause, again=error.code == ALREADY_ACTIVE)
        if error.came_too_late:
            self._log.debug("provider_event_came_too_late", code=error.code, cause=error.cause)
        else:
            self._warn(error.code, error.message)
        if kind == "append":
            self._count_fault("the server refuses the caller's sound")
        self._ask_next()

    def _begin(self, event: Event, item_id: str) -> AgentItem:
        return self._items.get(item_id, optional_text(event, "response_id"))

    def _finish(self, item_id: str, broken_off: bool = False) -> None:
        item = self._items.find(item_id)
        if item is not None and not item.cut and not item.finished:
            item.finished = True
            requests = self._requests
            cancelled = requests.active_is_cancelled and requests.active == item.response_id
            item.whole = not (broken_off or cancelled)
            self._sink.event(AgentItemDone(item_id))

    def _become_ready(self) -> None:
        if not self.ready:
            self.ready = True
            self._sink.event(Ready())

    def _warn(self, code: str, message: str) -> None:
        self.warnings += 1
        self._log.warning("provider_warned", code=code, message=message)
        self._sink.event(ProviderWarned(code, message))

    def _count_fault(self, reason: str) -> None:
        self._faults += 1
        if self._faults > MAX_FAULTS:
            raise ProviderError("protocol_error", reason)


def verbatim(words: str) -> str:
    """Instructions for a reply that consists of ``words`` and nothing else."""
    return f"Say exactly the following to the caller, word for word, and add nothing:\n\n{words}"


_HANDLERS: dict[str, Callable[[RealtimeSession, Event], None]] = {
    "session.updated": RealtimeSession._on_session_updated,
    "response.created": RealtimeSession._on_response_created,
    "response.done": RealtimeSession._on_response_done,
    "response.output_item.added": RealtimeSession._on_output_item_added,
    "response.output_item.done": RealtimeSession._on_output_item_done,
    "response.output_audio.delta": RealtimeSession._on_audio_delta,
    "response.output_audio.done": RealtimeSession._on_audio_done,
    "response.output_audio_transcript.delta": RealtimeSession._on_agent_text_delta,
    "response.output_audio_transcript.done": RealtimeSession._on_agent_transcript_done,
    "response.output_text.delta": RealtimeSession._on_agent_text_delta,
    "response.output_text.done": RealtimeSession._on_agent_text_done,
    "response.function_call_arguments.done": RealtimeSession._on_arguments_done,
    "conversation.item.added": RealtimeSession._on_item_added,
    "input_audio_buffer.speech_started": RealtimeSession._on_speech_started,
    "input_audio_buffer.speech_stopped": RealtimeSession._on_speech_stopped,
    "input_audio_buffer.committed": RealtimeSession._on_committed,
    "conversation.item.input_audio_transcription.delta": RealtimeSession._on_caller_text_delta,
    "conversation.item.input_audio_transcription.completed": RealtimeSession._on_caller_text_done,
    "conversation.item.input_audio_transcription.failed": RealtimeSession._on_transcription_failed,
    "error": RealtimeSession._on_error,
}
# The names of the beta, which compatible services still use.
_HANDLERS |= {
    legacy: _HANDLERS[current]
    for legacy, current in {
        "response.audio.delta": "response.output_audio.delta",
        "response.audio.done": "response.output_audio.done",
        "response.audio_transcript.delta": "response.output_audio_transcript.delta",
        "response.audio_transcript.done": "response.output_audio_transcript.done",
        "response.text.delta": "response.output_text.delta",
        "response.text.done": "response.output_text.done",
        "conversation.item.created": "conversation.item.added",
    }.items()
}
