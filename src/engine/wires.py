"""The wires of this process, and which of them a call gets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import structlog

from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from transport.media import MediaTransport, Requirement

log = structlog.get_logger(__name__)

FORMATS: Mapping[str, AudioFormat] = {
    "ulaw": ULAW_8K,
    "alaw": ALAW_8K,
    "slin": SLIN_8K,
    "slin16": SLIN_16K,
    "slin24": SLIN_24K,
}
"""By Asterisk's names. Which codec carries a format is the transport's business: 16 kHz may travel as G.722."""
AUTO = "auto"

_NARROWBAND = (SLIN_8K, ULAW_8K, ALAW_8K)
# What loses least of what the caller's phone sends, best first. A 24 kHz wire is the nearest to Opus' 48 kHz that
# every provider can be given whole.
_BEST_FOR: Mapping[str, tuple[AudioFormat, ...]] = {
    "ulaw": (ULAW_8K, *_NARROWBAND),
    "alaw": (ALAW_8K, *_NARROWBAND),
    "g722": (SLIN_16K, *_NARROWBAND),
    "slin16": (SLIN_16K, *_NARROWBAND),
    "speex16": (SLIN_16K, *_NARROWBAND),
    "siren7": (SLIN_16K, *_NARROWBAND),
    "opus": (SLIN_24K, SLIN_16K, *_NARROWBAND),
    "slin24": (SLIN_24K, SLIN_16K, *_NARROWBAND),
    "slin48": (SLIN_24K, SLIN_16K, *_NARROWBAND),
}
_COMPANDED = {"ulaw": ULAW_8K, "alaw": ALAW_8K}
_CARRIES_HZ: Mapping[str, int] = {codec: formats[0].rate_hz for codec, formats in _BEST_FOR.items()}


@dataclass(slots=True, frozen=True)
class Wire:
    """What carries one call's sound."""

    transport: MediaTransport
    audio_format: AudioFormat
    caller_codec: str
    compromise: str = ""
    """Why it is not what was asked for; empty when it is."""

    @property
    def caller_format(self) -> AudioFormat:
        """The sound at the caller's end of it: a linear wire may lead to a phone that compands."""
        return _COMPANDED.get(self.caller_codec, self.audio_format)


class NoWireError(Exception):
    """No wire can be had for a call; the text is for the operator."""


class Wires:
    """The transports by name, and what Asterisk lacks for them."""

    def __init__(self, transports: Iterable[MediaTransport], default: str, audio_format: str) -> None:
        """Raises ValueError where the default transport can never carry ``audio_format``, a name of Asterisk's."""
        self._transports = {transport.name: transport for transport in transports}
        self._default = default
        self._audio_format = audio_format
        self._asterisk: tuple[tuple[int, ...], frozenset[str]] | None = None
        carried = self._transports[default].formats
        if audio_format != AUTO and FORMATS[audio_format] not in carried:
            able = ", ".join(name for name, known in FORMATS.items() if known in carried)
            raise ValueError(f"audio_format {audio_format}: {default} carries only {able}")

    def __iter__(self) -> Iterator[MediaTransport]:
        return iter(self._transports.values())

    def asterisk_is(self, version: str, modules: frozenset[str]) -> None:
        """Learns what Asterisk can do, each time it is connected to."""
        self._asterisk = _release(version), modules
        for transport in self:
            lacking = self.lacking(transport, transport.formats[0])
            if lacking:
                say = log.error if transport.name == self._default else log.info
                say("transport_unavailable", transport=transport.name, reason=lacking)

    async def start(self) -> None:
        """Starts the transports. Only the default one has to: raises what it raises, OSError as a rule."""
        for transport in tuple(self):
            try:
                await transport.start()
            except OSError as error:
                if transport.name == self._default:
                    raise
                log.warning("transport_not_started", transport=transport.name, error=str(error))
                del self._transports[transport.name]

    async def close(self) -> None:
        for transport in self:
            await transport.close()

    @property
    def fault(self) -> str:
        """Why the default transport cannot work with this Asterisk; empty when it can."""
        transport = self._transports[self._default]
        lacking = self.lacking(transport, transport.formats[0])
        return f"{transport.name}: {lacking}" if lacking else ""

    def lacking(self, transport: MediaTransport, audio_format: AudioFormat) -> str:
        """What Asterisk lacks for this wire; empty when nothing."""
        if self._asterisk is None:
            return ""
        release, running = self._asterisk
        needed = transport.requirement(audio_format)
        missing = [module for module in needed.modules if module not in running]
        if missing:
            return f"Asterisk has not loaded {', '.join(missing)} (modules.conf)"
        if _older(release, needed):
            return f"Asterisk {_dotted(release)} is too old: {audio_format} needs {_dotted(needed.since)}"
        return ""

    def choose(self, asked_transport: str, asked_format: str, caller_codec: str) -> Wire:
        """The wire of a call: as its dialplan asks, else as configured, and in any case one that works.

        ``caller_codec`` is the caller's in Asterisk's words (``ulaw``, ``g722`` …). Raises ``NoWireError``.
        """
        compromises: list[str] = []
        transport = self._transports[self._default]
        if asked_transport:
            asked = self._transports.get(asked_transport)
            if asked is None:
                known = ", ".join(self._transports)
                compromises.append(f"no transport is called {asked_transport!r} (known: {known})")
            elif lacking := self.lacking(asked, asked.formats[0]):
                compromises.append(f"{asked_transport}: {lacking}")
            else:
                transport = asked
        audio_format = self._format(transport, asked_format or self._audio_format, caller_codec, compromises)
        return Wire(transport, audio_format, caller_codec, "; ".join(compromises))

    def _format(self, transport: MediaTransport, asked: str, caller_codec: str, compromises: list[str]) -> AudioFormat:
        if asked != AUTO:
            wanted = FORMATS.get(asked)
            refusal = (
                f"no sound format is called {asked!r} (known: {AUTO}, {', '.join(FORMATS)})"
                if wanted is None
                else self._refusal(transport, wanted, caller_codec)
            )
            if wanted is not None and not refusal:
                return wanted
            compromises.append(refusal)
        faults = []
        for candidate in _BEST_FOR.get(caller_codec, _NARROWBAND):
            refusal = self._refusal(transport, candidate, caller_codec)
            if not refusal:
                return candidate
            faults.append(refusal)
        raise NoWireError("; ".join(dict.fromkeys((*compromises, *faults))))

    def _refusal(self, transport: MediaTransport, audio_format: AudioFormat, caller_codec: str) -> str:
        """Why a call of this caller cannot have this wire; empty when it can."""
        if audio_format not in transport.formats:
            carried = ", ".join(map(str, transport.formats))
            return f"{transport.name} does not carry {audio_format}, only {carried}"
        if audio_format.rate_hz > _CARRIES_HZ.get(caller_codec, SLIN_8K.rate_hz):
            return f"the caller's {caller_codec or 'codec'} carries less than {audio_format.rate_hz} Hz"
        lacking = self.lacking(transport, audio_format)
        return f"{transport.name}: {lacking}" if lacking else ""


def _release(version: str) -> tuple[int, ...]:
    """``22.10.1+dfsg…`` as (22, 10, 1), ``certified-22.8-cert1`` as (22, 8); () where nothing is to be learnt."""
    found = re.search(r"(\d+(?:\.\d+)+)", version)
    return tuple(map(int, found[1].split("."))) if found else ()


def _older(release: tuple[int, ...], needed: Requirement) -> bool:
    """Only within the major release that the requirement speaks of: others have their own history."""
    return release[:1] == needed.since[:1] and release < needed.since


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
