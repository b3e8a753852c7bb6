"""What was really played to the caller, in samples: the one source for everything said about it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class LedgerItem:
    """One utterance of the agent, from its first generated sample to its last played one."""

    item_id: str
    generated_samples: int = 0
    played_samples: int = 0
    text: str = ""
    complete: bool = False
    """Nothing more will be generated, as far as is known."""
    begun: bool = False
    """It has the floor: its playout was announced and is not over."""
    cut: bool = False
    """The caller cut in, or the call gave the rest up: what was not played never will be."""

    @property
    def over(self) -> bool:
        return self.cut or (self.complete and self.played_samples >= self.generated_samples)

    @property
    def heard_text(self) -> str:
        """The words that were played, by proportion of samples, cut at a word's end."""
        if self.played_samples >= self.generated_samples:
            return self.text if self.generated_samples else ""
        reach = len(self.text) * self.played_samples // self.generated_samples
        head = self.text[:reach]
        if reach < len(self.text) and not self.text[reach].isspace():
            head = head[: head.rfind(" ") + 1]
        return head.rstrip()


@dataclass(slots=True)
class Segment:
    """A run of one item's samples that left without interruption, on the clock of all samples sent."""

    item_id: str
    first_sample: int
    samples: int


@dataclass(slots=True)
class PlayoutLedger:
    """Append-only account of one call's playout.

    ``sent_samples`` counts silence too: it is the clock of the call.
    """

    rate_hz: int
    sent_samples: int = 0
    segments: list[Segment] = field(default_factory=list)
    items: dict[str, LedgerItem] = field(default_factory=dict)

    def item(self, item_id: str) -> LedgerItem:
        """The item's account, opened at its first mention."""
        found = self.items.get(item_id)
        if found is None:
            found = self.items[item_id] = LedgerItem(item_id)
        return found

    def played(self, item: LedgerItem, samples: int) -> None:
        """Books samples of ``item`` as the next ones to leave (before ``sent``)."""
        first = self.sent_samples
        item.played_samples += samples
        last = self.segments[-1] if self.segments else None
        if last is not None and last.item_id == item.item_id and last.first_sample + last.samples == first:
            last.samples += samples
        else:
            self.segments.append(Segment(item.item_id, first, samples))
        self.sent_samples = first + samples

    def silence(self, samples: int) -> None:
        """Books silence as the next samples to leave."""
        self.sent_samples += samples

    def heard_ms(self, item_id: str) -> int:
        item = self.items.get(item_id)
        return 0 if item is None else 1000 * item.played_samples // self.rate_hz
