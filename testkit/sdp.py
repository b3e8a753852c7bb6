"""Session descriptions (RFC 4566) with one audio stream, as offer and answer (RFC 3264), sans-I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, cast

Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]

TELEPHONE_EVENT = "telephone-event"

_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_MIRRORED: dict[Direction, Direction] = {
    "sendrecv": "sendrecv",
    "sendonly": "recvonly",
    "recvonly": "sendonly",
    "inactive": "inactive",
}
_STATIC_FORMATS = {0: "PCMU", 3: "GSM", 8: "PCMA", 9: "G722", 18: "G729"}
"""Payload types that need no rtpmap line (RFC 3551); all run at 8000 Hz on the wire."""

_RTPMAP = re.compile(r"(\d{1,3}) ([^\s/]+)/(\d{1,6})(?:/(\d{1,3}))?")
_MEDIA = re.compile(r"audio (\d{1,5})(?:/\d+)? RTP/S?AVPF? (\d{1,3}(?: \d{1,3})*)")


class SdpError(ValueError):
    """Bytes that describe no usable audio stream; the text names the line at fault."""


@dataclass(slots=True, frozen=True)
class MediaFormat:
    """One payload type of the stream, e.g. ``MediaFormat(0, "PCMU")``."""

    payload_type: int
    encoding: str
    clock_rate_hz: int = 8000
    fmtp: str | None = None
    channels: int = 1


@dataclass(slots=True, frozen=True)
class SessionDescription:
    """Where and how one party wants to receive audio."""

    address: str
    port: int
    formats: tuple[MediaFormat, ...]
    direction: Direction = "sendrecv"
    session_id: int = 1
    version: int = 1
    ptime_ms: int | None = 20

    def find(self, encoding: str) -> MediaFormat | None:
        """The format of this name, ``None`` when it is not among those offered."""
        wanted = encoding.lower()
        return next((each for each in self.formats if each.encoding.lower() == wanted), None)


def answer_direction(offered: Direction) -> Direction:
    """The direction with which a willing party answers: it hears what the other sends, and the reverse."""
    return _MIRRORED[offered]


def next_version(description: SessionDescription, direction: Direction) -> SessionDescription:
    """The same stream in another direction, as a new offer."""
    return replace(description, direction=direction, version=description.version + 1)


def serialize(description: SessionDescription) -> bytes:
    """The description as the body of a message (``application/sdp``)."""
    formats = description.formats
    lines = [
        "v=0",
        f"o=- {description.session_id} {description.version} IN IP4 {description.address}",
        "s=-",
        f"c=IN IP4 {description.address}",
        "t=0 0",
        f"m=audio {description.port} RTP/AVP {' '.join(str(each.payload_type) for each in formats)}",
    ]
    for each in formats:
        channels = f"/{each.channels}" if each.channels > 1 else ""
        lines.append(f"a=rtpmap:{each.payload_type} {each.encoding}/{each.clock_rate_hz}{channels}")
        if each.fmtp is not None:
            lines.append(f"a=fmtp:{each.payload_type} {each.fmtp}")
    if description.ptime_ms is not None:
        lines.append(f"a=ptime:{description.ptime_ms}")
    lines.append(f"a={description.direction}")
    return ("\r\n".join(lines) + "\r\n").encode()


def parse(body: bytes) -> SessionDescription:
    """The first audio stream of a description. Raises ``SdpError``."""
    try:
        lines = body.decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise SdpError(f"description: not UTF-8 at byte {error.start}") from None
    if lines[0] != "v=0":
        raise SdpError(f"v=: expected v=0, got {lines[0][:20]!r}")
    session_lines, media_lines = _split(lines)
    fields = session_lines + media_lines  # what the stream says overrides what the session says
    found = _MEDIA.fullmatch(media_lines[0][2:].rstrip())
    if found is None:
        raise SdpError(f"m=: malformed: {media_lines[0]!r}")
    port = int(found[1])
    if port > 0xFFFF:
        raise SdpError(f"m=: port {port}")
    session_id, version = _origin(session_lines)
    attributes = [line[2:] for line in fields if line.startswith("a=")]
    ptimes = [each[6:] for each in attributes if re.fullmatch(r"ptime:\d{1,4}", each)]
    directions = [each for each in attributes if each in _DIRECTIONS]
    return SessionDescription(
        address=_connection(fields),
        port=port,
        formats=_formats([int(each) for each in found[2].split()], attributes),
        direction=cast(Direction, directions[-1]) if directions else "sendrecv",
        session_id=session_id,
        version=version,
        ptime_ms=int(ptimes[-1]) if ptimes else None,
    )


def _split(lines: list[str]) -> tuple[list[str], list[str]]:
    """Lines of the session, and those of its first audio stream."""
    starts = [index for index, line in enumerate(lines) if line.startswith("m=")]
    for start, end in pairwise([*starts, len(lines)]):
        if lines[start].startswith("m=audio "):
            return lines[: starts[0]], lines[start:end]
    raise SdpError("m=: no audio stream")


def _origin(session_lines: list[str]) -> tuple[int, int]:
    for line in session_lines:
        if found := re.fullmatch(r"o=\S+ (\d{1,20}) (\d{1,20}) IN IP[46] \S+", line):
            return int(found[1]), int(found[2])
    raise SdpError("o=: missing or malformed")


def _connection(fields: list[str]) -> str:
    found = [line for line in fields if line.startswith("c=")]
    if not found:
        raise SdpError("c=: missing")
    match = re.fullmatch(r"c=IN IP[46] ([^\s/]+)(?:/\d+)*", found[-1])
    if match is None:
        raise SdpError(f"c=: malformed: {found[-1]!r}")
    return match[1]


def _formats(payload_types: list[int], attributes: list[str]) -> tuple[MediaFormat, ...]:
    names = {number: MediaFormat(number, name) for number, name in _STATIC_FORMATS.items()}
    parameters: dict[int, str] = {}
    for attribute in attributes:
        kind, _, value = attribute.partition(":")
        if kind == "rtpmap":
            found = _RTPMAP.fullmatch(value)
            if found is None:
                raise SdpError(f"a=rtpmap: malformed: {value!r}")
            number = int(found[1])
            names[number] = MediaFormat(number, found[2], int(found[3]), channels=int(found[4] or 1))
        elif kind == "fmtp":
            name, _, text = value.partition(" ")
            if not name.isascii() or not name.isdigit():
                raise SdpError(f"a=fmtp: malformed: {value!r}")
            parameters[int(name)] = text
    unnamed = [number for number in payload_types if number not in names]
    if unnamed:
        raise SdpError(f"a=rtpmap: missing for payload type {unnamed[0]}")
    return tuple(replace(names[number], fmtp=parameters.get(number)) for number in payload_types)
