"""WAV files, as slin."""

from __future__ import annotations

import wave
from os import PathLike, fspath
from typing import BinaryIO

from audio._audioop import audioop
from audio.convert import convert
from audio.formats import AudioFormat, Encoding

WavFile = str | PathLike[str] | BinaryIO


class WavError(ValueError):
    """A file that is no WAV, or of a kind that is not read here."""


def read_wav(file: WavFile) -> tuple[bytes, AudioFormat]:
    """Reads 8 or 16 bit PCM as slin at the file's rate; two channels are mixed, each at half its loudness."""
    channels, audio_format = read_wav_channels(file)
    if len(channels) == 1:
        return channels[0], audio_format
    left, right = (audioop.mul(channel, 2, 0.5) for channel in channels)
    return audioop.add(left, right, 2), audio_format


def read_wav_channels(file: WavFile) -> tuple[tuple[bytes, ...], AudioFormat]:
    """Reads 8 or 16 bit PCM as one slin stream per channel, left first.

    A file that is shorter than its header says is read as far as it goes: who writes to a pipe cannot know.
    """
    name = _name(file)
    try:
        with wave.open(_openable(file), "rb") as wav:
            channels, width, rate_hz = wav.getnchannels(), wav.getsampwidth(), wav.getframerate()
            pcm = wav.readframes(wav.getnframes())
    except (wave.Error, EOFError) as error:
        raise WavError(f"{name} cannot be read as WAV: {str(error) or 'it ends too early'}") from error
    if channels not in (1, 2):
        raise WavError(f"{name} has {channels} channels: only mono and stereo are read")
    if width not in (1, 2):
        raise WavError(f"{name} has {8 * width} bits a sample: only 8 and 16 are read")
    pcm = pcm[: len(pcm) - len(pcm) % (channels * width)]
    if width == 1:
        # WAV keeps 8 bit samples unsigned.
        pcm = audioop.lin2lin(audioop.bias(pcm, 1, 128), 1, 2)
    audio_format = AudioFormat(Encoding.SLIN, rate_hz)
    if channels == 1:
        return (pcm,), audio_format
    return (audioop.tomono(pcm, 2, 1, 0), audioop.tomono(pcm, 2, 0, 1)), audio_format


def write_wav(file: WavFile, audio: bytes, audio_format: AudioFormat) -> None:
    """Writes 16 bit mono; companded sound is expanded."""
    _write(file, 1, _slin(audio, audio_format), audio_format.rate_hz)


def write_stereo_wav(file: WavFile, left: bytes, right: bytes, audio_format: AudioFormat) -> None:
    """Writes 16 bit stereo; the shorter side ends in silence."""
    left, right = _slin(left, audio_format), _slin(right, audio_format)
    size = max(len(left), len(right))
    pcm = audioop.add(
        audioop.tostereo(left.ljust(size, b"\0"), 2, 1, 0),
        audioop.tostereo(right.ljust(size, b"\0"), 2, 0, 1),
        2,
    )
    _write(file, 2, pcm, audio_format.rate_hz)


def _slin(audio: bytes, audio_format: AudioFormat) -> bytes:
    slin = convert(audio, audio_format, AudioFormat(Encoding.SLIN, audio_format.rate_hz))
    return slin[: len(slin) - len(slin) % 2]


def _write(file: WavFile, channels: int, pcm: bytes, rate_hz: int) -> None:
    with wave.open(_openable(file), "wb") as wav:
        wav.setnchannels(channels)
        wav.setsampwidth(2)
        wav.setframerate(rate_hz)
        wav.writeframes(pcm)


def _openable(file: WavFile) -> str | BinaryIO:
    return fspath(file) if isinstance(file, PathLike) else file


def _name(file: WavFile) -> str:
    return fspath(file) if isinstance(file, (str, PathLike)) else "the stream"
