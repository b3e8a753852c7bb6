"""The seam between a call and the wire that carries its sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from audio.formats import AudioFormat


@dataclass(slots=True, frozen=True)
class Connected:
    """Asterisk opened its side of the wire."""


@dataclass(slots=True, frozen=True)
class DtmfReceived:
    digit: str


@dataclass(slots=True, frozen=True)
class Closed:
    """The wire is gone; nothing follows. ``reason`` is for people."""

    reason: str


PortEvent = Connected | DtmfReceived | Closed


class MediaPort(Protocol):
    """One call's sound, both ways. Created before Asterisk connects to it, dead after ``Closed``."""

    format: AudioFormat
    """What the wire carries, in both directions."""
    paced_by_peer: bool
    """True where the peer plays out what it is sent at its own clock and we only flush."""
    on_audio: Callable[[bytes], None]
    """Takes one frame of the caller's sound; must return within microseconds."""
    on_event: Callable[[PortEvent], None]

    def send(self, frame: bytes) -> None:
        """Sends one frame. Never waits, never raises: a port without a live wire counts and drops."""

    def flush(self) -> None:
        """Drops what the peer has been sent and has not played yet (nothing, where we pace)."""

    def close(self) -> None:
        """Closes the wire. Idempotent; ``Closed`` is not reported for a close of our own."""

    @property
    def frames_received(self) -> int: ...

    @property
    def frames_sent(self) -> int: ...

    @property
    def frames_dropped(self) -> int:
        """Frames of ours that found no live wire or a peer that had stopped reading."""


@dataclass(slots=True, frozen=True)
class ExternalMedia:
    """The parameters of ARI's ``POST /channels/externalMedia`` for one port."""

    external_host: str
    format: str
    encapsulation: str
    transport: str
    data: str | None = None


class MediaTransport(Protocol):
    """A kind of wire: opens ports, and says how Asterisk is asked to connect to one."""

    name: str

    async def start(self, claim: Callable[[UUID], MediaPort | None]) -> None:
        """Starts listening. ``claim`` hands over the port that waits for a media id, once; None refuses."""

    async def close(self) -> None: ...

    def open_port(self) -> MediaPort: ...

    def external_media(self, media_id: UUID) -> ExternalMedia: ...
