"""What all ways of playing the agent share: its items, the cushion before them, and when one is given up."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from audio.formats import AudioFormat
from engine.cushion import Cushion, Cushioning
from engine.ledger import PlayoutLedger
from engine.playout import (
    AgentSilenced,
    Cut,
    PlaybackState,
    PlaybackStats,
    PlayoutDrained,
    PlayoutEvent,
    PlayoutFinished,
    PlayoutStalled,
    PlayoutStarted,
)
from engine.speech_queue import Run, SpeechQueue

_WAITING = (PlaybackState.FILLING, PlaybackState.STARVED)


class PlaybackCore:
    """The half of a ``Playback`` that does not know the wire."""

    def __init__(
        self,
        wire: AudioFormat,
        on_event: Callable[[PlayoutEvent], None],
        cushioning: Cushioning,
        clock: Callable[[], float],
    ) -> None:
        self._wire = wire
        self._on_event = on_event
        self._clock = clock
        self._grace_ms = cushioning.provider_grace_ms
        self._cushion = Cushion(cushioning, wire, clock)
        self._since = 0.0
        """When the present state began, for the states that have a limit."""
        self._silencing_since: float | None = None
        self.ledger = PlayoutLedger(wire.rate_hz)
        self._speech = SpeechQueue(wire, self.ledger)
        self.stats = PlaybackStats()
        self.state = PlaybackState.IDLE

    @property
    def speaking(self) -> bool:
        return bool(self._speech.open)

    def enqueue(self, item_id: str, chunk: bytes) -> None:
        if not chunk:
            return
        if not self._speech.add(item_id, chunk):
            self.stats.late_chunks += 1
            return
        self._cushion.chunk(item_id, len(chunk))
        if self.state is PlaybackState.IDLE:
            self._silencing_since = None
            self._enter(PlaybackState.FILLING)
        self._play_if_enough()

    def complete(self, item_id: str) -> None:
        item = self._speech.open.get(item_id)
        if item is not None:
            item.complete = True
            self._cushion.complete(item_id)
            self._play_if_enough()

    def complete_all(self) -> None:
        for item in self._speech.open.values():
            item.complete = True
        self._play_if_enough()

    def describe(self, item_id: str, text: str) -> None:
        self.ledger.item(item_id).text = text

    @property
    def _waiting(self) -> bool:
        """For a cushion, or for an item that ran dry."""
        return self.state in _WAITING

    def _play_if_enough(self) -> None:
        """Ends the waiting when what is waited for is here."""
        if not self._waiting or not self._speech.size:
            return
        starved = self.state is PlaybackState.STARVED
        enough_ms = self._cushion.again_ms if starved else self._cushion.start_ms
        if self._speech.ended or self._wire.duration_ms(self._speech.size) >= enough_ms:
            if starved:
                self.stats.underruns += 1
                self._cushion.ran_dry()
            self.state = PlaybackState.PLAYING

    def _wait(self) -> None:
        """One tick of waiting: nothing has come that would end it."""
        if self._waited_ms() >= self._grace_ms:
            self._give_up()
        else:
            self._close_items()

    def _give_up(self) -> None:
        """The provider left an item unfinished: play what there is of it."""
        stalled = next(iter(self._speech.open.values()))
        stalled.complete = True
        self._report_stalled(stalled.item_id)
        if self._speech.playable:
            self.state = PlaybackState.PLAYING
        else:
            self._close_items()

    def _fail_items(self, item_ids: Collection[str]) -> None:
        """They cannot be played: what was not heard of them never will be."""
        given_up = self._speech.give_up(item_ids)
        for item in given_up:
            self._report_stalled(item.item_id)
        if given_up:
            self._leave_floor()

    def _report_stalled(self, item_id: str) -> None:
        self.stats.stalls += 1
        self._on_event(PlayoutStalled(item_id))

    def _book_frame(self, runs: Iterable[Run]) -> None:
        """A frame leaves: books what is in it, and tells what begins and ends with it."""
        started: list[str] = []
        for item, samples in runs:
            if item is None:
                self.ledger.silence(samples)
                continue
            if not item.begun:
                item.begun = True
                started.append(item.item_id)
            self.ledger.played(item, samples)
        for item_id in started:
            self._on_event(PlayoutStarted(item_id))
        self._close_items()

    def _close_items(self) -> None:
        """Takes leave of the items that were heard to their end, and of the floor after the last one."""
        finished = self._speech.take_finished()
        for item in finished:
            self._on_event(PlayoutFinished(item.item_id))
        if finished:
            self._leave_floor()

    def _leave_floor(self) -> None:
        """Falls silent, unless there is more to say."""
        if not self._speech.open:
            silent_ms = self._waited_ms() if self._waiting else 0.0
            self.state = PlaybackState.IDLE
            self._on_event(PlayoutDrained(silent_ms))

    def _drop_speech(self) -> list[Cut]:
        """Everything that is not over is over by this."""
        self.state = PlaybackState.IDLE
        return [Cut(item.item_id, self.ledger.heard_ms(item.item_id)) for item in self._speech.cut()]

    def _report_silenced(self) -> None:
        if self._silencing_since is not None:
            after_ms = 1000 * (self._clock() - self._silencing_since)
            self._silencing_since = None
            self._on_event(AgentSilenced(after_ms))

    def _waited_ms(self) -> float:
        return 1000 * (self._clock() - self._since)

    def _enter(self, state: PlaybackState) -> None:
        self.state = state
        self._since = self._clock()
