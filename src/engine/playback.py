"""Playback where we keep the time: the agent's audio, which comes as it likes, as an even stream of 20 ms frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from audio.formats import AudioFormat
from engine.cushion import Cushioning
from engine.playback_core import PlaybackCore
from engine.playout import Cut, PlaybackState, PlayoutEvent


class FrameSink(Protocol):
    """The part of a media port that playback needs."""

    @property
    def format(self) -> AudioFormat: ...

    def send(self, frame: bytes) -> None: ...

    def flush(self) -> None: ...


class StreamingPlaybackManager(PlaybackCore):
    """The ``Playback`` over a wire that plays at once what it is sent: each tick sends one frame."""

    def __init__(
        self,
        sink: FrameSink,
        on_event: Callable[[PlayoutEvent], None],
        *,
        cushioning: Cushioning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(sink.format, on_event, cushioning, clock)
        self._sink = sink
        self._frame_bytes = sink.format.frame_bytes
        self._frame_samples = sink.format.frame_samples
        self._silence = sink.format.silent_frame

    def start(self) -> None:
        """The first tick is all that playing waits for."""

    def pause(self) -> None:
        """Holds playback from the next tick on, also of what is still to come; nothing is lost."""
        if self.state is PlaybackState.PLAYING:
            self._silencing_since = self._clock()
        self.state = PlaybackState.PAUSED

    def resume(self) -> None:
        if self.state is PlaybackState.PAUSED:
            self._silencing_since = None
            if self._speech.size:
                self.state = PlaybackState.PLAYING
            elif self._speech.open:
                self._enter(PlaybackState.STARVED)
            else:
                self.state = PlaybackState.IDLE

    def cut(self) -> list[Cut]:
        if self.state is PlaybackState.PLAYING:
            self._silencing_since = self._clock()
        self.stats.flushed_frames += self._speech.size // self._frame_bytes
        self._sink.flush()
        return self._drop_speech()

    def close(self) -> None:
        """Nothing to stop: without ticks nothing is sent."""

    def tick(self) -> None:
        """Sends one frame: the agent's next one, or silence."""
        if self.state is PlaybackState.PLAYING:
            # The shortest way for nearly all of speech: with a frame in the middle nothing begins or ends.
            inner = self._speech.take_inner_frame()
            if inner is not None:
                item, frame = inner
                self.ledger.played(item, self._frame_samples)
                self._sink.send(frame)
                return
        elif self._waiting:
            self._wait()
        if self.state is PlaybackState.PLAYING:
            if self._speech.playable:
                frame, runs = self._speech.take(1)
                self._sink.send(frame)
                self._book_frame(runs)
                return
            self._enter(PlaybackState.STARVED)
        self._sink.send(self._silence)
        self.ledger.silence(self._frame_samples)
        self._report_silenced()
