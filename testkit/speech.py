"""Sounds to say in tests: spoken sentences, tones and noise, as 8 kHz μ-law."""

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
    """A sentence in one of flite's voices (rms, slt, awb, kal …). Kept on disk: made once per machine.

    Raises FileNotFoundError when flite is not installed.
    """
    key = hashlib.sha256(f"{voice}:{text}".encode()).hexdigest()[:24]
    cached = CACHE / f"{key}.ulaw"
    if not cached.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            # Not to stdout: flite would make a file of that name, and its streamed header lies about lengths.
            spoken, sound = Path(folder) / "spoken.wav", Path(folder) / "sound.ulaw"
            subprocess.run(["flite", "-voice", voice, "-t", text, "-o", str(spoken)], check=True)
            sound.write_bytes(_telephone(spoken))
            sound.replace(cached)
    return cached.read_bytes()


def _telephone(path: Path) -> bytes:
    with wave.open(str(path)) as file:
        rate, frames = file.getframerate(), file.readframes(file.getnframes())
    samples = np.frombuffer(frames, dtype="<i2").astype(np.float64)
    if rate != RATE_HZ:
        samples = resample_poly(samples, RATE_HZ, rate)
    linear = np.clip(samples, -32768, 32767).astype("<i2").tobytes()
    return audioop.lin2ulaw(linear, 2)


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
