"""Turns the agent's audio, which comes as it likes, into an even stream of 20 ms frames."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from audio.formats import FRAME_MS, AudioFormat
from engine.ledger import LedgerItem, PlayoutLedger

FAST_ENOUGH = 1.5
"""A provider this many times faster than real time needs no cushion before its first frame."""


@dataclass(slots=True, frozen=True)
class PlayoutStarted:
    """The first frame of an item left; or the next one of an item that had been given up and goes on."""

    item_id: str


@dataclass(slots=True, frozen=True)
class PlayoutFinished:
    """The last frame of an item left; it was heard to its end."""

    item_id: str


@dataclass(slots=True, frozen=True)
class PlayoutDrained:
    """Every item is over: the agent is silent, and has been for ``silent_ms`` already."""

    silent_ms: float = 0.0


@dataclass(slots=True, frozen=True)
class PlayoutStalled:
    """An item ran dry and did not go on in time; what there was of it counts as all of it."""

    item_id: str


@dataclass(slots=True, frozen=True)
class AgentSilenced:
    """The first silent frame after a pause or a cut left, ``after_ms`` after it was asked for."""

    after_ms: float


PlayoutEvent = PlayoutStarted | PlayoutFinished | PlayoutDrained | PlayoutStalled | AgentSilenced


@dataclass(slots=True, frozen=True)
class Cut:
    """What became of an item when playback was cut: the caller heard ``heard_ms`` of it."""

    item_id: str
    heard_ms: int


@dataclass(slots=True, frozen=True)
class Cushioning:
    """How much is held back against a provider that streams unevenly. All in milliseconds."""

    min_start_ms: int = 60
    """Held before the first frame of an item, if the provider is slower than ``FAST_ENOUGH``."""
    low_watermark_ms: int = 40
    """Held before an item that ran dry goes on."""
    jitter_buffer_ms: int = 400
    """The most that a cushion grows to when it proved too small."""
    provider_grace_ms: int = 1500
    """How long an item that ran dry may take to go on."""


class PlaybackState(StrEnum):
    IDLE = "idle"
    FILLING = "filling"
    PLAYING = "playing"
    STARVED = "starved"
    PAUSED = "paused"


class FrameSink(Protocol):
    """The part of a media port that playback needs."""

    @property
    def format(self) -> AudioFormat: ...

    def send(self, frame: bytes) -> None: ...

    def flush(self) -> None: ...


@dataclass(slots=True)
class PlaybackStats:
    underruns: int = 0
    """Times that an item ran dry in the middle."""
    stalls: int = 0
    late_chunks: int = 0
    """Chunks of items that had been cut."""
    flushed_frames: int = 0
    """Frames that a barge-in threw away unheard."""


@dataclass(slots=True)
class _Chunk:
    item: LedgerItem
    data: bytes
    offset: int = 0


class StreamingPlaybackManager:
    """Plays one call's agent. Everything is synchronous; ``tick`` is called once per 20 ms.

    Audio is given and sent in the wire's format. A whole reply may be queued at once: minutes of it are
    small, and nothing that was not heard is ever dropped but by ``cut``.
    """

    def __init__(
        self,
        sink: FrameSink,
        on_event: Callable[[PlayoutEvent], None],
        *,
        cushioning: Cushioning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink = sink
        self._on_event = on_event
        self._cushioning = cushioning
        self._clock = clock
        wire = sink.format
        self._frame_bytes = wire.frame_bytes
        self._frame_samples = wire.frame_samples
        self._bytes_per_sample = wire.bytes_per_sample
        self._silence = wire.silent_frame
        self._queue: deque[_Chunk] = deque()
        self._queued_bytes = 0
        self._open: dict[str, LedgerItem] = {}
        """Items with audio that are not over, in the order of their first chunk."""
        self._arrivals = _ArrivalSpeed(wire, clock)
        self._cushion_ms = cushioning.min_start_ms
        self._since = 0.0
        """When the present state began, for the states that have a limit."""
        self._silencing_since: float | None = None
        self.ledger = PlayoutLedger(wire.rate_hz)
        self.stats = PlaybackStats()
        self.state = PlaybackState.IDLE

    @property
    def buffered_ms(self) -> float:
        return FRAME_MS * self._queued_bytes / self._frame_bytes

    @property
    def speaking(self) -> bool:
        """An item is begun or waiting: the agent has the floor."""
        return bool(self._open)

    def enqueue(self, item_id: str, chunk: bytes) -> None:
        """Adds audio of an item, in the order it is to be heard. Audio of a cut item is ignored."""
        item = self.ledger.item(item_id)
        if item.cut:
            self.stats.late_chunks += 1
            return
        item.complete = False
        item.generated_samples += len(chunk) // self._bytes_per_sample
        self._open[item_id] = item
        self._arrivals.chunk(item_id, len(chunk))
        self._queue.append(_Chunk(item, chunk))
        self._queued_bytes += len(chunk)
        if self.state is PlaybackState.IDLE:
            self._begin()

    def complete(self, item_id: str) -> None:
        """No more audio of this item will come."""
        item = self._open.get(item_id)
        if item is not None:
            item.complete = True
            self._arrivals.complete(item_id)

    def complete_all(self) -> None:
        """No more audio of any item will come: whoever made it is gone."""
        for item in self._open.values():
            item.complete = True

    def describe(self, item_id: str, text: str) -> None:
        """Notes what an item says (the whole text so far)."""
        self.ledger.item(item_id).text = text

    def pause(self) -> None:
        """Holds playback from the next tick on, also of what is still to come; nothing is lost."""
        if self.state is PlaybackState.PLAYING:
            self._silencing_since = self._clock()
        self.state = PlaybackState.PAUSED

    def resume(self) -> None:
        """Goes on with the very next sample."""
        if self.state is PlaybackState.PAUSED:
            self._silencing_since = None
            if self._queue:
                self.state = PlaybackState.PLAYING
            elif self._open:
                self._enter(PlaybackState.STARVED)
            else:
                self.state = PlaybackState.IDLE

    def cut(self) -> list[Cut]:
        """Drops everything that was not heard yet; returns the items concerned, in the order of their audio.

        They are over: audio of theirs that is still to come is ignored.
        """
        unfinished = [item for item in self._open.values() if not item.over]
        if self.state is PlaybackState.PLAYING:
            self._silencing_since = self._clock()
        self.stats.flushed_frames += self._queued_bytes // self._frame_bytes
        self._queue.clear()
        self._queued_bytes = 0
        self._open.clear()
        self._sink.flush()
        self.state = PlaybackState.IDLE
        for item in unfinished:
            item.cut = True
        return [Cut(item.item_id, self.ledger.heard_ms(item.item_id)) for item in unfinished]

    def tick(self) -> None:
        """Sends one frame: the agent's next one, or silence."""
        if self.state is PlaybackState.PLAYING and self._play():
            return
        if self.state in _WAITING:
            self._wait()
        self._sink.send(self._silence)
        self.ledger.silence(self._frame_samples)
        if self._silencing_since is not None:
            after_ms = 1000 * (self._clock() - self._silencing_since)
            self._silencing_since = None
            self._on_event(AgentSilenced(after_ms))

    def _play(self) -> bool:
        """Sends the next frame of the queue; False when there is no whole one to send."""
        size = self._frame_bytes
        if self._queue:
            head = self._queue[0]
            end = head.offset + size
            if end < len(head.data) and head.item.begun:
                self._queued_bytes -= size
                self.ledger.played(head.item, self._frame_samples)
                self._sink.send(head.data[head.offset : end])
                head.offset = end
                return True
        if self._queued_bytes < size and not self._ends_with_complete_item():
            self._enter(PlaybackState.STARVED)
            return False
        self._play_across_chunks()
        return True

    def _play_across_chunks(self) -> None:
        """Sends one frame gathered from several chunks, filled up with silence at the end of all speech."""
        frame = bytearray()
        started: list[str] = []
        while self._queue and len(frame) < self._frame_bytes:
            head = self._queue[0]
            piece = head.data[head.offset : head.offset + self._frame_bytes - len(frame)]
            head.offset += len(piece)
            if piece and not head.item.begun:
                head.item.begun = True
                started.append(head.item.item_id)
            self.ledger.played(head.item, len(piece) // self._bytes_per_sample)
            frame += piece
            if head.offset == len(head.data):
                self._queue.popleft()
        self._queued_bytes -= len(frame)
        missing = self._frame_bytes - len(frame)
        if missing:
            frame += self._silence[:missing]
            self.ledger.silence(missing // self._bytes_per_sample)
        self._sink.send(bytes(frame))
        for item_id in started:
            self._on_event(PlayoutStarted(item_id))
        self._close_items()

    def _close_items(self) -> None:
        """Takes leave of the items that were heard to their end, and of the floor after the last one."""
        finished = [item for item in self._open.values() if item.over]
        for item in finished:
            item.begun = False
            self._open.pop(item.item_id, None)
            self._on_event(PlayoutFinished(item.item_id))
        if not self._open and self.state is not PlaybackState.IDLE:
            silent_ms = self._waited_ms() if self.state in _WAITING else 0.0
            self.state = PlaybackState.IDLE
            self._on_event(PlayoutDrained(silent_ms))

    def _ends_with_complete_item(self) -> bool:
        return bool(self._queue) and self._queue[-1].item.complete

    def _begin(self) -> None:
        """The first audio after silence is here."""
        self._silencing_since = None
        if self._arrivals.fast:
            self.state = PlaybackState.PLAYING
        else:
            self._enter(PlaybackState.FILLING)

    def _wait(self) -> None:
        """One tick of waiting for a cushion, or for an item that ran dry."""
        starved = self.state is PlaybackState.STARVED
        enough_ms = self._cushioning.low_watermark_ms if starved else self._cushion_ms
        if self._queue and (self.buffered_ms >= enough_ms or self._ends_with_complete_item()):
            if starved:
                self._book_underrun()
            self.state = PlaybackState.PLAYING
        elif self._waited_ms() >= self._cushioning.provider_grace_ms:
            self._give_up()
        else:
            self._close_items()

    def _book_underrun(self) -> None:
        self.stats.underruns += 1
        self._arrivals.fast = False
        self._cushion_ms = min(2 * self._cushion_ms, self._cushioning.jitter_buffer_ms)

    def _give_up(self) -> None:
        """The provider left an item unfinished: play what there is of it, padded."""
        self.stats.stalls += 1
        stalled = next(iter(self._open.values()))
        stalled.complete = True
        self._on_event(PlayoutStalled(stalled.item_id))
        if self._queue:
            self.state = PlaybackState.PLAYING
        else:
            self._close_items()

    def _waited_ms(self) -> float:
        return 1000 * (self._clock() - self._since)

    def _enter(self, state: PlaybackState) -> None:
        self.state = state
        self._since = self._clock()


_WAITING = (PlaybackState.FILLING, PlaybackState.STARVED)


class _ArrivalSpeed:
    """Whether the provider delivers well above real time, by its latest item."""

    def __init__(self, wire: AudioFormat, clock: Callable[[], float]) -> None:
        self._wire = wire
        self._clock = clock
        self._item_id = ""
        self._first_at = 0.0
        self._after_first_bytes = 0
        self.fast = True
        """Nothing was slow so far: the next item needs no cushion."""

    def chunk(self, item_id: str, size: int) -> None:
        if item_id != self._item_id:
            self._item_id = item_id
            self._first_at = self._clock()
            self._after_first_bytes = 0
        else:
            self._after_first_bytes += size

    def complete(self, item_id: str) -> None:
        elapsed_ms = 1000 * (self._clock() - self._first_at)
        if item_id == self._item_id and elapsed_ms >= FRAME_MS:
            self.fast = self._wire.duration_ms(self._after_first_bytes) >= FAST_ENOUGH * elapsed_ms
