"""The agent's voice: flite, brought down to the telephone's rate."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from providers.local.speech.flite import Flite

RATE_HZ = 8000

_HALF_TAPS = 24
_CUTOFF = 0.92
"""Of the telephone's 4 kHz: 40 dB down at 4.2 kHz, flat to 3.4 kHz."""

_QUIET = 200
"""Samples up to this are not voice yet; flite is silent for a fifth of a second before each clause."""
_LEAD_SAMPLES = RATE_HZ // 100
"""What is left of that: 10 ms, so that the first consonant is whole."""

_LONGEST_PIECE = 300
"""Characters: flite plans a sentence as a whole, which takes seconds for a thousand words, and cannot be
stopped meanwhile."""
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")


class Halver:
    """Takes every second sample of a stream after filtering away what 8 kHz cannot carry.

    Delays by ``_HALF_TAPS`` samples (1.5 ms); 16-bit samples in any portions.
    """

    def __init__(self) -> None:
        offsets = np.arange(-_HALF_TAPS, _HALF_TAPS + 1)
        taps = np.sinc(offsets * _CUTOFF / 2) * np.hamming(len(offsets))
        self._taps: NDArray[np.float32] = (taps / taps.sum()).astype(np.float32)
        self._kept: NDArray[np.float32] = np.zeros(len(offsets) - 1, np.float32)

    def feed(self, samples: bytes) -> bytes:
        heard = np.concatenate((self._kept, np.frombuffer(samples, np.int16).astype(np.float32)))
        whole = len(heard) - len(self._taps) + 1
        if whole <= 0:
            self._kept = heard
            return b""
        made = np.correlate(heard, self._taps)[::2]
        self._kept = heard[2 * len(made) :]
        halved: bytes = np.clip(made, -32768, 32767).astype(np.int16).tobytes()
        return halved


class LeadTrimmer:
    """Leaves out the silence before the first voice of a stream; 16-bit samples in any portions."""

    def __init__(self) -> None:
        self._lead = b""
        self._started = False

    def feed(self, samples: bytes) -> bytes:
        if self._started:
            return samples
        heard = self._lead + samples
        loud = np.flatnonzero(np.abs(np.frombuffer(heard, np.int16).astype(np.int32)) > _QUIET)
        self._started = loud.size > 0
        first = int(loud[0]) if self._started else len(heard) // 2
        self._lead = heard[2 * max(0, first - _LEAD_SAMPLES) :]
        return self._lead if self._started else b""


class Voice:
    """Speaks clauses, one at a time, in 16-bit samples at ``RATE_HZ``."""

    def __init__(self, flite: Flite, name: str) -> None:
        self.name = name
        self._flite = flite

    def speak(self, text: str, on_samples: Callable[[bytes], bool]) -> None:
        """Blocks until all is handed over, or until ``on_samples`` says no."""
        halver, trimmer = Halver(), LeadTrimmer()
        wanted = True

        def on_sound(samples: bytes, rate_hz: int) -> bool:
            nonlocal wanted
            voiced = trimmer.feed(samples if rate_hz == RATE_HZ else halver.feed(samples))
            wanted = on_samples(voiced) if voiced else wanted
            return wanted

        for piece in pieces(text):
            self._flite.speak(piece, on_sound)
            if not wanted:
                return


def pieces(text: str) -> list[str]:
    """A short text as it is; a long one cut after sentences, or else between words, or else anywhere."""
    if len(text) <= _LONGEST_PIECE:
        return [text]
    return [piece for sentence in _SENTENCE_END.split(text) for piece in textwrap.wrap(sentence, _LONGEST_PIECE)]
