"""Commits of the caller's sound where the engine decides on turns: never too short, never two at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Commits:
    threshold_bytes: int
    """Less sound than this is not committed (the API refuses less than 100 ms) and waits for more."""
    buffered_bytes: int = 0
    in_flight_bytes: int = 0
    """Size of the commit that waits for its acknowledgement; 0 when none does."""
    wanted: bool = False
    """A turn ended while another commit was in flight."""

    def appended(self, size_bytes: int) -> None:
        self.buffered_bytes += size_bytes

    def turn_ended(self) -> bool:
        """Whether to commit now."""
        if self.in_flight_bytes:
            self.wanted = True
            return False
        if self.buffered_bytes < self.threshold_bytes:
            return False
        self.in_flight_bytes, self.buffered_bytes = self.buffered_bytes, 0
        return True

    def acknowledged(self) -> bool:
        """Whether to commit again now, for a turn that ended meanwhile."""
        self.in_flight_bytes = 0
        wanted, self.wanted = self.wanted, False
        return wanted and self.turn_ended()

    def refused(self) -> None:
        """The sound is still in the API's buffer and counts for the next turn."""
        self.buffered_bytes += self.in_flight_bytes
        self.in_flight_bytes = 0
        self.wanted = False
