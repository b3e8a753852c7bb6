"""A playback by files, and an Asterisk that plays them, on a clock of the test's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audio.formats import ULAW_8K, AudioFormat
from engine.cushion import Cushioning
from engine.file_playback import FilePlaybackManager
from engine.file_player import FileEvent, FileFinished, FilePaused, FileStarted
from engine.playback_files import PlaybackFiles
from engine.playout import PlayoutEvent

FRAME = ULAW_8K.frame_bytes
SILENCE = ULAW_8K.silent_frame


@dataclass
class Playing:
    playback_id: str
    path: Path
    sound: bytes = b""
    offset: int = 0
    held: bool = False


class Asterisk:
    """Plays one file after the other, a frame a beat; what is asked for takes effect at the next beat."""

    def __init__(self, wire: AudioFormat) -> None:
        self.on_event: Callable[[FileEvent], None] = lambda _: None
        self.wire = wire
        self.heard: list[bytes] = []
        """What left at each beat; empty where there was nothing, not even silence."""
        self.requests: list[tuple[str, str]] = []
        self.most_outstanding = 0
        self.takes_beats = 1
        """How long after it was asked for something takes effect."""
        self.deaf = False
        """Nothing asked for has an effect or an answer."""
        self.mute = False
        """Everything has its effect, and no event tells so."""
        self.broken: set[int] = set()
        """Which of the files played, by number, Asterisk finds unplayable."""
        self.closed = False
        self._queue: deque[Playing] = deque()
        self._pending: deque[tuple[int, Callable[[], None]]] = deque()
        self._beats = 0
        self._silent = False
        self._played = 0

    def play(self, playback_id: str, uri: str) -> None:
        path = Path(uri.removeprefix("sound:")).with_suffix(".ulaw" if self.wire is ULAW_8K else ".sln16")
        self._ask("play", playback_id, lambda: self._queue.append(Playing(playback_id, path)))
        self.most_outstanding = max(self.most_outstanding, len(self._queue) + 1)

    def stop(self, playback_id: str) -> None:
        def stop() -> None:
            for playing in self._queue:
                if playing.playback_id == playback_id:
                    playing.sound = b""
                    playing.offset = 1

        self._ask("stop", playback_id, stop)

    def pause(self, playback_id: str) -> None:
        def pause() -> None:
            if self._queue and self._queue[0].playback_id == playback_id and self._queue[0].offset:
                self._queue[0].held = True
                self._tell(FilePaused(playback_id))

        self._ask("pause", playback_id, pause)

    def resume(self, playback_id: str) -> None:
        def resume() -> None:
            for playing in self._queue:
                if playing.playback_id == playback_id and playing.held:
                    playing.held = False
                    self.heard.append(playing.path.read_bytes()[: self.wire.frame_bytes])
                    self._tell(FileStarted(playback_id))

        self._ask("resume", playback_id, resume)

    def keep_silence(self) -> None:
        def keep() -> None:
            self._silent = not self._queue

        self._ask("silence", "", keep)

    def close(self) -> None:
        self.closed = True

    def beat(self) -> None:
        self._beats += 1
        already = len(self.heard)
        while self._pending and self._pending[0][0] <= self._beats:
            self._pending.popleft()[1]()
        while self._queue and self._is_over(self._queue[0]):
            over = self._queue.popleft()
            self._tell(FileFinished(over.playback_id))
        while self._queue and not self._queue[0].offset and not self._begin(self._queue[0]):
            pass
        if len(self.heard) > already:
            return  # the frame that is played again
        if not self._queue:
            self.heard.append(self.wire.silent_frame if self._silent else b"")
        elif self._queue[0].held:
            self.heard.append(b"")
        else:
            head = self._queue[0]
            self.heard.append(head.sound[head.offset : head.offset + self.wire.frame_bytes])
            head.offset += self.wire.frame_bytes
            if head.offset == self.wire.frame_bytes:
                self._tell(FileStarted(head.playback_id))

    def _is_over(self, playing: Playing) -> bool:
        return bool(playing.offset) and playing.offset >= len(playing.sound)

    def _begin(self, playing: Playing) -> bool:
        self._silent = False
        self._played += 1
        if self._played in self.broken:
            self._queue.popleft()
            self._tell(FileStarted(playing.playback_id))
            self._tell(FileFinished(playing.playback_id, "it is broken"))
            return False
        playing.sound = playing.path.read_bytes()
        return True

    def _ask(self, name: str, playback_id: str, effect: Callable[[], None]) -> None:
        self.requests.append((name, playback_id))
        if not self.deaf:
            self._pending.append((self._beats + self.takes_beats, effect))

    def _tell(self, event: FileEvent) -> None:
        if not self.mute and not self.closed:
            self.on_event(event)


class Stage:
    """A playback manager with its player, its folder, its events and its clock."""

    def __init__(self, folder: Path, wire: AudioFormat = ULAW_8K, **cushioning: int) -> None:
        self.now = 100.0
        self.folder = folder
        self.asterisk = Asterisk(wire)
        self.events: list[PlayoutEvent] = []
        files = PlaybackFiles(folder, prefix="test")
        files.prepare()
        self.playback = FilePlaybackManager(
            wire,
            self.asterisk,
            files.for_call(),
            self.events.append,
            cushioning=Cushioning(**cushioning),
            clock=lambda: self.now,
        )
        self.playback.start()

    def beat(self, times: int = 1) -> None:
        for _ in range(times):
            self.now += 0.02
            self.asterisk.beat()
            self.playback.tick()

    def say(self, item_id: str, sound: bytes) -> None:
        self.playback.enqueue(item_id, sound)
        self.playback.complete(item_id)

    def voiced(self) -> bytes:
        """Everything that was heard, less the frames of pure silence."""
        silence = self.asterisk.wire.silent_frame
        return b"".join(frame for frame in self.asterisk.heard if frame != silence)

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def asked(self, name: str) -> list[str]:
        return [playback_id for asked, playback_id in self.asterisk.requests if asked == name]


def speech(frames: float, seed: int = 1) -> bytes:
    """Sound without a silent byte, each frame different."""
    return bytes(1 + (seed * 31 + n + n // 249) % 250 for n in range(int(frames * FRAME)))
