"""The few sentences that ship with the engine, for when nobody else can speak."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

from audio.convert import convert
from audio.formats import AudioFormat
from audio.wav import read_wav
from engine.conversation_events import Clip

_FILES: Mapping[Clip, str] = {Clip.ONE_MOMENT: "one_moment.wav", Clip.APOLOGY: "apology.wav"}


@cache
def load_clips(wire: AudioFormat) -> Mapping[Clip, bytes]:
    """All clips in the format of the wire; made once for each."""
    clips = {}
    for clip, name in _FILES.items():
        with resources.as_file(resources.files("engine") / "sounds" / name) as path:
            sound, recorded = read_wav(path)
        clips[clip] = convert(sound, recorded, wire)
    return clips
