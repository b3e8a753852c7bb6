"""Events that a client sends to the Realtime API (GA schema), as the bytes of one text message each.

The part of an event id before the dash names the kind of event; an ``error`` event carries the id back.
"""

from __future__ import annotations

from binascii import b2a_base64
from typing import Any

import orjson

from audio.formats import AudioFormat
from providers.base import CallContext
from providers.openai_realtime.config import OpenAIRealtimeConfig, TurnDetection
from providers.openai_realtime.sound import DECLARATIONS


def session_update(
    event_id: str, config: OpenAIRealtimeConfig, context: CallContext, audio_format: AudioFormat
) -> bytes:
    """Settles the session: one format both ways, who owns the turn, the agent's instructions and tools."""
    declared = dict(DECLARATIONS[audio_format])
    session: dict[str, Any] = {
        "type": "realtime",
        "output_modalities": ["audio"],
        "instructions": context.prompt,
        "audio": {
            "input": {
                "format": declared,
                "turn_detection": _turn_detection(config.turn_detection, interruptible=context.interruptible),
            },
            "output": {"format": declared, "voice": config.voice},
        },
        "tools": [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            }
            for tool in context.tools
        ],
    }
    if config.input_transcription_model:
        session["audio"]["input"]["transcription"] = {"model": config.input_transcription_model}
    return orjson.dumps({"type": "session.update", "event_id": event_id, "session": session})


def _turn_detection(turns: TurnDetection, *, interruptible: bool) -> dict[str, Any] | None:
    if turns.type == "none":
        return None
    answers = {"create_response": True, "interrupt_response": interruptible}
    if turns.type == "semantic_vad":
        return {"type": "semantic_vad", "eagerness": turns.eagerness, **answers}
    return {
        "type": "server_vad",
        "threshold": turns.threshold,
        "silence_duration_ms": turns.silence_duration_ms,
        **answers,
    }


def append(number: int, frame: bytes) -> bytes:
    """A frame of the caller's sound; neither base64 nor our own id needs escaping."""
    return b'{"type":"input_audio_buffer.append","event_id":"append-%d","audio":"%b"}' % (
        number,
        b2a_base64(frame, newline=False),
    )


def commit(event_id: str) -> bytes:
    return orjson.dumps({"type": "input_audio_buffer.commit", "event_id": event_id})


def response_create(event_id: str, instructions: str | None = None) -> bytes:
    """Asks for a reply; with ``instructions`` for one that follows them and calls no tool."""
    event: dict[str, Any] = {"type": "response.create", "event_id": event_id}
    if instructions is not None:
        event["response"] = {"instructions": instructions, "tool_choice": "none"}
    return orjson.dumps(event)


def response_cancel(event_id: str, response_id: str) -> bytes:
    return orjson.dumps({"type": "response.cancel", "event_id": event_id, "response_id": response_id})


def item_truncate(event_id: str, item_id: str, audio_end_ms: int) -> bytes:
    """Tells how much of an item was heard: at least 1 ms and no more than was generated."""
    return orjson.dumps(
        {
            "type": "conversation.item.truncate",
            "event_id": event_id,
            "item_id": item_id,
            "content_index": 0,
            "audio_end_ms": audio_end_ms,
        }
    )


def item_delete(event_id: str, item_id: str) -> bytes:
    return orjson.dumps({"type": "conversation.item.delete", "event_id": event_id, "item_id": item_id})


def function_call_output(event_id: str, call_id: str, output: str) -> bytes:
    return orjson.dumps(
        {
            "type": "conversation.item.create",
            "event_id": event_id,
            "item": {"type": "function_call_output", "call_id": call_id, "output": output},
        }
    )
