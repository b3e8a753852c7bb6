"""Playback where the peer plays files: the agent's audio, which comes as it likes, in files without a gap between."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from audio.formats import FRAME_MS, AudioFormat
from engine.file_player import FileEvent, FileFinished, FilePaused, FilePlayer, FileStarted
from engine.ledger import LedgerItem, PlayoutLedger
from engine.playback import Cushioning
from engine.playback_files import CallFiles, SoundFile
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

log = structlog.get_logger(__name__)

MOST_OUTSTANDING = 2
"""Files that are playing or waiting in Asterisk: the next one has to be there when the first one ends, and no
more need be taken back when the caller cuts in."""
LEAD_MS = 200
"""How long before the last file's end the next one is written, however little there is for it."""
LONGEST_FILE_MS = 10_000
"""At most 320 kB of wideband sound, written in a fraction of a millisecond."""
START_LIMIT_S = 6.0
"""How long a file may take to begin: a little more than a request to Asterisk."""
END_LIMIT_S = 2.0
"""How long after its end by the clock a file is taken to be over: the event was missed."""
FRAME_S = FRAME_MS / 1000


@dataclass(slots=True)
class _Run:
    """Audio of one item that is in no file yet."""

    item: LedgerItem
    data: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Part:
    """Audio of one item in a file that Asterisk has been asked to play."""

    item: LedgerItem
    file: SoundFile
    samples: int
    due: float
    """Since when it could have begun, or gone on."""
    started_at: float | None = None
    """When its first sample left; after a pause: would have left, had there been none."""
    held: bool = False
    """Paused, until it is known to go on."""
    booked: int = 0
    """Samples that have left by the clock."""


