"""The knobs of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

from audio.vad import VoiceDetectorOptions
from providers.pipeline.turn import TurnRules


@dataclass(slots=True, frozen=True)
class PipelineOptions:
    """Turn taking, and how long a stage may keep the caller waiting."""

    voice: VoiceDetectorOptions = field(default_factory=VoiceDetectorOptions)
    turn: TurnRules = field(default_factory=TurnRules)
    ask_back_after_ms: int = 600
    """Voice without words that lasted this long is answered: the model is asked with an empty text."""
    tool_limit_s: float = 15.0
    """After which the model is told that a tool gave no result."""
    stage_limit_s: float = 10.0
    """The longest wait for the next piece of a reply's text or sound."""
