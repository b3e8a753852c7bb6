"""Hears when a voice begins and ends on a telephone line.

WebRTC's detector knows what a voice sounds like, but takes steady noise for one (at 5 dB signal to noise: all of
it). A gate above the line's noise floor knows what is steady, but misses soft speech when it is set alone. A frame
is voiced when both say so.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import webrtcvad

from audio._audioop import audioop
from audio.convert import converter
from audio.formats import FRAME_MS, SLIN_8K, SLIN_16K, AudioFormat

_FULL_SCALE = 32768
_BLOCK_FRAMES = 10
"""The noise floor is the quietest frame of the newest blocks of this length."""


@dataclass(slots=True, frozen=True)
class VoiceDetectorOptions:
    """What counts as a voice, and for how long it must be there or be gone."""

    aggressiveness: int = 2
    """WebRTC's mode: 0 lets much pass as voice, 3 little."""
    onset_ms: int = 60
    """Voice heard within ``onset_window_ms`` before it counts as begun."""
    onset_window_ms: int = 100
    hangover_ms: int = 200
    """Silence after which a voice counts as ended; the gaps inside words are shorter."""
    margin_db: float = 8.0
    """How far above the noise floor a voice is."""
    min_level_dbfs: float = -56.0
    """Nothing below this is a voice, however quiet the line."""
    floor_window_ms: int = 2000
    """Sound that has not varied by ``margin_db`` for this long is the line's noise. Speech dips at every syllable."""
    learning_ms: int = 200
    """At the start of a stream nothing is known of its noise for this long."""
    warm_up_ms: int = 100
    """At the start of a stream nothing counts as voice for this long: WebRTC's detector takes any noise for one."""


@dataclass(slots=True, frozen=True)
class VoiceStarted:
    first_sample: int
    """Of the voice, not of the moment when it was certain enough."""


@dataclass(slots=True, frozen=True)
class VoiceStopped:
    last_sample: int
    """The last voiced one; the detector heard ``hangover_ms`` more before it said so."""


Edge = VoiceStarted | VoiceStopped


class VoiceDetector:
    """Listens to one stream of 20 ms frames; samples are counted from its first."""

    def __init__(self, audio_format: AudioFormat, options: VoiceDetectorOptions | None = None) -> None:
        options = options or VoiceDetectorOptions()
        # WebRTC's detector knows 8 and 16 kHz of the rates that wires have.
        self._judged = SLIN_16K if audio_format.rate_hz == SLIN_16K.rate_hz else SLIN_8K
        self._to_slin = converter(audio_format, self._judged)
        self._format = audio_format
        self._frame_bytes = audio_format.frame_bytes
        self._rate_hz = audio_format.rate_hz
        self._is_speech = webrtcvad.Vad(options.aggressiveness).is_speech
        self._onset_frames = max(1, options.onset_ms // FRAME_MS)
        self._hangover_samples = options.hangover_ms * self._rate_hz // 1000
        self._recent: deque[bool] = deque(maxlen=max(self._onset_frames, options.onset_window_ms // FRAME_MS))
        self._margin = 10 ** (options.margin_db / 20)
        self._min_level = _FULL_SCALE * 10 ** (options.min_level_dbfs / 20)
        blocks = max(1, options.floor_window_ms // (FRAME_MS * _BLOCK_FRAMES))
        self._block_minima: deque[int] = deque(maxlen=blocks)
        self._block_minimum = _FULL_SCALE
        self._block_left = _BLOCK_FRAMES
        self._learning_samples = options.learning_ms * self._rate_hz // 1000
        self._warm_up_samples = options.warm_up_ms * self._rate_hz // 1000
        self._gate = self._min_level
        self._silent_since = 0
        """The sample after the last voiced one."""
        self._voiced_frames = 0
        self.voice = False
        """A voice is heard now, or was within the hangover."""
        self.samples = 0
        """Heard so far."""

    @property
    def voiced_ms(self) -> int:
        """How much voice the current run holds, or the last one when nobody speaks; gaps do not count."""
        return self._voiced_frames * FRAME_MS

    @property
    def silence_ms(self) -> float:
        """Since the last voiced sample (or since the start)."""
        return 1000 * (self.samples - self._silent_since) / self._rate_hz

    def feed(self, frame: bytes) -> Edge | None:
        """Hears one frame. One of another length counts for what it is, and is judged by as much as fits."""
        size = len(frame)
        if size == self._frame_bytes:
            self.samples += self._format.frame_samples
        else:
            self.samples += self._format.samples(size)
            frame = (frame + self._format.silent_frame)[: self._frame_bytes]
        slin = self._to_slin(frame)
        if len(slin) != self._judged.frame_bytes:
            # A resampler keeps the first two milliseconds of a stream to itself.
            slin = (self._judged.silent_frame + slin)[-self._judged.frame_bytes :]
        level = audioop.rms(slin, 2)
        # WebRTC's detector learns from every frame, so it hears those below the gate too.
        voiced = self._is_speech(slin, self._judged.rate_hz) and level > self._gate
        self._track_floor(level)
        if not self.voice:
            return self._listen(voiced)
        if voiced:
            self._voiced_frames += 1
            self._silent_since = self.samples
        elif self.samples - self._silent_since >= self._hangover_samples:
            self.voice = False
            return VoiceStopped(self._silent_since - 1)
        return None

    def _listen(self, voiced: bool) -> VoiceStarted | None:
        recent = self._recent
        recent.append(voiced and self.samples > self._warm_up_samples)
        if not recent[-1] or (frames := sum(recent)) < self._onset_frames:
            return None
        first = list(recent).index(True)
        first_sample = max(0, self.samples - (len(recent) - first) * self._format.frame_samples)
        recent.clear()
        self.voice = True
        self._voiced_frames = frames
        self._silent_since = self.samples
        return VoiceStarted(first_sample)

    def _track_floor(self, level: int) -> None:
        if level < self._block_minimum:
            self._block_minimum = level
        self._block_left -= 1
        if self._block_left:
            return
        self._block_minima.append(self._block_minimum)
        self._block_minimum = _FULL_SCALE
        self._block_left = _BLOCK_FRAMES
        if self.samples >= self._learning_samples:
            self._gate = max(self._min_level, min(self._block_minima) * self._margin)
