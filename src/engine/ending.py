"""Why calls end."""

from __future__ import annotations

from enum import StrEnum

HANGUP_RACE_S = 0.5
"""How long after a refused request the hang-up that explains it may still be on its way: events come by a
connection of their own."""


class EndReason(StrEnum):
    """The one reason that a call's end is booked under."""

    CALLER_HUNG_UP = "caller_hung_up"
    AGENT_HUNG_UP = "agent_hung_up"
    NO_INPUT = "no_input"
    """The caller said nothing, check-ins included."""
    MAX_DURATION = "max_duration"
    PROVIDER_FAILED = "provider_failed"
    PROVIDER_STALLED = "provider_stalled"
    """The provider stayed silent when it was its turn."""
    MEDIA_LOST = "media_lost"
    PBX_LOST = "pbx_lost"
    """Asterisk lost the call (it was restarted, or the channel vanished while we were not connected)."""
    PBX_ERROR = "pbx_error"
    """Asterisk refused a step of setting the call up."""
    ENGINE_STOPPED = "engine_stopped"
    ENGINE_ERROR = "engine_error"
