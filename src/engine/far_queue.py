"""The queue of a peer that paces, as it is seen from here: what it was sent, and what of that has left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from audio.formats import FRAME_MS
from engine.ledger import LedgerItem, PlayoutLedger
from engine.speech_queue import Run, take_runs
from transport.media import PeerPacedPort

MARK_EVERY_FRAMES = 5
"""Of speech: for so long at most the clock alone says what was heard."""

_FRAME_S = FRAME_MS / 1000


class FarQueue:
    """Sends, marks, holds and flushes through the port, and books in the ledger what has left the peer.

    Positions count frames since the latest flush. A mark is reported in the peer's tick in which the frame behind
    it leaves. From then on the clock fills in, one frame per 20 ms, but never past a mark that is not reported.
    """

    def __init__(self, port: PeerPacedPort, ledger: PlayoutLedger, clock: Callable[[], float]) -> None:
        self._port = port
        self._ledger = ledger
        self._clock = clock
        self._frame_bytes = port.format.frame_bytes
        self._frame_samples = port.format.frame_samples
        self._next_mark = 0
        self._held_at: float | None = None
        self._empty()

    def _empty(self) -> None:
        self._runs: deque[Run] = deque()
        """What was sent and is not booked."""
        self._marks: deque[int] = deque()
        """Positions of the marks that are not reported. Their numbers follow each other."""
        self._sent = 0
        self._booked = 0
        self._speech_end = 0
        """Behind the last frame with speech."""
        self._newest: LedgerItem | None = None
        """What the last frame ends with."""
        self._reported = 0
        """Where the latest reported mark was, and when that was."""
        self._reported_at = self._clock()

    @property
    def remaining(self) -> int:
        """Frames that have not left, as of the latest ``settle``."""
        return self._sent - self._booked

    @property
    def speech_remaining(self) -> int:
        """Those of them that are not silence behind all speech."""
        return max(0, self._speech_end - self._booked)

    @property
    def silent(self) -> bool:
        """All speech has left; the peer said so."""
        return self._reported >= self._speech_end

    @property
    def ends_in_speech(self) -> bool:
        return 0 < self._speech_end == self._sent

    @property
    def held(self) -> bool:
        return self._held_at is not None

    def send(self, frames: bytes, runs: list[Run]) -> bool:
        """Adds whole frames of one item, or of silence, or one frame with several of them in it.

        Marks go before and behind every item, before what finds the queue empty, and every few frames. False if
        the wire takes nothing, be it for such a mark: then nothing was added.
        """
        first = runs[0][0]
        mixed = any(item is not first for item, _ in runs)
        count = len(frames) // self._frame_bytes
        marked = self._marks[-1] if self._marks else self._reported
        due = self._sent + count - marked > MARK_EVERY_FRAMES
        if due or mixed or first is not self._newest or self._left() == self._sent:
            self.mark()
        if not self._port.writable:
            return False
        self._port.send(frames)
        self._runs += runs
        self._sent += count
        self._newest = runs[-1][0]
        if first is not None:
            self._speech_end = self._sent
        if mixed:
            self.mark()
        return True

    def mark(self) -> None:
        """Has the peer report when it comes to this point, unless it is to do so already."""
        if not self._marks or self._marks[-1] != self._sent:
            self._port.mark(self._next_mark)
            self._marks.append(self._sent)
            self._next_mark += 1

    def reported(self, number: int) -> bool:
        """The peer has come to a mark; False for one that was flushed. Books all that is before it."""
        index = number - (self._next_mark - len(self._marks))
        if not 0 <= index < len(self._marks):
            return False
        for _ in range(index + 1):
            self._reported = self._marks.popleft()
        now = self._clock()
        self._reported_at = now if self._held_at is None else self._held_at
        self._book(self._reported)
        return True

    def leaving(self) -> list[LedgerItem]:
        """The items in the frame behind the mark that has just been reported."""
        items: list[LedgerItem] = []
        samples = self._frame_samples
        for item, count in self._runs:
            if samples <= 0:
                break
            if item is not None:
                items.append(item)
            samples -= count
        return items

    def settle(self) -> None:
        """Books what has left by the clock."""
        self._book(self._left())

    def hold(self) -> None:
        """Has the peer stop until ``release``; it then sends nothing at all, not even silence."""
        self.settle()
        self._held_at = self._clock()
        self._port.pause()

    def release(self) -> None:
        if self._held_at is not None:
            self._end_hold(self._held_at)
            self._port.resume()

    def flush(self) -> None:
        """Drops what has not left, and ends a hold."""
        if self._sent:
            self.settle()
            if self._held_at is not None:
                self._end_hold(self._held_at)
            self._port.flush()
            self._empty()

    def _end_hold(self, since: float) -> None:
        """The clock stood still meanwhile, but not the call's."""
        held_s = self._clock() - since
        self._held_at = None
        self._reported_at += held_s
        self._ledger.silence(round(held_s / _FRAME_S) * self._frame_samples)

    def _left(self) -> int:
        """Frames that have left, by the latest mark and the clock."""
        limit = self._marks[0] if self._marks else self._sent
        now = self._clock() if self._held_at is None else self._held_at
        return min(limit, self._reported + 1 + int((now - self._reported_at) / _FRAME_S))

    def _book(self, position: int) -> None:
        samples = (position - self._booked) * self._frame_samples
        self._booked = position
        for item, count in take_runs(self._runs, samples):
            if item is None:
                self._ledger.silence(count)
            else:
                self._ledger.played(item, count)
