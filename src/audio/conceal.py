"""Packet loss concealment, in the spirit of G.711 Appendix I: the last pitch period goes on, and fades.

The figures below were chosen by PESQ on speech of several synthetic voices, telephone band: at 1 / 3 / 10 % of
single losses 4.28 / 3.69 / 3.20, against 4.04 / 3.03 / 2.27 for repeating the last frame and 4.05 / 2.89 / 2.04 for
silence. Unlike in the appendix, nothing is held back to be blended at the beginning of a loss.
"""

from __future__ import annotations

from array import array
from collections import deque

from audio._audioop import audioop
from audio.convert import converter
from audio.formats import AudioFormat, Encoding

FADE_MS = 60
"""After which nothing is left of what was heard before the loss."""

_FULL_MS = 10
"""Of these, how long at full strength."""
# Pitch of 66 to 200 Hz; of a higher voice, several periods.
_SHORTEST_PERIOD_MS = 5
_LONGEST_PERIOD_MS = 15
_TEMPLATE_MS = 8
"""Of the end of what was heard, which is looked for in what was before."""
_JOINT_MS = 2
_BLEND_MS = 3
# Enough of them for a template and the longest period, even where frames are as short as 5 ms.
_RECENT_FRAMES = 6

_SAMPLE_BYTES = 2


class Concealer:
    """Makes up for what one stream has lost. ``hear`` every frame, ``conceal`` every loss, in their order."""

    __slots__ = (
        "_blend_samples",
        "_compress",
        "_cycle",
        "_elapsed",
        "_expand",
        "_fade_samples",
        "_format",
        "_full_samples",
        "_joint_samples",
        "_longest",
        "_recent",
        "_shortest",
        "_step",
        "_template",
    )

    def __init__(self, audio_format: AudioFormat) -> None:
        linear = AudioFormat(Encoding.SLIN, audio_format.rate_hz)
        per_ms = audio_format.rate_hz // 1000
        self._format = audio_format
        self._expand = converter(audio_format, linear)
        self._compress = converter(linear, audio_format)
        self._shortest = _SHORTEST_PERIOD_MS * per_ms
        self._longest = _LONGEST_PERIOD_MS * per_ms
        self._template = _TEMPLATE_MS * per_ms
        self._joint_samples = _JOINT_MS * per_ms
        self._blend_samples = _BLEND_MS * per_ms
        self._full_samples = _FULL_MS * per_ms
        self._fade_samples = (FADE_MS - _FULL_MS) * per_ms
        self._recent: deque[bytes] = deque(maxlen=_RECENT_FRAMES)
        self._cycle: list[float] = []
        """One pitch period, which goes on and on; empty where nothing was lost."""
        self._step = 0
        """From where the period begins to where the sound broke off."""
        self._elapsed = 0
        """Samples concealed in a row."""

    def hear(self, frame: bytes) -> bytes:
        """Takes a frame that arrived; returns it as it is, or its beginning blended with what was made up before."""
        if self._cycle:
            frame = self._blend(frame)
            self._cycle = []
        self._recent.append(frame)
        return frame

    def conceal(self, samples: int) -> bytes:
        """Makes up the next ``samples`` samples, in the stream's format."""
        if not self._cycle:
            self._begin()
        frame = self._compress(_linear(self._go_on(samples)))
        self._recent.append(frame)
        return frame

    def _begin(self) -> None:
        size = _SAMPLE_BYTES * (self._template + self._longest)
        recent = self._expand(b"".join(self._recent)).rjust(size, b"\x00")[-size:]
        period = self._period(recent)
        heard = array("h", recent)
        before = heard[:-period]
        self._cycle = list(heard[-period:])
        self._step = heard[-1] - before[-1]
        # The end of the period runs into its beginning the way the sound did the first time.
        quarter = period // 4
        for n in range(-quarter, 0):
            share = 1 + n / (quarter + 1)
            self._cycle[n] += share * (before[n] - self._cycle[n])
        self._elapsed = 0

    def _period(self, recent: bytes) -> int:
        """The distance in samples at which the end of ``recent`` is most like what was before."""
        size = _SAMPLE_BYTES * self._template
        end = len(recent) - size
        template = recent[end:]

        def likeness(period: int) -> float:
            """The correlation, normalised by the loudness of what was before."""
            start = end - _SAMPLE_BYTES * period
            before = recent[start : start + size]
            loudness = audioop.rms(before, _SAMPLE_BYTES)
            return loudness * audioop.findfactor(template, before) if loudness else 0.0

        return max(range(self._shortest, self._longest + 1), key=likeness)

    def _go_on(self, samples: int) -> list[float]:
        start = self._elapsed
        self._elapsed += samples
        if start >= self._full_samples + self._fade_samples:
            return [0.0] * samples
        cycle, period = self._cycle, len(self._cycle)
        sound = [cycle[n % period] for n in range(start, start + samples)]
        for n in range(min(samples, self._joint_samples - start)):
            sound[n] += self._step * (1 - (start + n) / self._joint_samples)
        for n in range(max(0, self._full_samples - start), samples):
            sound[n] *= max(0.0, 1 - (start + n - self._full_samples) / self._fade_samples)
        return sound

    def _blend(self, frame: bytes) -> bytes:
        samples = min(self._blend_samples, self._format.samples(len(frame)))
        head_bytes = samples * self._format.bytes_per_sample
        made_up = self._go_on(samples)
        real = array("h", self._expand(frame[:head_bytes]))
        blended = [
            fake + (true - fake) * (n + 1) / (samples + 1)
            for n, (fake, true) in enumerate(zip(made_up, real, strict=True))
        ]
        return self._compress(_linear(blended)) + frame[head_bytes:]


def _linear(sound: list[float]) -> bytes:
    return array("h", [max(-0x8000, min(0x7FFF, round(sample))) for sample in sound]).tobytes()
