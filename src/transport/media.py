"""The seam between a call and the wire that carries its sound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol
from uuid import UUID

from audio.formats import AudioFormat


class MediaUnavailable(Exception):  # noqa: N818 -- reads as what it is
    """The wire cannot be had: no port is free, the peer refuses … The text is for people."""


@dataclass(slots=True, frozen=True)
class Connected:
    """Asterisk's side of the wire is there: what is sent from now on arrives."""


@dataclass(slots=True, frozen=True)
class DtmfReceived:
    digit: str


@dataclass(slots=True, frozen=True)
class Closed:
    """The wire is gone; nothing follows. ``reason`` is for people."""

    reason: str


PortEvent = Connected | DtmfReceived | Closed


@dataclass(slots=True, frozen=True)
class ExternalMedia:
    """The parameters of ARI's ``POST /channels/externalMedia`` for one port; None is left out."""

    format: str
    encapsulation: str
    transport: str
    external_host: str | None = None
    connection_type: str | None = None
    data: str | None = None
    transport_data: str | None = None


class _AnyPort(Protocol):
    """What every port has. Created before Asterisk knows of it, dead after ``Closed`` or ``close``."""

    format: AudioFormat
    """What ``send`` takes and ``on_audio`` gives. How the wire encodes that is the port's own business."""
    brings_keys: bool
    """Keys come by this wire, as ``DtmfReceived``; otherwise they are to be taken from ARI's events."""
    notices_end: bool
    """``Closed`` tells that Asterisk has dropped the channel; a wire without connections never learns of it."""
    on_audio: Callable[[bytes], None]
    """Takes one frame of the caller's sound; must return within microseconds."""
    on_event: Callable[[PortEvent], None]

    def external_media(self) -> ExternalMedia:
        """How Asterisk is asked for the other end."""

    async def join(self, variables: Mapping[str, str]) -> None:
        """Asterisk has made the channel and said ``variables`` of it: finds the other end, if it does not come to us.

        ``Connected`` follows, or has come already. Raises ``MediaUnavailable``.
        """

    def flush(self) -> None:
        """Drops what the peer has been sent and has not played yet (nothing, where we keep the time)."""

    def close(self) -> None:
        """Closes the wire. Idempotent; ``Closed`` is not reported for a close of our own."""

    @property
    def frames_received(self) -> int: ...

    @property
    def frames_sent(self) -> int: ...

    @property
    def frames_dropped(self) -> int:
        """Frames of ours that found no live wire or a peer that had stopped reading."""

    @property
    def frames_lost(self) -> int:
        """Frames of the caller's that were sent and never came, or came too late to be used."""

    @property
    def frames_concealed(self) -> int:
        """Frames made up in the place of lost ones."""


class SelfPacedPort(_AnyPort, Protocol):
    """A wire whose peer plays at once what it is sent: we keep the time."""

    paced_by_peer: Literal[False]

    def send(self, frame: bytes) -> None:
        """Sends one frame. Never waits, never raises: a port without a live wire counts and drops."""


class PeerPacedPort(_AnyPort, Protocol):
    """A wire whose peer queues what it is sent and plays it by its own clock."""

    paced_by_peer: Literal[True]
    on_mark: Callable[[int], None]
    """Takes the number of a mark that the peer has come to: all that was sent before it has been played."""

    @property
    def writable(self) -> bool:
        """The wire is live and the peer's queue takes more."""

    def send(self, frames: bytes) -> None:
        """Sends whole frames, any number that the peer's queue holds. Never waits, never raises."""

    def mark(self, number: int) -> None:
        """Has ``on_mark`` called when what was sent so far has been played. ``flush`` forgets pending marks."""

    def pause(self) -> None:
        """Has the peer hold its queue; what is sent meanwhile joins it."""

    def resume(self) -> None:
        """Has the peer go on with the very next sample."""


MediaPort = SelfPacedPort | PeerPacedPort


@dataclass(slots=True, frozen=True)
class Requirement:
    """What Asterisk must have for a wire."""

    modules: tuple[str, ...] = ()
    since: tuple[int, ...] = ()
    """The first release of Asterisk 22 that will do, as (22, 7)."""


class MediaTransport(Protocol):
    """A kind of wire: opens ports, and owns what they share."""

    name: str
    formats: tuple[AudioFormat, ...]
    """What a port of this kind can carry both ways, the plainest first."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What befell the wire as a whole, by name, for metrics: strangers, garbage, refusals."""

    def requirement(self, audio_format: AudioFormat) -> Requirement:
        """What Asterisk needs for ports of this format."""

    async def start(self) -> None:
        """Starts listening. Raises OSError."""

    async def close(self) -> None: ...

    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> MediaPort:
        """A port for the call whose media has this id, in one of ``formats``. Raises ``MediaUnavailable``."""
