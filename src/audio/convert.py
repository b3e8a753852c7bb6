"""From one encoding of telephone sound to another at the same rate."""

from __future__ import annotations

from collections.abc import Callable

from audio._audioop import audioop
from audio.formats import AudioFormat, Encoding

Converter = Callable[[bytes], bytes]

_SAMPLE_BYTES = 2


class UnsupportedConversion(ValueError):  # noqa: N818 - reads as what it is
    """The two formats differ in more than their encoding."""


def converter(source: AudioFormat, target: AudioFormat) -> Converter:
    """A function that turns one stream of ``source`` into ``target``; the same bytes when they are equal.

    Takes any chunking. Where ``source`` is slin, half a sample at the end of a chunk waits for the next
    one, so a converter belongs to one stream. Raises ``UnsupportedConversion`` for formats of two rates.
    """
    if source.rate_hz != target.rate_hz:
        raise UnsupportedConversion(f"cannot convert {source} to {target}: the sample rates differ")
    if source.encoding is target.encoding:
        return _identity
    if source.encoding is Encoding.SLIN:
        return _WholeSamples(_COMPRESS[target.encoding])
    expand = _EXPAND[source.encoding]
    if target.encoding is Encoding.SLIN:
        return expand
    compress = _COMPRESS[target.encoding]
    return lambda companded: compress(expand(companded))


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


class _WholeSamples:
    """Feeds a converter of slin with whole samples, whatever the chunks are."""

    __slots__ = ("_convert", "_half_sample")

    def __init__(self, convert: Converter) -> None:
        self._convert = convert
        self._half_sample = b""

    def __call__(self, chunk: bytes) -> bytes:
        if self._half_sample:
            chunk = self._half_sample + chunk
            self._half_sample = b""
        if len(chunk) % _SAMPLE_BYTES:
            self._half_sample = chunk[-1:]
            chunk = chunk[:-1]
        return self._convert(chunk)
