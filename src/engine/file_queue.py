"""The files that Asterisk has been asked to play, as they are seen from here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import structlog

from audio.formats import FRAME_MS, AudioFormat
from engine.file_player import FileFinished, FilePlayer
from engine.playback_files import CallFiles, SoundFile
from engine.speech_queue import Run, take_runs

log = structlog.get_logger(__name__)

START_LIMIT_S = 6.0
"""How long a file may take to begin: a little more than a request to Asterisk."""
END_LIMIT_S = 2.0
"""How long after its end by the clock a file is taken to be over: the event was missed."""
_FRAME_S = FRAME_MS / 1000


@dataclass(slots=True)
class _Queued:
    file: SoundFile
    runs: deque[Run]
    """What has not left of it."""
    frames: int
    due: float
    """Since when it could have begun, or gone on."""
    left: int = 0
    """Frames that have left."""
    began_at: float | None = None
    """When its first frame left; after a pause: would have left, had there been none."""
    held: bool = False
    """Paused, until it is known to go on."""

    @property
    def item_ids(self) -> set[str]:
        return {item.item_id for item, _ in self.runs if item is not None}


class FileQueue:
    """Writes files, has them played, held and stopped, and tells what of them has left.

    Their starts and ends tell, and in between the clock, one frame per 20 ms; but never of a file's last frame, which
    leaves with its end.
    """

    def __init__(self, wire: AudioFormat, player: FilePlayer, files: CallFiles, clock: Callable[[], float]) -> None:
        self._wire = wire
        self._player = player
        self._files = files
        self._clock = clock
        self._queued: deque[_Queued] = deque()
        self._stopped: dict[str, SoundFile] = {}
        """Asked to stop, and not known to be over."""

    @property
    def outstanding(self) -> int:
        """Files that are playing or waiting."""
        return len(self._queued)

    @property
    def remaining(self) -> int:
        """Frames that have not left, as of the latest ``left``."""
        return sum(queued.frames - queued.left for queued in self._queued)

    @property
    def sounding(self) -> bool:
        """A file is being heard, and goes on."""
        return bool(self._queued) and self._queued[0].began_at is not None and not self._queued[0].held

    def add(self, frames: bytes, runs: Collection[Run]) -> None:
        """Has whole frames played after all that is here. Raises OSError, and has added nothing then."""
        file = self._files.write(frames, self._wire)
        self._queued.append(_Queued(file, deque(runs), len(frames) // self._wire.frame_bytes, self._clock()))
        self._player.play(file.name, file.uri)

    def left(self) -> Iterator[list[Run]]:
        """The frames that have left by the clock since they were asked for last."""
        head = self._queued[0] if self.sounding else None
        if head is not None and head.began_at is not None:
            # A hair more, as the beat's own times are a hair off.
            by_now = int((self._clock() - head.began_at) / _FRAME_S + 1e-6) + 1
            yield from self._take_frames(head, min(by_now, head.frames - 1))

    def hold(self) -> bool:
        """Has what is being heard stop until ``release``; False if nothing is."""
        if not self.sounding:
            return False
        head = self._queued[0]
        head.held = True
        self._player.pause(head.file.name)
        return True

    def release(self) -> None:
        """Goes on with the very next sample, after one frame of silence."""
        if self._queued:
            head = self._queued[0]
            head.due = self._clock()
            if head.held:
                self._player.resume(head.file.name)

    def stop(self) -> None:
        """Takes everything back."""
        self._stop(list(self._queued))

    def stop_items(self, item_ids: Collection[str]) -> set[str]:
        """Takes back the files with any of these items; returns all items that are in them, and these."""
        lost = set(item_ids)
        stopped: list[_Queued] = []
        for queued in self._queued:
            if not lost.isdisjoint(queued.item_ids):
                lost |= queued.item_ids
                stopped.append(queued)
        self._stop(stopped)
        return lost

    def close(self) -> None:
        self.stop()
        self._player.close()
        self._files.close()

    # What the player tells ---------------------------------------------------------------------------------

    def started(self, playback_id: str) -> None:
        queued = self._find(playback_id)
        if queued is not None:
            # What goes on after a pause begins with one frame that was heard before.
            again = 1 if queued.held else 0
            queued.began_at = self._clock() + (again - queued.left) * _FRAME_S
            queued.held = False

    def paused(self, playback_id: str) -> None:
        """Makes silence of the file's first frame, which Asterisk will play again when it goes on."""
        queued = self._find(playback_id)
        if queued is not None:
            try:
                self._files.silence_start(queued.file, self._wire)
            except OSError as error:
                log.warning("playback_file_not_silenced", playback=playback_id, error=str(error))

    def finished(self, playback_id: str) -> Iterator[list[Run]]:
        """The frames of a file that is over, if it had not been stopped, that had not left by the clock."""
        queued = self._take_leave(playback_id)
        if queued is not None:
            yield from self._take_frames(queued, queued.frames)

    def failed(self, playback_id: str) -> set[str]:
        """The items that are lost by a file that could not be played."""
        queued = self._take_leave(playback_id)
        if queued is None:
            return set()
        # It may play all the same, where only the answer failed to come.
        self._player.stop(playback_id)
        return self.stop_items(queued.item_ids)

    def missed(self) -> FileFinished | None:
        """What is taken to have happened because the player has not told anything else for too long.

        Events get lost with the connection that they come by; a call must not wait for them for ever.
        """
        if not self._queued:
            return None
        head, now = self._queued[0], self._clock()
        if head.began_at is None or head.held:
            if now - head.due >= START_LIMIT_S:
                return FileFinished(head.file.name, f"it did not begin or go on within {START_LIMIT_S:.0f} s")
        elif now - head.began_at >= head.frames * _FRAME_S + END_LIMIT_S:
            log.warning("playback_end_missed", playback=head.file.name)
            self._player.stop(head.file.name)
            return FileFinished(head.file.name)
        return None

    # Parts -------------------------------------------------------------------------------------------------

    def _find(self, playback_id: str) -> _Queued | None:
        return next((queued for queued in self._queued if queued.file.name == playback_id), None)

    def _take_frames(self, queued: _Queued, until: int) -> Iterator[list[Run]]:
        while queued.left < until:
            queued.left += 1
            yield take_runs(queued.runs, self._wire.frame_samples)

    def _take_leave(self, playback_id: str) -> _Queued | None:
        """Removes a file that is over; returns it unless it had been stopped. When it was the last, silence follows."""
        queued = self._find(playback_id)
        if queued is not None:
            self._queued.remove(queued)
            self._files.remove(queued.file)
            if self._queued:
                self._queued[0].due = self._clock()
        elif playback_id in self._stopped:
            self._files.remove(self._stopped.pop(playback_id))
        if not self._queued and not self._stopped:
            self._player.keep_silence()
        return queued

    def _stop(self, files: Collection[_Queued]) -> None:
        """The last one first: the end of the first one would begin the next."""
        for queued in reversed(tuple(files)):
            self._queued.remove(queued)
            self._stopped[queued.file.name] = queued.file
            self._player.stop(queued.file.name)
