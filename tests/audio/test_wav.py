from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest

from audio.formats import SLIN_8K, ULAW_8K, AudioFormat, Encoding
from audio.wav import WavError, read_wav, read_wav_channels, write_stereo_wav, write_wav


def slin(*samples: int) -> bytes:
    return b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples)


def wav(channels: int, width: int, rate_hz: int, pcm: bytes) -> io.BytesIO:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(width)
        writer.setframerate(rate_hz)
        writer.writeframes(pcm)
    file.seek(0)
    return file


def test_mono_round_trip_through_a_file(tmp_path: Path) -> None:
    pcm, wide = slin(0, 1, -1, 32767, -32768), AudioFormat(Encoding.SLIN, 16000)
    write_wav(tmp_path / "a.wav", pcm, wide)
    assert read_wav(tmp_path / "a.wav") == (pcm, wide)
    assert read_wav(str(tmp_path / "a.wav")) == (pcm, wide)


def test_companded_sound_is_expanded() -> None:
    file = io.BytesIO()
    write_wav(file, b"\x80\xff", ULAW_8K)
    file.seek(0)
    assert read_wav(file) == (slin(32124, 0), SLIN_8K)


def test_eight_bits_are_unsigned_in_the_file() -> None:
    assert read_wav(wav(1, 1, 8000, bytes([0, 128, 255]))) == (slin(-32768, 0, 32512), SLIN_8K)


def test_stereo_round_trip_pads_the_shorter_side() -> None:
    file = io.BytesIO()
    write_stereo_wav(file, slin(1, 2, 3), slin(-1), SLIN_8K)
    file.seek(0)
    assert read_wav_channels(file) == ((slin(1, 2, 3), slin(-1, 0, 0)), SLIN_8K)


def test_stereo_is_mixed_to_mono_without_clipping() -> None:
    pcm, _ = read_wav(wav(2, 2, 8000, slin(32000, 32000, 1000, -1000, 100, 0)))
    assert pcm == slin(32000, 0, 50)


def test_a_length_that_promises_too_much_is_no_fault() -> None:
    whole = wav(1, 2, 8000, slin(1, 2, 3, 4)).getvalue()
    streamed = whole[:40] + b"\xff\xff\xff\x7f" + whole[44:]
    assert read_wav(io.BytesIO(streamed))[0] == slin(1, 2, 3, 4)
    assert read_wav(io.BytesIO(streamed[:-1]))[0] == slin(1, 2, 3)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "ends too early"),
        (b"RIFF", "ends too early"),
        (b"ID3 not a wave file at all", "does not start with RIFF"),
        (wav(4, 2, 8000, bytes(16)).getvalue(), "4 channels"),
        (wav(1, 3, 8000, bytes(6)).getvalue(), "24 bits"),
    ],
)
def test_faults_are_named(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "odd.wav"
    path.write_bytes(content)
    with pytest.raises(WavError, match=fault) as caught:
        read_wav(path)
    assert "odd.wav" in str(caught.value)


def test_a_missing_file_stays_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_wav(tmp_path / "nothing.wav")
