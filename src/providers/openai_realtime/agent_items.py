"""What the agent said in this session, item by item, and what the caller made it unsay."""

from __future__ import annotations

from dataclasses import dataclass

from audio.formats import AudioFormat

REMEMBERED = 256
"""Items and cut responses older than this many are forgotten: nothing of theirs is still on its way."""


@dataclass(slots=True)
class AgentItem:
    """One message of the agent."""

    response_id: str
    received_bytes: int = 0
    text: str = ""
    finished: bool = False
    """All of its audio has arrived."""
    whole: bool = False
    """It was spoken to its end, not broken off."""
    cut: bool = False
    """The caller cut it off; what still arrives of it is dropped."""


@dataclass(slots=True, frozen=True)
class Truncation:
    """An item of which the caller heard the beginning only."""

    item_id: str
    audio_end_ms: int


@dataclass(slots=True, frozen=True)
class Deletion:
    """An item of which the caller heard nothing (the API refuses to truncate at 0 ms)."""

    item_id: str


class AgentItems:
    """The items in the order of their first sound, or of their first mention while they are silent."""

    def __init__(self, audio_format: AudioFormat) -> None:
        self._format = audio_format
        self._items: dict[str, AgentItem] = {}
        self._cut_responses: dict[str, None] = {}

    def get(self, item_id: str, response_id: str) -> AgentItem:
        """The item, which begins with its first mention."""
        item = self._items.get(item_id)
        if item is None:
            item = AgentItem(response_id, cut=response_id in self._cut_responses)
            self._items[item_id] = item
            _forget_oldest(self._items)
        return item

    def sounded(self, item_id: str, size_bytes: int) -> None:
        """A piece of an item's sound has arrived."""
        item = self._items[item_id]
        if not item.received_bytes:
            self._items[item_id] = self._items.pop(item_id)
        item.received_bytes += size_bytes

    def find(self, item_id: str) -> AgentItem | None:
        return self._items.get(item_id)

    def unfinished(self, response_id: str) -> list[str]:
        """Ids of the items of a response that still wait for audio."""
        return [
            item_id
            for item_id, item in self._items.items()
            if item.response_id == response_id and not item.finished and not item.cut
        ]

    def has_begun(self, response_id: str) -> bool:
        return any(item.response_id == response_id for item in self._items.values())

    def is_cut(self, response_id: str) -> bool:
        return response_id in self._cut_responses

    def cut_response(self, response_id: str) -> None:
        """Whatever begins in this response from now on is not for the caller's ears."""
        self._cut_responses[response_id] = None
        _forget_oldest(self._cut_responses)

    def cut(self, item_id: str, heard_ms: int) -> list[Truncation | Deletion]:
        """Cuts an item after ``heard_ms`` and all that began after it; returns what the API must be told."""
        if item_id not in self._items:
            return []
        ids = list(self._items)
        corrections: list[Truncation | Deletion] = []
        first = self._items[item_id]
        if not first.cut:
            corrections += self._correction(item_id, first, heard_ms)
            first.cut = True
        for later_id in ids[ids.index(item_id) + 1 :]:
            later = self._items[later_id]
            if not later.cut:
                corrections.append(Deletion(later_id))
                later.cut = True
        return corrections

    def _correction(self, item_id: str, item: AgentItem, heard_ms: int) -> list[Truncation | Deletion]:
        received_ms = int(self._format.duration_ms(item.received_bytes))
        audible_ms = min(heard_ms, received_ms)
        if audible_ms < 1:
            return [Deletion(item_id)]
        if item.whole and audible_ms == received_ms:
            return []  # heard to the end: truncating would cost the model the item's text
        return [Truncation(item_id, audible_ms)]


def _forget_oldest(remembered: dict[str, AgentItem] | dict[str, None]) -> None:
    if len(remembered) > REMEMBERED:
        del remembered[next(iter(remembered))]
