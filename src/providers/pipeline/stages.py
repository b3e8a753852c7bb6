"""The three seams of a pipeline. Each stage has one instance per call; all share the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from audio.formats import AudioFormat
from providers.base import Tool


@dataclass(slots=True, frozen=True)
class Transcript:
    """Text of the segment of caller speech that is being heard.

    Partial transcripts replace each other. A final one answers ``segment_ended`` (or comes on the
    recogniser's own decision) and may be empty when there were no words in it.
    """

    text: str
    final: bool
    end_of_turn: bool | None = None
    """The recogniser's own verdict, where it has one."""


class SpeechToText(Protocol):
    """Hears all of the caller's audio; transcribes the segments in which a voice detector heard speech."""

    format: AudioFormat

    async def run(self, on_transcript: Callable[[Transcript], None]) -> None:
        """Serves until cancelled. Raises ProviderError when recognition is lost for good."""

    def segment_started(self, expects: str | None) -> None:
        """Speech begins; the audio pushed from here on belongs to the segment.

        ``expects`` narrows what may be said (``yes_no``, ``digits`` …) where the recogniser can use it.
        """

    def push(self, frame: bytes) -> None:
        """One frame; never waits. What lies outside a segment may be ignored."""

    def segment_ended(self) -> None:
        """The speaker paused: a final Transcript is wanted soon. A new segment may start before it comes."""


@dataclass(slots=True, frozen=True)
class Message:
    """A line of the conversation, as the model is told it. ``content`` of the agent is what was heard."""

    role: Literal["system", "caller", "agent", "tool"]
    content: str
    tool_call_id: str = ""
    tool_name: str = ""


@dataclass(slots=True, frozen=True)
class TextDelta:
    text: str


@dataclass(slots=True, frozen=True)
class ToolRequest:
    call_id: str
    name: str
    arguments: str


class LanguageModel(Protocol):
    """Decides what is said next."""

    @property
    def expects(self) -> str | None:
        """What kind of answer the last reply asked for (see ``SpeechToText.segment_started``)."""

    def reply(self, conversation: Sequence[Message], tools: Sequence[Tool]) -> AsyncIterator[TextDelta | ToolRequest]:
        """Streams the next reply to the conversation; closing the iterator cancels it."""

    def is_complete(self, text: str) -> bool:
        """Whether ``text`` sounds like all the caller meant to say (True where the model cannot tell)."""


class TextToSpeech(Protocol):
    format: AudioFormat

    def synthesize(self, text: str) -> AsyncIterator[bytes]:
        """Speaks one clause; yields audio as it is made. Closing the iterator cancels it."""
