"""A playback over a peer that paces, and an account of what its caller is to hear."""

from __future__ import annotations

import itertools
from math import inf

from peer_queue import Clock, PeerQueue, PeerTime

from audio.formats import ULAW_8K, AudioFormat
from engine.bulk_playback import BulkPlaybackManager
from engine.cushion import Cushioning
from engine.playout import Cut, PlayoutEvent

FRAME = ULAW_8K.frame_bytes
SILENT = 0xFF


class Stage:
    """A playback with its peer, and an account of its own of what is to be heard."""

    def __init__(
        self,
        wire: AudioFormat = ULAW_8K,
        *,
        started: bool = True,
        skew_ppm: float = 0,
        phase_s: float = 0.007,
        report_lag_s: float = 0.0,
        wire_bytes: float = inf,
        **cushioning: int,
    ) -> None:
        self.clock = Clock()
        self.peer = PeerQueue(
            self.clock, wire, skew_ppm=skew_ppm, phase_s=phase_s, report_lag_s=report_lag_s, wire_bytes=wire_bytes
        )
        self.events: list[PlayoutEvent] = []
        self.playback = BulkPlaybackManager(
            self.peer, self.events.append, cushioning=Cushioning(**cushioning), clock=self.clock
        )
        self.time = PeerTime(self.clock, self.peer, self.playback.tick)
        self.wanted: list[tuple[str, bytes]] = []
        """What is to be heard, in order."""
        self._sounds = itertools.cycle(range(251))
        if started:
            self.playback.start()

    def pass_ms(self, ms: float) -> None:
        self.time.pass_s(ms / 1000)

    def say(self, item_id: str, frames: float, *, complete: bool = True) -> bytes:
        """Has an item (go on to) say something without a silent byte in it."""
        sound = bytes(next(self._sounds) for _ in range(int(frames * FRAME)))
        item = self.playback.ledger.items.get(item_id)
        if item is None or not item.cut:
            self.wanted.append((item_id, sound))
        self.playback.enqueue(item_id, sound)
        if complete:
            self.playback.complete(item_id)
        return sound

    def cut(self) -> list[Cut]:
        cuts = self.playback.cut()
        rest = len(self.voiced)
        kept: list[tuple[str, bytes]] = []
        for item_id, sound in self.wanted:
            kept.append((item_id, sound[:rest]))
            rest -= len(kept[-1][1])
        self.wanted = kept
        return cuts

    @property
    def sound(self) -> bytes:
        return b"".join(sound for _, sound in self.wanted)

    @property
    def voiced(self) -> bytes:
        """All that was heard, less silence."""
        return b"".join(frame for frame in self.peer.heard if frame).replace(bytes([SILENT]), b"")

    def heard_ms(self, item_id: str) -> float:
        """What was really heard of an item."""
        rest, samples = len(self.voiced), 0
        for owner, sound in self.wanted:
            part = min(rest, len(sound))
            rest -= part
            samples += part if owner == item_id else 0
        return samples / 8

    def ticks(self) -> str:
        """What left at each of the peer's ticks: v(oice), s(ilence), p(aused), or - for a hole."""
        return "".join(
            "-" if f is None else "p" if not f else "s" if set(f) == {SILENT} else "v" for f in self.peer.heard
        )
