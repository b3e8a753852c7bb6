"""Playback where the peer plays files: the agent's audio, which comes as it likes, in files without a gap between."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

import structlog

from audio.formats import FRAME_MS, AudioFormat
from engine.cushion import Cushioning
from engine.file_player import FileEvent, FileFinished, FilePaused, FilePlayer, FileStarted
from engine.file_queue import FileQueue
from engine.playback_core import PlaybackCore
from engine.playback_files import CallFiles
from engine.playout import Cut, PlaybackState, PlayoutEvent
from engine.speech_queue import Run

log = structlog.get_logger(__name__)

MOST_OUTSTANDING = 2
"""Files that are playing or waiting in Asterisk: the next one has to be there when the first one ends, and no
more need be taken back when the caller cuts in."""
LEAD_MS = 200
"""How long before the last file's end the next one is written, however little there is for it."""
FIRST_FILE_MS = 2 * LEAD_MS
"""The least to begin with if more is to come: a file cannot be made longer later, and while it lasts down to the lead,
a provider that keeps up with the caller makes a lead's worth of the next one."""
LONGEST_FILE_MS = 10_000
"""At most 320 kB of wideband sound, written in a fraction of a millisecond."""


class FilePlaybackManager(PlaybackCore):
    """The ``Playback`` by files. An item is finished when the file with its end is over."""

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
        super().__init__(wire, on_event, replace(cushioning, least_ms=FIRST_FILE_MS), clock)
        self._frame_bytes = wire.frame_bytes
        self._longest_bytes = wire.size_bytes(LONGEST_FILE_MS)
        self._player = player
        self._far = FileQueue(wire, player, files, clock)
        self._began_at: float | None = None
        """From ``start`` to ``close``: since when the caller hears."""
        player.on_event = self._on_file

    def start(self) -> None:
        self._began_at = self._clock()
        self._player.keep_silence()
        self._send_on()

    def enqueue(self, item_id: str, chunk: bytes) -> None:
        """Begins at once when there is enough; the end of an item is left to ``tick``, so that the next can join it."""
        super().enqueue(item_id, chunk)
        self._send_on()

    def pause(self) -> None:
        """Holds playback, a request to Asterisk later; a file that has yet to begin is held at its first frame."""
        self._settle()
        if self._far.hold():
            self._silencing_since = self._clock()
        self.state = PlaybackState.PAUSED

    def resume(self) -> None:
        if self.state is not PlaybackState.PAUSED:
            return
        self._silencing_since = None
        if self._far.outstanding or self._speech.playable:
            self.state = PlaybackState.PLAYING
            self._far.release()
            self._send_on()
        elif self._speech.open:
            self._enter(PlaybackState.STARVED)
        else:
            self.state = PlaybackState.IDLE

    def cut(self) -> list[Cut]:
        self._settle()
        if self._far.sounding:
            self._silencing_since = self._clock()
        self.stats.flushed_frames += self._far.remaining + self._speech.size // self._frame_bytes
        self._far.stop()
        return self._drop_speech()

    def close(self) -> None:
        self._began_at = None
        self._far.close()

    def tick(self) -> None:
        """Books what has left, and has the next file played when it is time for it."""
        self._settle()
        if self._waiting:
            self._wait()
        elif self.state is PlaybackState.PLAYING:
            missed = self._far.missed()
            if missed is not None:
                self._on_file(missed)
        self._send_on()

    def _on_file(self, event: FileEvent) -> None:
        match event:
            case FileStarted(playback_id=playback_id):
                self._far.started(playback_id)
                self._settle()
                if self.state is PlaybackState.PAUSED:
                    self._far.hold()
            case FilePaused(playback_id=playback_id):
                self._far.paused(playback_id)
                self._report_silenced()
            case FileFinished(playback_id=playback_id, fault=""):
                for runs in self._far.finished(playback_id):
                    self._book_frame(runs)
                self._file_over()
            case FileFinished(playback_id=playback_id, fault=fault):
                lost = self._far.failed(playback_id)
                if lost:
                    self._fail(lost, fault)
                self._file_over()

    def _file_over(self) -> None:
        self._report_silenced()
        self._starve_if_dry()
        self._send_on()

    def _send_on(self) -> None:
        """Has files played as long as it is time for one."""
        while (
            self._began_at is not None
            and self.state is PlaybackState.PLAYING
            and self._far.outstanding < MOST_OUTSTANDING
            and self._is_time()
        ):
            self._send_file()

    def _is_time(self) -> bool:
        speech = self._speech
        if not speech.playable:
            return False
        return speech.ended or speech.size >= self._longest_bytes or FRAME_MS * self._far.remaining <= LEAD_MS

    def _send_file(self) -> None:
        """Puts what there is into a file, as much as one may hold."""
        sound = bytearray()
        runs: list[Run] = []
        while self._speech.playable and len(sound) < self._longest_bytes:
            frames, more = self._speech.take((self._longest_bytes - len(sound)) // self._frame_bytes)
            sound += frames
            runs += more
        try:
            self._far.add(bytes(sound), runs)
        except OSError as error:
            lost = self._far.stop_items({item.item_id for item, _ in runs if item is not None})
            self._fail(lost, f"the sound file could not be written: {error}")
            self._starve_if_dry()

    def _starve_if_dry(self) -> None:
        """When all files are over before the speech is, there is a gap already: the next one gets a cushion."""
        if self.state is PlaybackState.PLAYING and not self._far.outstanding:
            self._enter(PlaybackState.STARVED)
            self._play_if_enough()

    def _fail(self, item_ids: Collection[str], fault: str) -> None:
        """What was not heard of them never will be; the conversation goes on."""
        log.warning("playback_failed", items=sorted(item_ids), error=fault)
        self._fail_items(item_ids)

    def _settle(self) -> None:
        """Books what has left by the clock; silence, when nothing plays."""
        for runs in self._far.left():
            self._book_frame(runs)
        if self._began_at is not None and not self._far.sounding:
            frame_samples = self._wire.frame_samples
            frames_due = int((self._clock() - self._began_at) * 1000 / FRAME_MS)
            missing = frames_due * frame_samples - self.ledger.sent_samples
            if missing > 0:
                self.ledger.silence(missing)
