"""Errors that the Realtime API reports, and which of them a session survives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from providers.base import ProviderError
from providers.openai_realtime.server_events import Event, optional_text

FATAL = {
    "session_expired": "session_expired",
    "invalid_api_key": "unauthorized",
    "account_deactivated": "unauthorized",
    "insufficient_quota": "unavailable",
    "billing_hard_limit_reached": "unavailable",
    "model_not_found": "unavailable",
}
"""Codes of the API that no session survives, and what the engine calls them."""

ALREADY_ACTIVE = "conversation_already_has_active_response"
COMMIT_EMPTY = "input_audio_buffer_commit_empty"
NOT_ACTIVE = "response_cancel_not_active"

_LATE_BY_NATURE = frozenset({"truncate", "delete", "cancel"})
"""Kinds of our events that the server may have overtaken; their errors tell nothing new."""


@dataclass(slots=True, frozen=True)
class ApiError:
    code: str
    message: str
    cause: str
    """Id of the event of ours that it answers; empty where it answers none."""

    @classmethod
    def read(cls, body: Event) -> Self:
        code = optional_text(body, "code") or optional_text(body, "type") or "unknown"
        return cls(code, optional_text(body, "message"), optional_text(body, "event_id"))

    @property
    def cause_kind(self) -> str:
        """What kind of event of ours was refused: the part of its id before the dash."""
        return self.cause.partition("-")[0]

    @property
    def came_too_late(self) -> bool:
        return self.cause_kind in _LATE_BY_NATURE or self.code in (ALREADY_ACTIVE, NOT_ACTIVE)

    def raise_if_fatal(self) -> None:
        """Raises ProviderError for what no session survives."""
        if self.code in FATAL:
            raise ProviderError(FATAL[self.code], self.message)
        if self.cause_kind == "session":
            raise ProviderError("session_refused", self.message)
