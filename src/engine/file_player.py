"""The seam to whatever plays files to a caller, and Asterisk behind it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from audio.formats import AudioFormat
from engine.ending import HANGUP_RACE_S
from engine.playback_files import CallFiles
from transport.ari import AriClient, AriError, AriNotFound

log = structlog.get_logger(__name__)

MOST_WAITING = 64
"""Requests to Asterisk that may wait for their turn; an undisturbed call has at most a handful."""
CLIP_GRACE_S = 3.0
"""How much longer than it lasts a clip may take to be over."""


@dataclass(slots=True, frozen=True)
class FileStarted:
    """The first frame of the file is leaving: at its beginning, and once more when it goes on after a pause."""

    playback_id: str


@dataclass(slots=True, frozen=True)
class FilePaused:
    """Nothing leaves any more; the file is held."""

    playback_id: str


@dataclass(slots=True, frozen=True)
class FileFinished:
    """The file is over, played to its end or stopped. ``fault`` tells why it was neither; empty: it was."""

    playback_id: str
    fault: str = ""


FileEvent = FileStarted | FilePaused | FileFinished


class FilePlayer(Protocol):
    """Plays files to one caller, one after the other. Nothing waits and nothing raises: events tell what became.

    Requests are carried out in the order in which they are made.
    """

    on_event: Callable[[FileEvent], None]

    def play(self, playback_id: str, uri: str) -> None:
        """Plays a file, after those asked for before. ``FileFinished`` follows in any case, a lost peer aside."""

    def stop(self, playback_id: str) -> None: ...

    def pause(self, playback_id: str) -> None:
        """Holds a file that has started; one that has not, or is over, is left alone."""

    def resume(self, playback_id: str) -> None:
        """Plays the first 20 ms of the file again, as it is on the disk now, and goes on with the very next sample."""

    def keep_silence(self) -> None:
        """Has silence sent until a file is played, so that the line is not taken for dead."""

    def close(self) -> None:
        """Nothing is told any more, and nothing asked for but the stops that are under way."""


@dataclass(slots=True, frozen=True)
class _Request:
    name: str
    playback_id: str
    send: Callable[[], Awaitable[None]]
    done: FileEvent | None = None
    """What its success means."""


class AriFilePlayer:
    """Plays on the caller's channel, which must not be in a bridge if the caller is to be heard meanwhile.

    ``spawn`` runs work until the call ends. ``on_ari`` is to be given the events of this channel's playbacks.
    """

    def __init__(self, ari: AriClient, channel_id: str, *, spawn: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self.on_event: Callable[[FileEvent], None] = _ignore
        self.requests_failed = 0
        self._ari = ari
        self._channel_id = channel_id
        self._spawn = spawn
        self._log = log.bind(call_id=channel_id)
        self._requests: deque[_Request] = deque()
        self._working = False
        self._closed = False

    def play(self, playback_id: str, uri: str) -> None:
        self._ask(_Request("play", playback_id, lambda: self._ari.play(self._channel_id, playback_id, uri)))

    def stop(self, playback_id: str) -> None:
        self._ask(_Request("stop", playback_id, lambda: self._ari.stop_playback(playback_id)))

    def pause(self, playback_id: str) -> None:
        paused = FilePaused(playback_id)
        self._ask(_Request("pause", playback_id, lambda: self._ari.pause_playback(playback_id), paused))

    def resume(self, playback_id: str) -> None:
        self._ask(_Request("resume", playback_id, lambda: self._ari.resume_playback(playback_id)))

    def keep_silence(self) -> None:
        self._ask(_Request("silence", "", lambda: self._ari.start_silence(self._channel_id)))

    def close(self) -> None:
        self._closed = True
        self._requests = deque(request for request in self._requests if request.name == "stop")

    def on_ari(self, event: Mapping[str, Any]) -> None:
        """Takes a ``PlaybackStarted`` or ``PlaybackFinished``; in order, synchronously. Others are ignored."""
        if self._closed:
            return
        playback = event.get("playback", {})
        if event["type"] == "PlaybackStarted":
            self.on_event(FileStarted(playback["id"]))
        elif event["type"] == "PlaybackFinished" and playback["state"] != "failed":
            self.on_event(FileFinished(playback["id"]))
        elif event["type"] == "PlaybackFinished":
            # It fails with a hang-up too, but that is known by now.
            self._spawn(self._tell_unless_over(FileFinished(playback["id"], "Asterisk could not play it")))

    async def _tell_unless_over(self, event: FileEvent, after_s: float = 0.0) -> None:
        """As the work of a call is done only until that ends, what a hang-up brings with it is not told."""
        await asyncio.sleep(after_s)
        if not self._closed:
            self.on_event(event)

    def _ask(self, request: _Request) -> None:
        if self._closed:
            return
        if len(self._requests) >= MOST_WAITING:
            self._failed(request, "Asterisk does not keep up")
            return
        self._requests.append(request)
        if not self._working:
            self._working = True
            self._spawn(self._work())

    async def _work(self) -> None:
        """Sends what waits, one after the other: what is stopped must have been played before."""
        try:
            while self._requests:
                await self._carry_out(self._requests.popleft())
        finally:
            self._working = False

    async def _carry_out(self, request: _Request) -> None:
        try:
            await request.send()
        except AriError as error:
            if not self._closed:
                self._refused(request, error)
        else:
            if request.done is not None and not self._closed:
                self.on_event(request.done)

    def _refused(self, request: _Request, error: AriError) -> None:
        # A playback that is gone tells so by other events; a pause (409) may come a moment too late.
        if not isinstance(error, AriNotFound) and error.status != 409:
            self._failed(request, str(error))
        elif request.name == "play":
            gone = FileFinished(request.playback_id, str(error))
            self._spawn(self._tell_unless_over(gone, after_s=HANGUP_RACE_S))

    def _failed(self, request: _Request, fault: str) -> None:
        self.requests_failed += 1
        if self.requests_failed == 1:
            self._log.warning("playback_request_failed", request=request.name, error=fault)
        if request.name == "play":
            self.on_event(FileFinished(request.playback_id, fault))


async def play_once(player: FilePlayer, files: CallFiles, sound: bytes, audio_format: AudioFormat) -> bool:
    """Plays one clip and returns when it is over: True when it was played to its end.

    For a player that nothing else uses. It takes at most ``CLIP_GRACE_S`` longer than the clip lasts.
    """
    try:
        file = files.write(sound, audio_format)
    except OSError as error:
        log.error("playback_file_not_written", error=str(error))
        return False
    over: asyncio.Future[FileFinished] = asyncio.get_running_loop().create_future()

    def take(event: FileEvent) -> None:
        if isinstance(event, FileFinished) and event.playback_id == file.name and not over.done():
            over.set_result(event)

    player.on_event = take
    try:
        async with asyncio.timeout(audio_format.duration_ms(len(sound)) / 1000 + CLIP_GRACE_S):
            player.play(file.name, file.uri)
            finished = await over
    except TimeoutError:
        player.stop(file.name)
        return False
    finally:
        player.on_event = _ignore
        files.remove(file)
    return not finished.fault


def _ignore(_: FileEvent) -> None:
    pass
