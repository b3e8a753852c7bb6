"""How faithfully speech came through: PESQ narrowband (ITU-T P.862), and the sentences that it is measured with.

The sentences are spoken by flite while the tests run. Flite and its voices (kal, rms, slt, awb) are free software
under Carnegie Mellon University's BSD-like licence, and so is what they say: nothing is shipped, nothing is owed.

PESQ against the linear original says little here: flite's pauses are digital silence, and G.711's noise in them alone
costs up to 1.2 points. So a path through G.711 is compared with what G.711 makes of the original: the score tells what
the path itself did. 4.549 is the best there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pesq import pesq
from scipy.signal import correlate

from audio.convert import convert
from audio.formats import SLIN_8K, SLIN_24K, AudioFormat
from testkit.speech import speak_slin

PERFECT = 4.549
"""PESQ-NB of equal sounds (P.862.1)."""
_TOP_HZ = 8000
"""Flite's voices end here."""
_TOP_GAIN = 0.5


@dataclass(slots=True, frozen=True)
class SpokenClip:
    """A sentence in one of flite's voices."""

    name: str
    text: str
    voice: str

    def sound(self, audio_format: AudioFormat) -> bytes:
        """The original at a rate that flite's voice is resampled to by scipy: independent of what is tested."""
        slin_hz = AudioFormat(SLIN_8K.encoding, audio_format.rate_hz)
        return convert(speak_slin(self.text, audio_format.rate_hz, self.voice), slin_hz, audio_format)

    def provider_sound(self) -> bytes:
        """Slin at 24 kHz with as much above 4 kHz as a provider's voice has.

        Flite speaks at 16 kHz. Brought to 24 kHz by scipy it is silent above 8 kHz, where a real voice of that rate
        still hisses, so the third from 8 kHz up is filled with a copy of 4–8 kHz at half the loudness (as spectral
        band replication in codecs does). What a poor filter lets through of either folds into the telephone band.
        """
        samples = _samples(self.sound(SLIN_24K))
        spectrum = np.fft.rfft(samples)
        top = len(samples) * _TOP_HZ // SLIN_24K.rate_hz
        width = len(spectrum) - top
        spectrum[top:] = spectrum[top - width : top] * _TOP_GAIN
        return np.clip(np.fft.irfft(spectrum, len(samples)), -32768, 32767).astype("<i2").tobytes()


CLIPS = (
    SpokenClip("hours", "The opening hours are nine to six from Monday to Friday.", "rms"),
    SpokenClip("sibilants", "She sells seashells, and surely they still fit the shelf.", "slt"),
    SpokenClip("appointment", "Please hold the line while I look for your appointment.", "awb"),
    SpokenClip("parcel", "Your parcel has left our warehouse this morning.", "kal16"),
    SpokenClip("apology", "I am sorry, I did not understand the last part of that.", "rms"),
    SpokenClip("thursday", "The next free appointment is on Thursday at half past four.", "slt"),
)


def pesq_nb(reference: bytes, degraded: bytes) -> float:
    """From 1.0 (unrecognizable) to 4.549 (no difference to hear); both are slin at 8 kHz.

    A constant lag of ``degraded``, and what surrounds the speech there, costs nothing; what is missing counts as
    silence. Raises ``pesq.NoUtterancesError`` where no speech is in one of them.
    """
    reference_samples = _samples(reference)
    score: float = pesq(SLIN_8K.rate_hz, reference_samples, aligned(reference_samples, _samples(degraded)), "nb")
    return score


def aligned(reference: NDArray[np.float64], degraded: NDArray[np.float64]) -> NDArray[np.float64]:
    """The stretch of ``degraded`` that is most like ``reference``, of its length."""
    lag = int(np.argmax(correlate(degraded, reference, mode="full", method="fft"))) - len(reference) + 1
    found = degraded[max(lag, 0) : max(lag + len(reference), 0)]
    before = max(-lag, 0)
    return np.pad(found, (before, len(reference) - before - len(found)))


def _samples(slin: bytes) -> NDArray[np.float64]:
    return np.frombuffer(slin, "<i2").astype(np.float64)
