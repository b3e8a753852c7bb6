"""Sounds to say in tests: spoken sentences, tones and noise, as 8 kHz μ-law unless said otherwise."""

from __future__ import annotations

import hashlib
import math
import random
import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from audio._audioop import audioop

CACHE = Path(tempfile.gettempdir()) / "voice-engine-speech"
RATE_HZ = 8000
# Loud values only, and without 0x7F, which sounds like 0xFF: so that silence is never mistaken for the clip.
_NOISE_BYTES = bytes(value for value in range(256) if value & 0x7F < 0x60)


def speak(text: str, voice: str = "rms") -> bytes:
    """A sentence in one of flite's voices (rms, slt, awb, kal …). Raises FileNotFoundError without flite."""
    return audioop.lin2ulaw(speak_slin(text, RATE_HZ, voice), 2)


def speak_slin(text: str, rate_hz: int, voice: str = "rms") -> bytes:
    """The same as slin at any rate; above 8 kHz flite says nothing. Kept on disk: made once per machine."""
    key = hashlib.sha256(f"{voice}:{text}".encode()).hexdigest()[:24]
    cached = CACHE / f"{key}.slin{rate_hz}"
    if not cached.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            # Not to stdout: flite would make a file of that name, and its streamed header lies about lengths.
            spoken, sound = Path(folder) / "spoken.wav", Path(folder) / "sound"
            subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(spoken)], check=True)
            sound.write_bytes(_slin(spoken, rate_hz))
            sound.replace(cached)
    return cached.read_bytes()


def _slin(path: Path, rate_hz: int) -> bytes:
    with wave.open(str(path)) as file:
        native_hz, frames = file.getframerate(), file.readframes(file.getnframes())
    samples = np.frombuffer(frames, dtype="<i2").astype(np.float64)
    if native_hz != rate_hz:
        samples = resample_poly(samples, rate_hz, native_hz)
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()


def tone(frequency_hz: float, duration_ms: int, amplitude: int = 8000) -> bytes:
    """A sine, without the byte 0x7F, like ``noise``."""
    linear = b"".join(
        int(amplitude * math.sin(2 * math.pi * frequency_hz * n / RATE_HZ)).to_bytes(2, "little", signed=True)
        for n in range(RATE_HZ * duration_ms // 1000)
    )
    return audioop.lin2ulaw(linear, 2).replace(b"\x7f", b"\xff")


def noise(duration_ms: int, seed: int) -> bytes:
    """Loud noise that occurs nowhere else: to be found again bit for bit."""
    return bytes(random.Random(seed).choices(_NOISE_BYTES, k=RATE_HZ * duration_ms // 1000))
