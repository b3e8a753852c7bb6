"""SIP messages (RFC 3261), sans-I/O: bytes in, values out, and back. Just what one calling party needs.

``Content-Length`` belongs to the wire, not to the value: it is computed by ``serialize`` and consumed by ``parse``.
Compact header names (``v:``, ``i:`` …) are expanded when parsed.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass

Headers = tuple[tuple[str, str], ...]
Address = tuple[str, int]

DEFAULT_PORT = 5060
MAGIC_COOKIE = "z9hG4bK"
"""Every Via branch of an RFC 3261 element starts with it."""

_COMPACT_NAMES = {
    "b": "Referred-By",
    "c": "Content-Type",
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "o": "Event",
    "r": "Refer-To",
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",
    "v": "Via",
    "x": "Session-Expires",
}
_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")
_STATUS_LINE = re.compile(r"SIP/2\.0 ([1-6]\d\d)(?: (.*))?")
_REQUEST_LINE = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]+) (\S+) SIP/2\.0")
_CSEQ = re.compile(r"(\d{1,10})[ \t]+([A-Za-z0-9\-.!%*_+`'~]+)")
_URI = re.compile(r"sips?:(?:[^@>\s]*@)?(\[[^\]\s]+\]|[^:;?>@\s]+)(?::(\d{1,5}))?", re.IGNORECASE)
_FORBIDDEN = re.compile(r"[\r\n\0]")


class SipError(ValueError):
    """Bytes that are no SIP message, or a message that cannot be written; the text names the field at fault."""


@dataclass(slots=True, frozen=True)
class _Message:
    headers: Headers
    body: bytes

    def header(self, name: str) -> str | None:
        """The first value of a header, ``None`` when absent; names are not case-sensitive."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    def all(self, name: str) -> Headers:
        """Every header of this name, in order, as (name, value) pairs ready to be copied into an answer."""
        wanted = name.lower()
        return tuple(pair for pair in self.headers if pair[0].lower() == wanted)

    def require(self, name: str) -> str:
        """The first value of a header; ``SipError`` when absent."""
        value = self.header(name)
        if value is None:
            raise SipError(f"{name}: header missing")
        return value

    @property
    def cseq(self) -> tuple[int, str]:
        """Number and method of ``CSeq``."""
        found = _CSEQ.fullmatch(self.require("CSeq"))
        if found is None:
            raise SipError(f"CSeq: malformed: {self.header('CSeq')!r}")
        return int(found[1]), found[2]

    @property
    def branch(self) -> str:
        """The transaction's id: the branch parameter of the topmost ``Via``."""
        branch = parameter(self.require("Via").split(",")[0], "branch")
        if branch is None:
            raise SipError("Via: no branch parameter")
        return branch


@dataclass(slots=True, frozen=True)
class SipRequest(_Message):
    """A request; ``body`` is raw bytes, empty for none."""

    method: str
    uri: str


@dataclass(slots=True, frozen=True)
class SipResponse(_Message):
    """A response; ``status`` is 100 … 699."""

    status: int
    reason: str


SipMessage = SipRequest | SipResponse


def serialize(message: SipMessage) -> bytes:
    """The message as one datagram. Raises ``SipError`` for values that would break out of their field."""
    if isinstance(message, SipRequest):
        first_line = f"{message.method} {message.uri} SIP/2.0"
        sound = _REQUEST_LINE.fullmatch(first_line) is not None
    else:
        first_line = f"SIP/2.0 {message.status} {message.reason}"
        sound = _STATUS_LINE.fullmatch(first_line) is not None
    if not sound or _FORBIDDEN.search(first_line):
        raise SipError(f"first line: cannot be written: {first_line!r}")
    lines = [first_line]
    for name, value in message.headers:
        if not _TOKEN.fullmatch(name):
            raise SipError(f"header name: cannot be written: {name!r}")
        if _FORBIDDEN.search(value) or value != value.strip(" \t"):
            raise SipError(f"{name}: cannot be written: {value!r}")
        lines.append(f"{name}: {value}")
    lines.append(f"Content-Length: {len(message.body)}\r\n\r\n")
    return "\r\n".join(lines).encode() + message.body


def parse(datagram: bytes) -> SipMessage:
    """One datagram as a message. Raises ``SipError``, also for a body shorter than its ``Content-Length``."""
    head, separator, body = datagram.partition(b"\r\n\r\n")
    if not separator:
        raise SipError("headers: no empty line ends them")
    try:
        first_line, *lines = head.decode().split("\r\n")
    except UnicodeDecodeError as error:
        raise SipError(f"headers: not UTF-8 at byte {error.start}") from None
    headers, content_length = _parse_headers(lines)
    if content_length is not None:
        if len(body) < content_length:
            raise SipError(f"body: {len(body)} of {content_length} bytes")
        body = body[:content_length]
    if found := _STATUS_LINE.fullmatch(first_line):
        return SipResponse(headers, body, int(found[1]), found[2] or "")
    if found := _REQUEST_LINE.fullmatch(first_line):
        return SipRequest(headers, body, found[1], found[2])
    raise SipError(f"first line: neither request nor response: {first_line[:60]!r}")


def _parse_headers(lines: list[str]) -> tuple[Headers, int | None]:
    unfolded: list[str] = []
    for line in lines:
        if line[:1] in (" ", "\t") and unfolded:
            unfolded[-1] += " " + line.strip(" \t")
        else:
            unfolded.append(line)
    headers: list[tuple[str, str]] = []
    content_length: int | None = None
    for line in unfolded:
        name, colon, value = line.partition(":")
        name = name.rstrip(" \t")
        if not colon or not _TOKEN.fullmatch(name):
            raise SipError(f"header: malformed: {line[:60]!r}")
        name = _COMPACT_NAMES.get(name.lower(), name)
        value = value.strip(" \t")
        if name.lower() == "content-length":
            if not re.fullmatch(r"[0-9]{1,9}", value):
                raise SipError(f"Content-Length: malformed: {value!r}")
            content_length = int(value)
        else:
            headers.append((name, value))
    return tuple(headers), content_length


def parameter(value: str, name: str) -> str | None:
    """A ``;name=value`` parameter of a header such as Via, From or To, looked for behind any ``<…>``."""
    found = re.search(rf";\s*{re.escape(name)}\s*=\s*([^;,\s>]+)", value.rpartition(">")[2], re.IGNORECASE)
    return found[1] if found else None


def uri_of(name_addr: str) -> str:
    """The URI of a Contact, From or To value, with or without display name and angle brackets."""
    found = re.search(r"<([^<>\s]+)>", name_addr)
    uri = found[1] if found else name_addr.split(";")[0].strip()
    if _URI.match(uri) is None:
        raise SipError(f"URI: malformed: {name_addr!r}")
    return uri


def address_of(uri: str) -> Address:
    """Host and port to which a request for this URI goes (5060 when the URI names no port)."""
    found = _URI.match(uri)
    if found is None:
        raise SipError(f"URI: malformed: {uri!r}")
    return found[1].strip("[]"), int(found[2] or DEFAULT_PORT)


def new_branch() -> str:
    """A fresh Via branch."""
    return MAGIC_COOKIE + secrets.token_hex(8)


def new_tag() -> str:
    """A fresh From/To tag."""
    return secrets.token_hex(6)
