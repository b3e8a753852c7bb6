"""Whatever a server sends, in whatever order: the session keeps its promises."""

from __future__ import annotations

from base64 import b64encode
from contextlib import suppress
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_support import Wire

from providers.base import ProviderError
from providers.openai_realtime import protocol
from testkit.openai_realtime.validation import SERVER_EVENTS

KINDS = sorted({*SERVER_EVENTS, *protocol._HANDLERS})
VITAL_KINDS = [
    *["response.output_audio.delta"] * 4,
    "response.created",
    "response.done",
    "response.output_audio.done",
    "input_audio_buffer.speech_started",
    "input_audio_buffer.committed",
    "error",
]
ITEMS = [f"i{number}" for number in range(4)]
RESPONSES = [f"r{number}" for number in range(3)]
CALLS = ["c1", "c2"]

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.sampled_from([*ITEMS, *RESPONSES]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
STATUSES = ["completed", "cancelled", "failed", "incomplete", "odd", None]
ITEM_TYPES = ["message", "function_call", "function_call_output"]
ERRORS = [
    "conversation_already_has_active_response",
    "invalid_value",
    "odd",
    None,
    "response_cancel_not_active",
]
CAUSES = ["create-2", "create-3", "commit-4", "truncate-5", "append-1", None]
SOUND = b64encode(bytes(160)).decode()


def server_event(kind: str, item_id: str, response_id: str, choice: int) -> dict[str, Any]:
    """An event with every field that any type of event has; ``choice`` picks the rest."""
    call_id = CALLS[choice % len(CALLS)]
    item = {
        "id": item_id,
        "type": ITEM_TYPES[choice % len(ITEM_TYPES)],
        "call_id": call_id,
        "name": "tool",
        "arguments": "{}",
    }
    return {
        "type": kind,
        "item_id": item_id,
        "response_id": response_id,
        "delta": SOUND,
        "transcript": "words",
        "text": "words",
        "call_id": call_id,
        "arguments": "{}",
        "name": "tool",
        "item": item,
        "response": {"id": response_id, "status": STATUSES[choice % len(STATUSES)], "output": [item]},
        "error": {
            "type": "t",
            "message": "m",
            "code": ERRORS[choice % len(ERRORS)],
            "event_id": CAUSES[choice % len(CAUSES)],
        },
    }


item_ids, response_ids = st.sampled_from(ITEMS), st.sampled_from(RESPONSES)
vital = st.builds(server_event, st.sampled_from(VITAL_KINDS), item_ids, response_ids, st.integers(0, 11))
event = st.builds(server_event, st.sampled_from(KINDS), item_ids, response_ids, st.integers(0, 11))
spoiled = st.builds(
    lambda event, key, value: {**event, key: value},
    vital | event,
    st.sampled_from(sorted(server_event("", "", "", 0))),
    anything,
)
noise = st.binary(max_size=20) | anything.map(orjson.dumps)
command = st.one_of(
    st.tuples(st.just("interrupt"), st.sampled_from(ITEMS), st.integers(-10, 100)),
    st.tuples(st.just("say"), st.text(max_size=5)),
    st.tuples(st.just("tool_result"), st.sampled_from(CALLS), st.text(max_size=5)),
    st.tuples(st.just("append"), st.sampled_from([bytes(160), bytes(1600)])),
    st.tuples(st.just("caller_turn_ended")),
)
WEIGHTS = [(vital, 10), (event, 3), (spoiled, 3), (noise, 1), (command, 4)]
step = st.sampled_from([kind for kind, weight in WEIGHTS for _ in range(weight)]).flatmap(lambda kind: kind)
steps = st.lists(step, min_size=10, max_size=60)


class Promises:
    """What must hold, followed from outside."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.cut: set[str] = set()
        self.commits_in_flight = 0

    def interrupted(self, item_id: str) -> None:
        heard = list(self.wire.sink.sound)
        if item_id in heard:
            self.cut |= set(heard[heard.index(item_id) :])

    def answered(self, message: bytes) -> None:
        """A commit is out of the way once the server has accepted it or refused it."""
        if any(sign in message for sign in (b".committed", b"commit-", b"commit_empty")):
            self.commits_in_flight = 0

    def check(self, chunks_before: int, sent_before: int) -> None:
        for item_id, _ in self.wire.sink.chunks[chunks_before:]:
            assert item_id not in self.cut
        for sent in self.wire.messages[sent_before:]:
            if sent["type"] == "conversation.item.truncate":
                received = len(self.wire.sink.sound[sent["item_id"]])
                assert 1 <= sent["audio_end_ms"] <= received // 8
            elif sent["type"] == "input_audio_buffer.commit":
                self.commits_in_flight += 1
                assert self.commits_in_flight == 1


@settings(max_examples=400, deadline=None)
@given(steps=steps, turns=st.sampled_from(["server_vad", "none"]))
def test_random_sessions(steps: list[Any], turns: str) -> None:
    wire = Wire(turn_detection={"type": turns})
    promises = Promises(wire)
    with suppress(ProviderError):
        for step in steps:
            chunks, sent = len(wire.sink.chunks), len(wire.messages)
            if isinstance(step, dict | bytes):
                message = step if isinstance(step, bytes) else orjson.dumps(step)
                promises.answered(message)
                wire.session.receive(message)
            else:
                name, *arguments = step
                if name == "interrupt":
                    promises.interrupted(arguments[0])
                getattr(wire.session, name)(*arguments)
            promises.check(chunks, sent)
    if turns == "server_vad":
        assert wire.sent("input_audio_buffer.commit") == []