class FilePlaybackManager:
    """The ``Playback`` by files. What was heard is told by the files' starts and ends, and by the clock in between."""

    def __init__(
        self,
        wire: AudioFormat,
        player: FilePlayer,
        files: CallFiles,
        on_event: Callable[[PlayoutEvent], None],
        *,
        cushioning: Cushioning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of ``cushioning`` counts ``jitter_buffer_ms``, held before a first file, as it cannot be made longer later,
        and ``provider_grace_ms``."""
        self._wire = wire
        self._player = player
        self._files = files
        self._on_event = on_event
        self._cushioning = cushioning
        self._clock = clock
        self._runs: deque[_Run] = deque()
        self._parts: deque[_Part] = deque()
        self._stopped: dict[str, SoundFile] = {}
        """Asked to stop, and not known to be over."""
        self._open: dict[str, LedgerItem] = {}
        """Items with audio that are not over, in the order of their first chunk."""
        self._began_at: float | None = None
        self._paused = False
        self._silent_since = 0.0
        self._silencing_since: float | None = None
        self.ledger = PlayoutLedger(wire.rate_hz)
        self.stats = PlaybackStats()
        player.on_event = self._on_player

    @property
    def state(self) -> PlaybackState:
        if self._paused:
            return PlaybackState.PAUSED
        if self._parts:
            return PlaybackState.PLAYING
        if not self._open:
            return PlaybackState.IDLE
        dry = next(iter(self._open.values())).begun
        return PlaybackState.STARVED if dry else PlaybackState.FILLING

    @property
    def speaking(self) -> bool:
        return bool(self._open)

    def start(self) -> None:
        self._began_at = self._silent_since = self._clock()
        self._player.keep_silence()

    def enqueue(self, item_id: str, chunk: bytes) -> None:
        item = self.ledger.item(item_id)
        if item.cut:
            self.stats.late_chunks += 1
            return
        item.complete = False
        item.generated_samples += self._wire.samples(len(chunk))
        if not self._open:
            self._silent_since = self._clock()
        self._open[item_id] = item
        if chunk:
            if not self._runs or self._runs[-1].item is not item:
                self._runs.append(_Run(item))
            self._runs[-1].data += chunk

    def complete(self, item_id: str) -> None:
        item = self._open.get(item_id)
        if item is not None:
            item.complete = True

    def complete_all(self) -> None:
        for item in self._open.values():
            item.complete = True

    def describe(self, item_id: str, text: str) -> None:
        self.ledger.item(item_id).text = text

    def pause(self) -> None:
        """Holds playback, a request to Asterisk later; a file that has yet to begin is held at its first frame."""
        if self._paused:
            return
        self._paused = True
        now = self._clock()
        self._book(now)
        head = self._head()
        if head is not None and head.started_at is not None and not head.held:
            self._silencing_since = now
            self._hold(head)

    def resume(self) -> None:
        """Goes on with the very next sample, after one frame of silence."""
        if not self._paused:
            return
        self._paused = False
        self._silencing_since = None
        now = self._silent_since = self._clock()
        head = self._head()
        if head is not None:
            head.due = now
            if head.held:
                self._player.resume(head.file.name)

    def cut(self) -> list[Cut]:
        now = self._clock()
        self._book(now)
        head = self._head()
        if head is not None and head.started_at is not None and not self._paused:
            self._silencing_since = now
        unheard = sum(part.samples - part.booked for part in self._parts)
        unheard += sum(self._wire.samples(len(run.data)) for run in self._runs)
        self.stats.flushed_frames += unheard // self._wire.frame_samples
        cut = list(self._open.values())
        self._runs.clear()
        self._open.clear()
        self._stop(list(self._parts))
        self._paused = False
        for item in cut:
            item.cut = True
        return [Cut(item.item_id, self.ledger.heard_ms(item.item_id)) for item in cut]

    def close(self) -> None:
        self._runs.clear()
        self._open.clear()
        self._stop(list(self._parts))
        self._player.close()
        self._files.close()

    def tick(self) -> None:
        now = self._clock()
        self._book(now)
        if self._open and not self._paused:
            self._feed()
            if self._parts:
                self._watch(self._parts[0], now)
            elif now - self._silent_since >= self._cushioning.provider_grace_ms / 1000:
                self._give_up()
            self._close_items()

    # What the player tells ---------------------------------------------------------------------------------

    def _on_player(self, event: FileEvent) -> None:
        part = next((part for part in self._parts if part.file.name == event.playback_id), None)
        match event:
            case FileStarted() if part is not None:
                self._started(part)
            case FilePaused():
                if part is not None:
                    self._silence_start(part)
                self._silenced()
            case FileFinished(playback_id=playback_id, fault=fault):
                if part is not None:
                    self._finished(part, fault)
                elif playback_id in self._stopped:
                    self._files.remove(self._stopped.pop(playback_id))
                self._silenced()
                if not self._parts and not self._stopped:
                    self._player.keep_silence()

    def _started(self, part: _Part) -> None:
        now = self._clock()
        again_s = FRAME_S if part.held else 0.0
        part.started_at = now + again_s - part.booked / self._wire.rate_hz
        part.held = False
        self._silencing_since = None
        self._book(now)
        if self._paused:
            self._hold(part)
        if not part.item.begun:
            part.item.begun = True
            self._on_event(PlayoutStarted(part.item.item_id))

    def _finished(self, part: _Part, fault: str) -> None:
        self._parts.remove(part)
        self._files.remove(part.file)
        self._silent_since = self._clock()
        if fault:
            # It may play all the same, where only the answer failed to come.
            self._player.stop(part.file.name)
            self._fail(part.item, fault)
            return
        self._account(part, part.samples)
        if self._parts:
            self._parts[0].due = self._silent_since
        self._close_items()

    def _silenced(self) -> None:
        if self._silencing_since is not None:
            after_ms = 1000 * (self._clock() - self._silencing_since)
            self._silencing_since = None
            self._on_event(AgentSilenced(after_ms))

    # From audio to files -----------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Has the next file played, when it is time for it."""
        while self._runs and len(self._parts) < MOST_OUTSTANDING and self._is_time():
            self._hand_over()

    def _is_time(self) -> bool:
        run = self._runs[0]
        there_ms = self._wire.duration_ms(len(run.data))
        if there_ms >= LONGEST_FILE_MS or self._is_whole(run):
            return True
        if self._parts:
            return there_ms >= FRAME_MS and self._left_ms() <= LEAD_MS
        return there_ms >= max(FRAME_MS, self._cushioning.jitter_buffer_ms)

    def _is_whole(self, run: _Run) -> bool:
        """Nothing will be added to it."""
        return run.item.complete or len(self._runs) > 1

    def _hand_over(self) -> None:
        """Puts what there is of the first run into a file: whole frames, the last one of a run filled up."""
        run, frame_bytes = self._runs[0], self._wire.frame_bytes
        size = min(len(run.data), LONGEST_FILE_MS // FRAME_MS * frame_bytes)
        if size < len(run.data) or not self._is_whole(run):
            size -= size % frame_bytes
        sound = bytes(run.data[:size])
        del run.data[:size]
        if not run.data:
            self._runs.popleft()
        try:
            file = self._files.write(sound + self._wire.silent_frame[: -size % frame_bytes], self._wire)
        except OSError as error:
            self._fail(run.item, f"the sound file could not be written: {error}")
            return
        if run.item.begun and not self._parts:
            self.stats.underruns += 1
        self._parts.append(_Part(run.item, file, self._wire.samples(size), self._clock()))
        self._player.play(file.name, file.uri)

    def _left_ms(self) -> float:
        """How long what is in Asterisk will last."""
        return 1000 * sum(part.samples - part.booked for part in self._parts) / self._wire.rate_hz

    # The account -------------------------------------------------------------------------------------------

    def _book(self, now: float) -> None:
        """Books what has left by the clock; silence, when nothing plays."""
        head = self._head()
        if head is not None and head.started_at is not None and not head.held:
            # A hair more, as the beat's own times are a hair off.
            frames = int((now - head.started_at) / FRAME_S + 1e-6) + 1
            self._account(head, min(head.samples, frames * self._wire.frame_samples))
        elif self._began_at is not None:
            missing = int((now - self._began_at) * self._wire.rate_hz) - self.ledger.sent_samples
            if missing > 0:
                self.ledger.silence(missing)

    def _account(self, part: _Part, samples: int) -> None:
        """So many of its samples have left."""
        if samples > part.booked:
            self.ledger.played(part.item, samples - part.booked)
            part.booked = samples

    def _close_items(self) -> None:
        """Takes leave of the items that are over, and of the floor after the last one; not while that is held."""
        if self._paused:
            return
        playing = {part.item.item_id for part in self._parts}
        over = [item for item in self._open.values() if item.over and item.item_id not in playing]
        for item in over:
            item.begun = False
            del self._open[item.item_id]
        drained = bool(over) and not self._open
        for item in over:
            if not item.cut:
                self._on_event(PlayoutFinished(item.item_id))
        if drained and not self._open:
            self._on_event(PlayoutDrained(1000 * (self._clock() - self._silent_since)))

    # Trouble -----------------------------------------------------------------------------------------------

    def _give_up(self) -> None:
        """The provider left an item unfinished: play what there is of it, padded."""
        self.stats.stalls += 1
        stalled = next(iter(self._open.values()))
        stalled.complete = True
        self._on_event(PlayoutStalled(stalled.item_id))

    def _watch(self, part: _Part, now: float) -> None:
        """Events get lost with the connection that they come by; a call must not wait for them for ever."""
        if part.started_at is None or part.held:
            if now - part.due >= START_LIMIT_S:
                self._fail(part.item, f"it did not begin or go on within {START_LIMIT_S:.0f} s")
        elif now - part.started_at >= part.samples / self._wire.rate_hz + END_LIMIT_S:
            log.warning("playback_end_missed", playback=part.file.name)
            self._player.stop(part.file.name)
            self._finished(part, "")

    def _fail(self, item: LedgerItem, fault: str) -> None:
        """What was not heard of it never will be; the conversation goes on."""
        log.warning("playback_failed", item=item.item_id, error=fault)
        self.stats.stalls += 1
        item.cut = True
        self._runs = deque(run for run in self._runs if run.item is not item)
        self._stop([part for part in self._parts if part.item is item])
        self._on_event(PlayoutStalled(item.item_id))
        self._close_items()

    # Parts -------------------------------------------------------------------------------------------------

    def _head(self) -> _Part | None:
        return self._parts[0] if self._parts else None

    def _hold(self, part: _Part) -> None:
        part.held = True
        self._player.pause(part.file.name)

    def _silence_start(self, part: _Part) -> None:
        """Asterisk will play the file's first frame again when it goes on."""
        try:
            self._files.silence_start(part.file, self._wire)
        except OSError as error:
            log.warning("playback_file_not_silenced", playback=part.file.name, error=str(error))

    def _stop(self, parts: Sequence[_Part]) -> None:
        """The last one first: the end of the first one would begin the next."""
        for part in reversed(parts):
            self._parts.remove(part)
            self._stopped[part.file.name] = part.file
            self._player.stop(part.file.name)
