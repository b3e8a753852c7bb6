"""What the agent has yet to say, and which of its items are not over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from audio.formats import AudioFormat
from engine.ledger import LedgerItem, PlayoutLedger

Piece = tuple[LedgerItem, bytes]
"""A run of one item's audio."""


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
        """The newest item is complete: nothing is known to follow what is here."""
        return self._newest is not None and self._newest.complete

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

    def take(self, most_frames: int) -> list[Piece]:
        """Takes out whole frames of one chunk if there are any, else one frame gathered from several.

        Only the end of all that is there makes less than a frame. To be called when ``playable``.
        """
        head = self._chunks[0]
        whole = min(most_frames, (len(head.data) - head.offset) // self._frame_bytes) * self._frame_bytes
        if whole:
            return [self._take_from(head, whole)]
        pieces: list[Piece] = []
        wanted = self._frame_bytes
        while wanted and self._chunks:
            head = self._chunks[0]
            piece = self._take_from(head, min(wanted, len(head.data) - head.offset))
            wanted -= len(piece[1])
            pieces.append(piece)
        return pieces

    def _take_from(self, head: _Chunk, size: int) -> Piece:
        end = head.offset + size
        data = head.data[head.offset : end]
        head.offset = end
        if end == len(head.data):
            self._chunks.popleft()
        self.size -= size
        return head.item, data

    def put_back(self, pieces: list[Piece]) -> None:
        """Takes back what ``take`` gave last."""
        for item, data in reversed(pieces):
            self._chunks.appendleft(_Chunk(item, data))
            self.size += len(data)

    def take_finished(self) -> list[LedgerItem]:
        """Takes leave of the items that were heard to their end."""
        finished = [item for item in self.open.values() if item.over]
        for item in finished:
            item.begun = False
            del self.open[item.item_id]
        return finished

    def cut(self) -> list[LedgerItem]:
        """Drops all audio; returns the items that are over by this."""
        self._chunks.clear()
        self.size = 0
        dropped = list(self.open.values())
        self.open.clear()
        for item in dropped:
            item.cut = True
        return dropped
