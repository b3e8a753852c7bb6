"""What the double is told to do: what it says, how fast, and what goes wrong.

Everything can be written as JSON (``Script.model_dump_json`` and ``model_validate_json``), sound as base64.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from audio.formats import ULAW_8K, AudioFormat

Garbage = Literal["invalid_json", "wrong_types", "unknown_events", "binary", "huge"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")


class FunctionCall(_Model):
    name: str
    arguments: str = "{}"


class Reply(_Model):
    """One response of the model: a message, or function calls, or both."""

    audio: bytes = b""
    audio_format: AudioFormat = ULAW_8K
    """Of ``audio``. It is sent as it is to a session that speaks this format, and converted for any other."""
    transcript: str = ""
    calls: tuple[FunctionCall, ...] = ()


class Script(_Model):
    greeting: Reply = Reply()
    """Answers the first ``response.create`` that has instructions."""
    announcement: Reply = Reply()
    """Answers the later ones."""
    replies: tuple[Reply, ...] = (Reply(),)
    """Answer the caller's turns and tool results in this order, over and over."""
    caller_texts: tuple[str, ...] = ("",)
    """What the caller's turns are transcribed as, over and over, where the session asks for it."""

    response_delay_ms: int = 0
    """From the start of a response to its first sound."""
    burst_factor: float | None = 6.0
    """How much faster than real time sound is sent; None: all at once."""
    chunk_ms: int = 100
    speech_started_after_ms: int = 30
    """Voice that it takes to report ``speech_started``."""
    speech_stopped_after_ms: int | None = None
    """Silence that it takes to report ``speech_stopped``; None: what the session asks for."""

    never_answers: Literal["no", "accepts", "upgrades"] = "no"
    """``accepts``: TCP connects and no more; ``upgrades``: the WebSocket opens and no more."""
    reject_status: int | None = None
    """HTTP status that refuses the WebSocket."""
    deaf_after_ms: int | None = None
    """Stops reading after this much of the caller's sound."""
    faultless_responses: int = 0
    """How many responses are spoken in full before the next two faults apply."""
    stall_after_ms: int | None = None
    """Sends nothing more of a response after this much of its sound."""
    disconnect_after_ms: int | None = None
    """Hangs up after this much of a response's sound."""
    disconnect_code: int = 1011
    """Code of the close frame when it hangs up; 1006: none."""
    disconnect_reason: str = ""
    garbage: tuple[Garbage, ...] = ()
    """Sent after ``session.updated`` and amid every response."""
    error: dict[str, Any] | None = None
    """The body of an ``error`` event, sent in answer to ``session.update``."""
