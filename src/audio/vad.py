"""Telling a caller's voice from the line it comes over.

Two judges have to agree on a frame. WebRTC's detector knows what speech sounds like, but takes steady noise at
5 dB for speech without end; a gate on the noise floor knows how loud this line is when nobody speaks. What both
call voice is smoothed into stretches of speech with an onset and an offset, both as sample positions.
"""

from __future__ import annotations

import audioop
from collections.abc import Callable
from dataclasses import dataclass

import webrtcvad

from audio.formats import FRAME_MS, ULAW_8K, AudioFormat, Encoding

_TO_LINEAR: dict[Encoding, Callable[[bytes, int], bytes]] = {
    Encoding.ULAW: audioop.ulaw2lin,
    Encoding.ALAW: audioop.alaw2lin,
}
_FLOOR_BLOCKS = 4


@dataclass(slots=True, frozen=True)
class SpeechOnset:
    """Somebody began to speak."""

    sample: int
    """Position of the first voiced frame's first sample, counted from the first frame fed."""


@dataclass(slots=True, frozen=True)
class SpeechOffset:
    """The voice has been silent for the hangover."""

    sample: int
    """Position just after the last voiced frame."""


VoiceEdge = SpeechOnset | SpeechOffset


@dataclass(slots=True, frozen=True)
class VoiceDetectorOptions:
    aggressiveness: int = 3
    """WebRTC's mode, 0 … 3: how readily it calls a frame noise."""
    onset_frames: int = 3
    """Voiced frames within ``onset_window_frames`` that make an onset; fewer are a click."""
    onset_window_frames: int = 5
    hangover_ms: int = 200
    """Silence after the last voiced frame that makes an offset; shorter gaps belong to the words."""
    above_floor_db: float = 6.0
    """How far above the line's noise a frame must be."""
    quietest_rms: int = 24
    """Level (of 32767) under which nothing is voice, however still the line is: −63 dBFS."""
    floor_memory_ms: int = 1600
    """How long the quietest moment heard counts as the noise floor: steady noise stops reading as voice after
    about this time, and no word is held that long."""


class VoiceDetector:
    """Follows one caller. ``feed`` takes every frame, in order, and costs a few microseconds."""

    __slots__ = (
        "_above_floor",
        "_block_frames",
        "_block_left",
        "_block_minimum",
        "_first_voiced",
        "_floor",
        "_frame_samples",
        "_hangover_samples",
        "_level",
        "_minima",
        "_options",
        "_position",
        "_recent",
        "_recent_mask",
        "_to_linear",
        "_voiced_end",
        "_voiced_frames",
        "_webrtc",
        "speaking",
    )

    def __init__(
        self, audio_format: AudioFormat = ULAW_8K, options: VoiceDetectorOptions | None = None
    ) -> None:
        options = options or VoiceDetectorOptions()
        if audio_format.rate_hz not in (8000, 16000):
            raise ValueError(f"no voice detection at {audio_format}")
        self._options = options
        self._webrtc = webrtcvad.Vad(options.aggressiveness)
        self._to_linear = _TO_LINEAR.get(audio_format.encoding)
        self._frame_samples = audio_format.frame_samples
        self._hangover_samples = options.hangover_ms * audio_format.rate_hz // 1000
        self._above_floor = 10 ** (options.above_floor_db / 20)
        self._block_frames = max(1, options.floor_memory_ms // FRAME_MS // _FLOOR_BLOCKS)
        self._block_left = self._block_frames
        self._block_minimum = float(2**15)
        self._minima: list[float] = []
        self._floor = float(options.quietest_rms)
        self._level = 0.0
        self._recent = 0
        self._recent_mask = (1 << options.onset_window_frames) - 1
        self._position = 0
        self._first_voiced = 0
        self._voiced_end = 0
        self._voiced_frames = 0
        self.speaking = False
        """Whether a stretch of speech is open: an onset was reported and no offset yet."""

    @property
    def position(self) -> int:
        """Samples fed so far."""
        return self._position

    @property
    def last_voiced_sample(self) -> int:
        """Position just after the newest voiced frame."""
        return self._voiced_end

    @property
    def voiced_ms(self) -> int:
        """Voice, without its gaps, in the stretch that is open, or in the last one."""
        return self._voiced_frames * FRAME_MS

    def feed(self, frame: bytes) -> VoiceEdge | None:
        """Takes one frame of 20 ms; reports the edge that it revealed, if any."""
        to_linear = self._to_linear
        linear = to_linear(frame, 2) if to_linear is not None else frame
        start = self._position
        self._position = start + self._frame_samples
        voiced = self._is_voiced(linear)
        self._recent = ((self._recent << 1) | voiced) & self._recent_mask
        if self.speaking:
            if voiced:
                self._voiced_end = self._position
                self._voiced_frames += 1
            elif self._position - self._voiced_end >= self._hangover_samples:
                self.speaking = False
                self._recent = 0
                return SpeechOffset(self._voiced_end)
            return None
        if voiced:
            count = self._recent.bit_count()
            if count >= self._options.onset_frames:
                self.speaking = True
                self._voiced_frames = count
                self._voiced_end = self._position
                frames_back = self._recent.bit_length() - 1
                return SpeechOnset(start - frames_back * self._frame_samples)
        return None

    def _is_voiced(self, linear: bytes) -> bool:
        rms = audioop.rms(linear, 2)
        self._follow_floor(rms)
        # Fed with every frame, loud or not: WebRTC's detector keeps a model of this line's noise as well.
        like_speech: bool = self._webrtc.is_speech(linear, self._frame_samples * 50)
        return like_speech and rms > self._floor * self._above_floor and rms >= self._options.quietest_rms

    def _follow_floor(self, rms: int) -> None:
        """The floor is the quietest moment of the last blocks (minimum statistics).

        It falls at once and rises only when a block full of louder sound has pushed out the last quiet one.
        """
        self._level += 0.5 * (rms - self._level)
        level = self._level
        if level < self._block_minimum:
            self._block_minimum = level
            if level < self._floor:
                self._floor = level
        self._block_left -= 1
        if not self._block_left:
            self._minima.append(self._block_minimum)
            del self._minima[:-_FLOOR_BLOCKS]
            self._floor = min(self._minima)
            self._block_minimum = level
            self._block_left = self._block_frames
