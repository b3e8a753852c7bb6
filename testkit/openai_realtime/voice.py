"""The double's voice detector: loud enough is voice. Sound in, edges out."""

from __future__ import annotations

from dataclasses import dataclass

LOUD = 1000
"""Linear magnitude (of 32,124) above which a sample counts as voice."""

STEP_BYTES = 80
"""10 ms of μ-law at 8 kHz."""


def _magnitude(ulaw: int) -> int:
    inverted = ~ulaw & 0xFF
    return ((((inverted & 0x0F) << 3) + 0x84) << ((inverted & 0x70) >> 4)) - 0x84


_QUIET = bytes(ulaw for ulaw in range(256) if _magnitude(ulaw) <= LOUD)


@dataclass(slots=True, frozen=True)
class Edge:
    speaking: bool
    at_ms: int
    """Where in the session's sound the voice began or ended."""


class VoiceDetector:
    def __init__(self, start_ms: int, stop_ms: int) -> None:
        self.start_ms = start_ms
        self.stop_ms = stop_ms
        self.speaking = False
        self._heard_ms = 0
        self._run_ms = 0

    def hear(self, sound: bytes) -> list[Edge]:
        edges: list[Edge] = []
        for start in range(0, len(sound), STEP_BYTES):
            voiced = bool(sound[start : start + STEP_BYTES].translate(None, _QUIET))
            self._heard_ms += 10
            self._run_ms = self._run_ms + 10 if voiced is not self.speaking else 0
            if self._run_ms >= (self.stop_ms if self.speaking else self.start_ms):
                self.speaking = not self.speaking
                edges.append(Edge(self.speaking, self._heard_ms - self._run_ms))
                self._run_ms = 0
        return edges
