"""Playback where the peer keeps the time: audio is handed over as it comes, and marks say what was heard."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.cushion import Cushioning
from engine.far_queue import MARK_EVERY_FRAMES, FarQueue
from engine.playback_core import PlaybackCore
from engine.playout import Cut, PlaybackState, PlayoutEvent, PlayoutStarted
from transport.media import PeerPacedPort

AHEAD_FRAMES = 250
"""The most speech that is handed over before it is due. Five seconds outlast any stall of ours, and stay far from the
1000 frames from which on Asterisk drops what it is sent (its halt, at 900, takes a round trip to reach us)."""
REFILL_FRAMES = 200
"""Below this more is handed over, so that a long reply goes in helpings of a second, not in single frames."""
ENDING_FRAMES = 5
"""When so little is left of all speech, its end is handed over; until then the next item can join without a gap."""
DRY_FRAMES = 1
"""When so little is left of an item that is to go on, the peer is asked to say when that has left."""
TAIL_FRAMES = 2
"""Silence right behind the last speech. The mark before it is reported as the first of the two leaves, and within
40 ms more must be there; it is also all the silence that the next item can find in its way."""
SILENCE_FRAMES = 50
"""Silence is handed over by the second: it is flushed when there is something to say."""
SILENCE_LOW_FRAMES = 25
"""The least of it that is kept there: how long we may stall before the stream stops."""


class BulkPlaybackManager(PlaybackCore):
    """The ``Playback`` over a wire whose peer queues and paces.

    The peer sends nothing when its queue is empty, so silence is kept in it while nobody speaks, and flushed out of
    the way of speech; a tick has nothing to do as a rule. While the peer is held by ``pause`` in the middle of
    speech, it sends nothing at all: bearable for the second that a suspicion lasts, no way to put a call on hold.

    An item is started when its first frame leaves, and finished when its last frame has been played out: one
    frame later than where we keep the time.
    """

    def __init__(
        self,
        port: PeerPacedPort,
        on_event: Callable[[PlayoutEvent], None],
        *,
        cushioning: Cushioning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(port.format, on_event, cushioning, clock)
        self._port = port
        self._frame_bytes = port.format.frame_bytes
        self._far = FarQueue(port, self.ledger, clock)
        self._live = False
        """From ``start`` to ``close``: what is sent is heard."""
        port.on_mark = self._on_mark

    def start(self) -> None:
        self._live = True
        self._send_on()

    def enqueue(self, item_id: str, chunk: bytes) -> None:
        super().enqueue(item_id, chunk)
        if self._live:
            self._send_speech()

    def complete(self, item_id: str) -> None:
        super().complete(item_id)
        self._send_on()

    def complete_all(self) -> None:
        super().complete_all()
        self._send_on()

    def pause(self) -> None:
        self._far.settle()
        if self._far.speech_remaining and not self._far.held:
            self._silencing_since = self._clock()
            self._far.hold()
        self.state = PlaybackState.PAUSED

    def resume(self) -> None:
        if self.state is not PlaybackState.PAUSED:
            return
        self._silencing_since = None
        if self._speech.playable or not self._far.silent:
            self.state = PlaybackState.PLAYING
            self._send_on()
            self._far.release()
        elif self._speech.open:
            self._enter(PlaybackState.STARVED)
        else:
            self.state = PlaybackState.IDLE

    def cut(self) -> list[Cut]:
        self._far.settle()
        unheard = self._far.speech_remaining
        self.stats.flushed_frames += unheard + self._speech.size // self._frame_bytes
        if unheard and self.state is PlaybackState.PLAYING:
            self._silencing_since = self._clock()
        self._far.flush()
        cuts = self._drop_speech()
        self._send_on()
        return cuts

    def close(self) -> None:
        self._live = False

    def tick(self) -> None:
        """Sends what is due, if anything is."""
        if not self._live:
            return
        if self._waiting:
            self._wait()
        self._send_on()
        if self.state is PlaybackState.PAUSED:
            self._report_silenced()

    def _on_mark(self, number: int) -> None:
        if not self._live or not self._far.reported(number):
            return
        if self._far.silent:
            self._far.release()
        self._close_items()
        for item in self._far.leaving():
            if not item.begun:
                item.begun = True
                self._on_event(PlayoutStarted(item.item_id))
        if self.state is PlaybackState.PLAYING:
            if self._far.silent and not self._speech.playable:
                self._enter(PlaybackState.STARVED)
        elif self.state is not PlaybackState.PAUSED:
            self._report_silenced()
        self._send_on()

    def _send_on(self) -> None:
        """Sends whatever is due now: speech, the end of it, or silence."""
        if not self._live:
            return
        self._far.settle()
        if self.state is PlaybackState.PLAYING:
            self._send_speech()
            self._send_end()
        else:
            self._send_silence()

    def _send_speech(self) -> None:
        """Hands over what is whole."""
        far, speech = self._far, self._speech
        if self.state is PlaybackState.PLAYING and far.speech_remaining < REFILL_FRAMES:
            while speech.size >= self._frame_bytes and far.speech_remaining < AHEAD_FRAMES:
                if not self._send_next(MARK_EVERY_FRAMES):
                    return

    def _send_end(self) -> None:
        """Hands over the last frame and its tail of silence, or has the peer say that it ran dry."""
        far, speech = self._far, self._speech
        if speech.size >= self._frame_bytes or far.speech_remaining > ENDING_FRAMES:
            return
        if speech.ended:
            if not speech.size or self._send_next(1):
                self._send_tail()
        elif far.speech_remaining <= DRY_FRAMES:
            far.mark()

    def _send_silence(self) -> None:
        far = self._far
        if far.held:
            return
        if not far.silent:
            self._send_tail()
        elif far.remaining <= SILENCE_LOW_FRAMES:
            self._send_silent_frames(SILENCE_FRAMES)

    def _send_tail(self) -> None:
        """More than this only when the peer says that all speech has left: only then may it be flushed."""
        if self._far.ends_in_speech:
            self._send_silent_frames(TAIL_FRAMES)

    def _send_next(self, most_frames: int) -> bool:
        """Hands over what is to be said next, instead of any silence; False if the wire does not take it now."""
        if not self._port.writable:
            return False
        if self._far.silent:
            self._far.flush()
        frames, runs = self._speech.take(most_frames)
        sent = self._far.send(frames, runs)
        if not sent:
            self._speech.put_back(frames, runs)
        return sent

    def _send_silent_frames(self, count: int) -> None:
        if self._port.writable:
            self._far.send(count * self._wire.silent_frame, [(None, count * self._wire.frame_samples)])
