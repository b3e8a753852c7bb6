"""The queue of Asterisk's chan_websocket, on a clock of the test's own, and the time that drives it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from math import inf
from typing import Literal

from audio.formats import ULAW_8K, AudioFormat
from transport.media import ExternalMedia, PortEvent

PERIOD_S = 0.02
XOFF, XON, LIMIT = 900, 800, 1000
MARK_BYTES = 50


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class PeerQueue:
    """A ``PeerPacedPort`` with its peer: takes one frame out of the queue per tick of the peer's own clock.

    ``heard`` has an entry for each tick: the frame that left, None for a hole in the stream, or nothing in a pause.
    What is sent arrives at once; a mark is reported ``report_lag_s`` after the peer came to it. With ``wire_bytes``
    the wire takes no more than that, marks included, until time has passed.
    """

    paced_by_peer: Literal[True] = True
    brings_keys = True
    notices_end = True
    frames_received = frames_dropped = frames_lost = frames_concealed = 0

    def __init__(
        self,
        clock: Clock,
        wire: AudioFormat = ULAW_8K,
        *,
        skew_ppm: float = 0,
        phase_s: float = 0.007,
        report_lag_s: float = 0.0,
        wire_bytes: float = inf,
    ) -> None:
        self._clock = clock
        self.format = wire
        self.on_audio: Callable[[bytes], None] = lambda frame: None
        self.on_event: Callable[[PortEvent], None] = lambda event: None
        self.on_mark: Callable[[int], None] = lambda number: None
        self._period_s = PERIOD_S * (1 + skew_ppm / 1e6)
        self.next_tick = clock.now + phase_s
        self._report_lag_s = report_lag_s
        self._wire_bytes = self._room = wire_bytes
        self._reports: deque[tuple[float, int]] = deque()
        self._queue: deque[bytes | int] = deque()
        self.length = 0
        """Frames in the queue; marks do not count."""
        self.longest = 0
        self.paused = False
        self.full = False
        self.blocked = False
        """The wire takes nothing."""
        self.heard: list[bytes | None] = []
        self.commands: list[str] = []
        self.frames_sent = 0

    # The port ----------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        return self._room > 0 and not self.full and not self.blocked

    def send(self, frames: bytes) -> None:
        size = self.format.frame_bytes
        assert frames and len(frames) % size == 0, "bytes that do not fill a frame are dropped"
        assert len(frames) <= 65_500, "a longer message closes the wire"
        assert self.writable, "it would be dropped"
        self.commands.append("send")
        self._room -= len(frames)
        assert self.length < LIMIT, "it would be dropped"
        for start in range(0, len(frames), size):
            self._queue.append(frames[start : start + size])
            self.length += 1
            self.frames_sent += 1
        self.longest = max(self.longest, self.length)
        if self.length >= XOFF:
            self.full = True

    def mark(self, number: int) -> None:
        self.commands.append("mark")
        self._room -= MARK_BYTES
        self._queue.append(number)

    def flush(self) -> None:
        self.commands.append("flush")
        self._queue.clear()
        self.length = 0
        self.paused = False

    def pause(self) -> None:
        self.commands.append("pause")
        self.paused = True

    def resume(self) -> None:
        self.commands.append("resume")
        self.paused = False

    def external_media(self) -> ExternalMedia:
        raise NotImplementedError

    async def join(self, variables: Mapping[str, str]) -> None:
        raise NotImplementedError

    def close(self) -> None: ...

    # The peer ----------------------------------------------------------------------------------------------

    @property
    def due(self) -> float:
        """When this has something to do next."""
        return min(self.next_tick, self._reports[0][0]) if self._reports else self.next_tick

    def act(self) -> None:
        """Does what is due; a report comes before a tick of the same moment."""
        self._room = self._wire_bytes
        if self._reports and self._reports[0][0] <= self._clock.now:
            self.on_mark(self._reports.popleft()[1])
        elif self.next_tick <= self._clock.now:
            self.next_tick += self._period_s
            self._tick()

    def _tick(self) -> None:
        if self.paused:
            self.heard.append(b"")
            return
        if self.full and self.length < XON:
            self.full = False
        frame: bytes | None = None
        marks: list[int] = []
        while self._queue and frame is None:
            head = self._queue.popleft()
            if isinstance(head, int):
                marks.append(head)
            else:
                frame = head
                self.length -= 1
        self.heard.append(frame)
        for number in marks:
            if self._report_lag_s:
                self._reports.append((self._clock.now + self._report_lag_s, number))
            else:
                self.on_mark(number)


class PeerTime:
    """Lets time pass for the peer and for ``tick``, which is called once per 20 ms."""

    def __init__(self, clock: Clock, peer: PeerQueue, tick: Callable[[], None]) -> None:
        self._clock = clock
        self._peer = peer
        self._tick = tick
        self._started_at = clock.now
        self._ticks = 0

    def pass_s(self, seconds: float) -> None:
        until = self._clock.now + seconds
        while True:
            own = self._started_at + self._ticks * PERIOD_S
            due = min(own, self._peer.due)
            if due > until:
                break
            self._clock.now = max(self._clock.now, due)
            if own <= due:
                self._ticks += 1
                self._tick()
            else:
                self._peer.act()
        self._clock.now = until

    def stall(self, seconds: float) -> None:
        """Lets only the peer's time pass: our process stands still, and makes up for nothing."""
        until = self._clock.now + seconds
        unreported: list[int] = []
        report, self._peer.on_mark = self._peer.on_mark, unreported.append
        while self._peer.due <= until:
            self._clock.now = self._peer.due
            self._peer.act()
        self._clock.now = until
        self._peer.on_mark = report
        self._started_at += seconds
        for number in unreported:
            report(number)
