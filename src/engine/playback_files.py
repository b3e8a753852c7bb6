"""The sound files that Asterisk plays to callers: written for it, and gone once they were heard."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat

log = structlog.get_logger(__name__)

EXTENSIONS: Mapping[AudioFormat, str] = {
    ULAW_8K: "ulaw",
    ALAW_8K: "alaw",
    SLIN_8K: "sln",
    SLIN_16K: "sln16",
    SLIN_24K: "sln24",
}
"""What Asterisk takes raw sound for. Not WAV, of which it does not play the last samples."""

LEFTOVER_S = 600
"""A file is played within seconds; one that is this old was left by an engine that is no more."""

_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
"""Asterisk is another user, as a rule."""
_UNPLAYABLE = ',"'
"""Asterisk cuts a path at the first, and does not find a file with the second in its path."""


@dataclass(slots=True, frozen=True)
class SoundFile:
    """A file to be played. ``name`` is unguessable and unique, ``uri`` is what ARI is told to play."""

    name: str
    uri: str
    path: Path


class PlaybackFiles:
    """The folder that all calls of this engine share with Asterisk.

    ``prefix`` marks what belongs to this engine; ``seen_as`` is the folder's path in Asterisk's eyes, where that
    is another (a volume of two containers). Raises ValueError for a path that Asterisk cannot play from.
    """

    def __init__(self, folder: Path, *, prefix: str, seen_as: Path | None = None) -> None:
        self._folder = folder.absolute()
        self._prefix = f"{prefix}-playback-"
        self._seen_as = self._folder if seen_as is None else seen_as
        for character in _UNPLAYABLE:
            if character in f"{self._seen_as}{prefix}":
                raise ValueError(f"Asterisk cannot play from {self._seen_as}: {character!r} is in the path")

    def prepare(self) -> None:
        """Makes the folder and removes what dead engines left in it. Raises OSError."""
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True)
            self._folder.chmod(_FOLDER_MODE)
        self.sweep()

    def sweep(self) -> int:
        """Removes the leftovers of engines with this one's prefix; returns how many. Raises OSError."""
        newest = time.time() - LEFTOVER_S
        removed = 0
        for path in self._folder.iterdir():
            # Another engine of this name may be sweeping too.
            with suppress(FileNotFoundError):
                if path.name.startswith(self._prefix) and path.stat().st_mtime < newest:
                    path.unlink()
                    removed += 1
        if removed:
            log.info("playback_leftovers_removed", files=removed, folder=str(self._folder))
        return removed

    def for_call(self) -> CallFiles:
        return CallFiles(self._folder, self._seen_as, f"{self._prefix}{secrets.token_hex(16)}")


class CallFiles:
    """The files of one call. Writing takes well under a millisecond, so it is done on the spot."""

    def __init__(self, folder: Path, seen_as: Path, stem: str) -> None:
        self._folder = folder
        self._seen_as = seen_as
        self._stem = stem
        self._written = 0
        self._there: dict[str, Path] = {}

    def write(self, sound: bytes, audio_format: AudioFormat) -> SoundFile:
        """Raises OSError, and leaves nothing behind then."""
        self._written += 1
        name = f"{self._stem}-{self._written}"
        path = self._folder / f"{name}.{EXTENSIONS[audio_format]}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
        self._there[name] = path
        file = SoundFile(name, f"sound:{self._seen_as / name}", path)
        try:
            with os.fdopen(descriptor, "wb") as out:
                os.fchmod(descriptor, _FILE_MODE)  # whatever the umask
                out.write(sound)
        except OSError:
            self.remove(file)
            raise
        return file

    def silence_start(self, file: SoundFile, audio_format: AudioFormat) -> None:
        """Overwrites the first frame with silence. Raises OSError."""
        with file.path.open("r+b") as out:
            out.write(audio_format.silent_frame)

    def remove(self, file: SoundFile) -> None:
        """It was played, or is not to be played any more. Idempotent."""
        path = self._there.pop(file.name, None)
        if path is not None:
            _unlink(path)

    def close(self) -> None:
        """Removes what is left of them."""
        while self._there:
            _unlink(self._there.popitem()[1])


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("playback_file_not_removed", path=str(path), error=str(error))
