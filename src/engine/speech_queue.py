"""What the agent has yet to say, and which of its items are not over."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from audio.formats import AudioFormat
from engine.ledger import LedgerItem, PlayoutLedger

Run = tuple[LedgerItem | None, int]
"""So many samples of one item, or of silence."""


def take_runs(runs: deque[Run], samples: int) -> list[Run]:
    """Takes the first ``samples`` out of ``runs``, or all there are."""
    taken: list[Run] = []
    while samples > 0 and runs:
        item, count = runs.popleft()
        if count > samples:
            runs.appendleft((item, count - samples))
            count = samples
        samples -= count
        taken.append((item, count))
    return taken


@dataclass(slots=True)
class _Chunk:
    item: LedgerItem
    data: bytes
    offset: int = 0


class SpeechQueue:
    """Audio in the order it is to be heard, taken out in frames of the wire."""

    def __init__(self, wire: AudioFormat, ledger: PlayoutLedger) -> None:
        self._wire = wire
        self._ledger = ledger
        self._frame_bytes = wire.frame_bytes
        self._chunks: deque[_Chunk] = deque()
        self._newest: LedgerItem | None = None
        self.size = 0
        """Bytes that wait."""
        self.open: dict[str, LedgerItem] = {}
        """Items with audio that are not over, in the order of their first chunk."""

    @property
    def ended(self) -> bool:
        """The newest item is complete or was given up: nothing is known to follow what is here."""
        return self._newest is not None and (self._newest.complete or self._newest.cut)

    @property
    def playable(self) -> bool:
        """A frame can be taken: a whole one, or the last one."""
        return self.size >= self._frame_bytes or (self.size > 0 and self.ended)

    def add(self, item_id: str, chunk: bytes) -> bool:
        """Adds audio of an item; False if the item was cut and the audio is not wanted."""
        item = self._ledger.item(item_id)
        if item.cut:
            return False
        item.complete = False
        item.generated_samples += self._wire.samples(len(chunk))
        self.open[item_id] = self._newest = item
        self._chunks.append(_Chunk(item, chunk))
        self.size += len(chunk)
        return True

    def take_inner_frame(self) -> tuple[LedgerItem, bytes] | None:
        """Takes out the next frame if no chunk, and so no item, begins or ends with it."""
        if not self._chunks:
            return None
        head = self._chunks[0]
        start, data = head.offset, head.data
        end = start + self._frame_bytes
        if not start or end >= len(data):
            return None
        head.offset = end
        self.size -= self._frame_bytes
        return head.item, data[start:end]

    def take(self, most_frames: int) -> tuple[bytes, list[Run]]:
        """Takes out whole frames of one chunk if there are any, else one frame gathered from several.

        At the end of all that is there, the frame is filled up with silence. To be called when ``playable``.
        """
        head = self._chunks[0]
        whole = min(most_frames, (len(head.data) - head.offset) // self._frame_bytes) * self._frame_bytes
        if whole:
            return self._take_from(head, whole), [(head.item, self._wire.samples(whole))]
        pieces: list[bytes] = []
        runs: list[Run] = []
        wanted = self._frame_bytes
        while wanted and self._chunks:
            head = self._chunks[0]
            piece = self._take_from(head, min(wanted, len(head.data) - head.offset))
            wanted -= len(piece)
            pieces.append(piece)
            runs.append((head.item, self._wire.samples(len(piece))))
        missing = self._wire.samples(wanted)
        if missing:
            pieces.append(self._wire.silence(missing))
            runs.append((None, missing))
        return b"".join(pieces), runs

    def _take_from(self, head: _Chunk, size: int) -> bytes:
        end = head.offset + size
        data = head.data[head.offset : end]
        head.offset = end
        if end == len(head.data):
            self._chunks.popleft()
        self.size -= size
        return data

    def put_back(self, frames: bytes, runs: list[Run]) -> None:
        """Takes back what ``take`` gave last."""
        chunks: list[_Chunk] = []
        offset = 0
        for item, samples in runs:
            if item is not None:
                size = samples * self._wire.bytes_per_sample
                chunks.append(_Chunk(item, frames[offset : offset + size]))
                offset += size
        self._chunks.extendleft(reversed(chunks))
        self.size += offset

    def take_finished(self) -> list[LedgerItem]:
        """Takes leave of the items that were heard to their end."""
        finished = [item for item in self.open.values() if item.over]
        for item in finished:
            item.begun = False
            del self.open[item.item_id]
        return finished

    def cut(self) -> list[LedgerItem]:
        """Drops all audio; returns the items that are over by this."""
        return self.give_up(tuple(self.open))

    def give_up(self, item_ids: Collection[str]) -> list[LedgerItem]:
        """Drops the audio of these items; returns those that are over by this."""
        dropped = [item for item_id, item in self.open.items() if item_id in item_ids]
        for item in dropped:
            item.cut = True
            del self.open[item.item_id]
        self._chunks = deque(chunk for chunk in self._chunks if not chunk.item.cut)
        self.size = sum(len(chunk.data) - chunk.offset for chunk in self._chunks)
        return dropped
