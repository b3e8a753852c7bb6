"""From one format of telephone sound to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from audio._audioop import audioop
from audio.formats import AudioFormat, Encoding
from audio.resample import Resampler

_Function = Callable[[bytes], bytes]

_SAMPLE_BYTES = 2
_LOWEST_HZ: Final = 4000
_HIGHEST_HZ: Final = 192_000


class UnsupportedConversion(ValueError):  # noqa: N818 - reads as what it is
    """To or from a rate that neither telephones nor recordings of speech have."""


class Converter(Protocol):
    """Turns one stream into another format, whatever its chunks are."""

    def __call__(self, chunk: bytes, /) -> bytes: ...

    def drain(self) -> bytes:
        """Ends the stream, as at the end of an utterance: what is still held comes out, half a sample is dropped.

        Only a change of rate holds any (3 ms); what comes next begins a new stream. An utterance that was broken off
        is drained too, lest its end be heard before the next one.
        """


def converter(source: AudioFormat, target: AudioFormat) -> Converter:
    """A function that turns one stream of ``source`` into ``target``; the same bytes when they are equal.

    It belongs to one stream: half a sample of slin at the end of a chunk waits for the next one, and a change of rate
    looks 3 ms ahead (``audio.resample``). Raises ``UnsupportedConversion`` where the rates differ and one of them is
    none of sound's.
    """
    if source.rate_hz != target.rate_hz:
        if not all(_LOWEST_HZ <= rate_hz <= _HIGHEST_HZ for rate_hz in (source.rate_hz, target.rate_hz)):
            raise UnsupportedConversion(
                f"cannot convert {source} to {target}: only rates of {_LOWEST_HZ} to {_HIGHEST_HZ} Hz are changed"
            )
        return _ToRate(source, target)
    if source.encoding is target.encoding:
        return _Stateless(_identity)
    if source.encoding is Encoding.SLIN:
        return _WholeSamples(_COMPRESS[target.encoding])
    expand = _EXPAND[source.encoding]
    if target.encoding is Encoding.SLIN:
        return _Stateless(expand)
    compress = _COMPRESS[target.encoding]
    return _Stateless(lambda companded: compress(expand(companded)))


def convert(sound: bytes, source: AudioFormat, target: AudioFormat) -> bytes:
    """A whole recording in another format, to its last sample."""
    change = converter(source, target)
    return change(sound) + change.drain()


def _identity(chunk: bytes) -> bytes:
    return chunk


def _ulaw_to_slin(ulaw: bytes) -> bytes:
    return audioop.ulaw2lin(ulaw, _SAMPLE_BYTES)


def _alaw_to_slin(alaw: bytes) -> bytes:
    return audioop.alaw2lin(alaw, _SAMPLE_BYTES)


def _slin_to_ulaw(slin: bytes) -> bytes:
    return audioop.lin2ulaw(slin, _SAMPLE_BYTES)


def _slin_to_alaw(slin: bytes) -> bytes:
    return audioop.lin2alaw(slin, _SAMPLE_BYTES)


_EXPAND = {Encoding.ULAW: _ulaw_to_slin, Encoding.ALAW: _alaw_to_slin}
_COMPRESS = {Encoding.ULAW: _slin_to_ulaw, Encoding.ALAW: _slin_to_alaw}


class _Stateless:
    """Every byte stands for itself."""

    __slots__ = ("_convert",)

    def __init__(self, convert: _Function) -> None:
        self._convert = convert

    def __call__(self, chunk: bytes, /) -> bytes:
        return self._convert(chunk)

    def drain(self) -> bytes:
        return b""


class _WholeSamples:
    """Feeds a converter of slin with whole samples, whatever the chunks are."""

    __slots__ = ("_convert", "_half_sample")

    def __init__(self, convert: _Function) -> None:
        self._convert = convert
        self._half_sample = b""

    def __call__(self, chunk: bytes, /) -> bytes:
        if self._half_sample:
            chunk = self._half_sample + chunk
            self._half_sample = b""
        if len(chunk) % _SAMPLE_BYTES:
            self._half_sample = chunk[-1:]
            chunk = chunk[:-1]
        return self._convert(chunk)

    def drain(self) -> bytes:
        self._half_sample = b""
        return b""


class _ToRate:
    """Expands, changes the rate, compresses."""

    __slots__ = ("_compress", "_expand", "_resampler")

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self._expand = _EXPAND.get(source.encoding, _identity)
        self._resampler = Resampler(source.rate_hz, target.rate_hz)
        self._compress = _COMPRESS.get(target.encoding, _identity)

    def __call__(self, chunk: bytes, /) -> bytes:
        return self._compress(self._resampler.feed(self._expand(chunk)))

    def drain(self) -> bytes:
        return self._compress(self._resampler.drain())
