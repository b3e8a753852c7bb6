"""What an operator may set about the OpenAI Realtime provider."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

NonEmpty = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

_WEBSOCKET_SCHEME = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


class TurnDetection(BaseModel):
    """Who decides that the caller's turn began or ended, and how eagerly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["server_vad", "semantic_vad", "none"] = Field(
        default="server_vad",
        description="server_vad: OpenAI listens for silence; semantic_vad: OpenAI judges whether the "
        "sentence is finished; none: this engine's own voice detector decides.",
    )
    threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="server_vad: how loud voice must be, 0 to 1. Raise it where noise on the line interrupts "
        "the agent.",
    )
    silence_duration_ms: int = Field(
        default=500,
        ge=50,
        le=10_000,
        description="server_vad: milliseconds of silence that end the caller's turn. Lower answers sooner "
        "and cuts slow speakers off.",
    )
    eagerness: Literal["low", "medium", "high", "auto"] = Field(
        default="auto",
        description="semantic_vad: how soon to answer; at most 8 s (low), 4 s (medium, auto), 2 s (high).",
    )


class OpenAIRealtimeConfig(BaseModel):
    """The section ``providers.openai_realtime`` of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_url: str = Field(
        default="wss://api.openai.com/v1/realtime",
        description="Address of the service, without the model. Change it for a gateway or a compatible "
        "service; https and http mean wss and ws.",
    )
    model: NonEmpty = Field(default="gpt-realtime-2.1", description="Name of the speech-to-speech model.")
    voice: NonEmpty = Field(default="marin", description="Name of the voice; marin and cedar sound best.")
    turn_detection: TurnDetection = Field(
        default_factory=TurnDetection, description="How the end of the caller's turn is found."
    )
    input_transcription_model: NonEmpty | None = Field(
        default=None,
        description="Model that writes down what the caller says (e.g. gpt-transcribe), billed apart; empty: "
        "no transcript of the caller.",
    )
    commit_threshold_ms: int = Field(
        default=160,
        ge=100,
        le=5000,
        description="turn_detection none: milliseconds of sound that a turn must have to be answered.",
    )

    @field_validator("base_url")
    @classmethod
    def _is_websocket_address(cls, value: str) -> str:
        parts = urlsplit(value.strip())
        if parts.scheme not in _WEBSOCKET_SCHEME or not parts.hostname or parts.port == 0:
            raise ValueError("must start with wss:// (or ws://, https://, http://) and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have neither credentials nor a query")
        return urlunsplit((_WEBSOCKET_SCHEME[parts.scheme], parts.netloc, parts.path.rstrip("/"), "", ""))

    @property
    def url(self) -> str:
        """Where a session is opened."""
        return f"{self.base_url}?model={quote(self.model, safe='')}"

    @property
    def uses_tls(self) -> bool:
        return self.base_url.startswith("wss:")
