"""The seam between a call and whoever talks to the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from audio.formats import ULAW_8K, AudioFormat


@dataclass(slots=True, frozen=True)
class Ready:
    """The provider hears the caller from now on."""


@dataclass(slots=True, frozen=True)
class CallerSpeechStarted:
    """Voice was heard. ``certain`` tells proof (cut the agent) from suspicion (pause it and wait)."""

    certain: bool = True


@dataclass(slots=True, frozen=True)
class CallerSpeechDismissed:
    """What was suspected to be speech was not: a cough, a click, the line."""


@dataclass(slots=True, frozen=True)
class CallerSpeechStopped:
    """The caller's turn is over and a reply is being prepared.

    ``since_voice_ms`` is how long ago the last voiced sample was, where the provider knows it.
    """

    since_voice_ms: float = 0.0


@dataclass(slots=True, frozen=True)
class CallerText:
    """What the caller said. Partial texts replace each other; a final one stands."""

    text: str
    final: bool = True


@dataclass(slots=True, frozen=True)
class AgentText:
    """What an item says: the whole text of the item so far, not only the newest words."""

    item_id: str
    text: str
    final: bool = True


@dataclass(slots=True, frozen=True)
class AgentItemDone:
    """All audio of an item has been handed to the sink."""

    item_id: str


@dataclass(slots=True, frozen=True)
class ReplyEnded:
    """The provider has nothing more to say in this reply (it may have said nothing at all).

    ``status`` is one of ``completed``, ``cancelled``, ``failed``, ``incomplete``.
    """

    status: str = "completed"


@dataclass(slots=True, frozen=True)
class ToolCalled:
    """The provider wants a tool run; it expects ``Provider.tool_result`` with the same ``call_id``."""

    call_id: str
    name: str
    arguments: str
    """JSON text as the model wrote it; may be invalid."""


@dataclass(slots=True, frozen=True)
class ProviderWarned:
    """Something went wrong that the conversation survives."""

    code: str
    message: str


ProviderEvent = (
    Ready
    | CallerSpeechStarted
    | CallerSpeechDismissed
    | CallerSpeechStopped
    | CallerText
    | AgentText
    | AgentItemDone
    | ReplyEnded
    | ToolCalled
    | ProviderWarned
)


class ProviderError(Exception):
    """The provider cannot go on with this call.

    ``code`` is a short snake_case word for logs and metrics: ``connect_failed``, ``connect_timeout``,
    ``unauthorized``, ``connection_lost``, ``protocol_error``, ``session_expired``, ``unavailable`` …
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, frozen=True)
class Tool:
    """What a model is told about a function that it may call."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON schema of the arguments object."""


@dataclass(slots=True, frozen=True)
class CallContext:
    """What a provider is told about the call that it talks in."""

    call_id: str
    greeting: str
    """What to say first; empty: wait for the caller."""
    prompt: str
    caller_number: str = ""
    tools: tuple[Tool, ...] = ()
    interruptible: bool = True
    """Whether the caller's speech may break a reply off."""
    wire: AudioFormat = ULAW_8K
    """The call's sound as the caller has it. A provider that can choose its formats takes those nearest to it."""


@dataclass(slots=True, frozen=True)
class Capabilities:
    """What a provider can do; settled before the call starts."""

    input_format: AudioFormat
    output_format: AudioFormat
    owns_turns: bool = True
    """The provider decides when the caller's turn starts and ends; otherwise the call's own detector does."""


class ProviderSink(Protocol):
    """What a call offers its provider. Both methods are synchronous and return quickly."""

    def audio(self, item_id: str, chunk: bytes) -> None:
        """A piece of what the agent says, any length, as fast as it comes, in ``output_format``."""

    def event(self, event: ProviderEvent) -> None: ...


class Provider(Protocol):
    """One instance talks in one call."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def frames_dropped(self) -> int:
        """Frames of the caller that could not be passed on in time."""

    async def run(self, sink: ProviderSink) -> None:
        """Connects, greets, converses. Returns when the provider ended the conversation in good order.

        Cancelling it closes everything that it opened, within two seconds. Raises ProviderError when it cannot go on.
        """

    def push_audio(self, frame: bytes) -> None:
        """One frame of the caller's sound. Never waits; before ``Ready`` the newest seconds are kept."""

    def interrupt(self, item_id: str, heard_ms: int) -> None:
        """The caller cut in, having heard this much of ``item_id`` and nothing of what came after it."""

    def say(self, text: str) -> None:
        """Says ``text`` as an item of its own, as soon as the agent is free to speak."""

    def caller_turn_ended(self) -> None:
        """The call's own detector heard the end of the caller's turn (only when ``owns_turns`` is false)."""

    def tool_result(self, call_id: str, output: str) -> None:
        """The result of a ``ToolCalled``, as text (JSON where structured)."""


@dataclass(slots=True, frozen=True)
class ProviderStatus:
    """Whether new calls may be given to a kind of provider, for ``/health``."""

    ready: bool
    detail: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


class ProviderFactory(Protocol):
    """A configured kind of provider: makes one Provider per call, owns what calls share."""

    name: str

    async def start(self) -> None:
        """Warms up what calls share (models, worker processes). Raises ProviderError."""

    async def close(self) -> None: ...

    def status(self) -> ProviderStatus: ...

    def create(self, context: CallContext) -> Provider: ...
