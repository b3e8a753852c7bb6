"""Speech services that speak Wyoming: the wire, a recogniser and a voice over it.

An event is a JSON line, ``data_length`` bytes of further JSON data and ``payload_length`` raw bytes. Services
of this kind: wyoming-faster-whisper, wyoming-piper, and the speech workers of the local agent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from urllib.parse import urlsplit

import orjson
from wyoming.asr import Transcribe
from wyoming.asr import Transcript as WyomingTranscript
from wyoming.audio import AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeVoice

from audio.convert import converter
from audio.formats import FRAME_MS, SLIN_8K, ULAW_8K
from providers.base import ProviderError
from providers.pipeline.stages import Transcript

MAX_LINE_BYTES = 64 * 1024
MAX_PART_BYTES = 4 * 1024 * 1024
"""Of one event's data or payload: more than two minutes of 16 kHz sound."""

READ_BYTES = 64 * 1024
_RATE_HZ, _WIDTH = SLIN_8K.rate_hz, SLIN_8K.bytes_per_sample
"""What is on the wire: 16-bit samples at the telephone's rate."""
_to_wire = converter(ULAW_8K, SLIN_8K)

PRE_ROLL_MS = 300
"""Sound from before a segment that belongs to it: detectors miss the first consonant."""

_FRAMES_PER_EVENT = 3
"""Waking the service costs most of an event; what is held back goes out when the segment ends."""
_CONNECT_LIMIT_S = 5.0
_ANSWER_LIMIT_S = 10.0
_UNSENT_LIMIT_BYTES = 10 * _RATE_HZ * _WIDTH
"""Ten seconds of sound that a service has not read: it is beyond catching up."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], AbstractAsyncContextManager[Connection]]
"""Opens a connection to a service; raises ProviderError. Leaving it closes the connection."""


class WyomingError(ValueError):
    """The peer does not speak Wyoming."""


def encode(event: Event) -> bytes:
    """The bytes of one event."""
    header: dict[str, object] = {"type": event.type}
    if event.data:
        header["data"] = event.data
    if event.payload:
        header["payload_length"] = len(event.payload)
    return orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE) + (event.payload or b"")


def encode_audio(samples: bytes, rate_hz: int = _RATE_HZ) -> bytes:
    """An ``audio-chunk`` of 16-bit mono samples, quicker than ``encode``: it is made for every frame."""
    return (
        b'{"type":"audio-chunk","data":{"rate":%d,"width":2,"channels":1},"payload_length":%d}\n'
        % (rate_hz, len(samples))
    ) + samples


class EventDecoder:
    """Bytes in, events out; remembers what is incomplete."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Event]:
        """Raises WyomingError at the first byte that makes no sense; nothing can be read after that."""
        self._buffer += data
        while (event := self._next()) is not None:
            yield event

    def _next(self) -> Event | None:
        end = self._buffer.find(b"\n", 0, MAX_LINE_BYTES)
        if end < 0:
            if len(self._buffer) >= MAX_LINE_BYTES:
                raise WyomingError(f"no end of line within {MAX_LINE_BYTES} bytes")
            return None
        header = _json_object(self._buffer[:end])
        data_end = end + 1 + _length(header, "data_length")
        payload_end = data_end + _length(header, "payload_length")
        if len(self._buffer) < payload_end:
            return None
        kind, data = header.get("type"), header.get("data") or {}
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise WyomingError("an event needs a type, and an object as data")
        if data_end > end + 1:
            data |= _json_object(self._buffer[end + 1 : data_end])
        payload = bytes(self._buffer[data_end:payload_end]) or None
        del self._buffer[:payload_end]
        return Event(kind, data, payload)


def _json_object(text: bytes | bytearray) -> dict[str, object]:
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise WyomingError(f"not JSON: {bytes(text[:40])!r}") from error
    if not isinstance(parsed, dict):
        raise WyomingError(f"not an object: {bytes(text[:40])!r}")
    return parsed


def _length(header: dict[str, object], name: str) -> int:
    length = header.get(name) or 0
    if not isinstance(length, int) or not 0 <= length <= MAX_PART_BYTES:
        raise WyomingError(f"{name} is {length!r}")
    return length


@asynccontextmanager
async def connection(uri: str) -> AsyncIterator[Connection]:
    """To ``unix:///PATH`` or ``tcp://HOST:PORT``; leaving it drops what is unsent. Raises ProviderError."""
    place = urlsplit(uri)
    try:
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            if place.scheme == "unix":
                reader, writer = await asyncio.open_unix_connection(place.path)
            else:
                reader, writer = await asyncio.open_connection(place.hostname, place.port)
    except TimeoutError as error:
        raise ProviderError("connect_timeout", f"{uri} does not answer") from error
    except OSError as error:
        raise ProviderError("connect_failed", f"{uri}: {error}") from error
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def is_answering(uri: str) -> bool:
    """Whether a service at ``uri`` answers a ping."""
    try:
        async with asyncio.timeout(_CONNECT_LIMIT_S), connection(uri) as (reader, writer):
            writer.write(encode(Ping().event()))
            return bool(await reader.read(READ_BYTES))
    except (ProviderError, OSError, TimeoutError):
        return False


async def _events(reader: asyncio.StreamReader, kind: str) -> AsyncIterator[Event]:
    """What a service sends until it hangs up. Its errors, and what is not Wyoming, raise ProviderError."""
    decoder = EventDecoder()
    while data := await _read(reader, kind):
        try:
            for event in decoder.feed(data):
                if Error.is_type(event.type):
                    problem = Error.from_event(event)
                    raise ProviderError(problem.code or f"{kind}_failed", problem.text)
                yield event
        except (WyomingError, KeyError) as error:
            raise ProviderError("protocol_error", f"{kind} service: {error}") from error


async def _read(reader: asyncio.StreamReader, kind: str) -> bytes:
    try:
        return await reader.read(READ_BYTES)
    except OSError as error:
        raise ProviderError(f"{kind}_lost", f"connection to the {kind} service lost: {error}") from error


class WyomingSpeechToText:
    """A SpeechToText over one connection, which lasts as long as ``run`` does.

    ``model_for`` names the service's model for what a question expects; None leaves it to the service.
    """

    format = ULAW_8K

    def __init__(self, connect: Connect, model_for: Callable[[str | None], str | None] = lambda expects: None) -> None:
        self._connect = connect
        self._model_for = model_for
        self._pre_roll: deque[bytes] = deque(maxlen=PRE_ROLL_MS // FRAME_MS)
        self._in_segment = False
        self._writer: asyncio.StreamWriter | None = None
        self._unsent_frames: list[bytes] = []
        self._unsent = bytearray()
        self._unanswered = 0
        self._limit: asyncio.Timeout | None = None
        self.frames_dropped = 0
        """Frames that the service was too slow for."""

    async def run(self, on_transcript: Callable[[Transcript], None]) -> None:
        try:
            async with asyncio.timeout(None) as self._limit, self._connect() as (reader, self._writer):
                self._writer.write(bytes(self._unsent))
                self._unsent.clear()
                self._watch()
                async for event in _events(reader, "recognition"):
                    if WyomingTranscript.is_type(event.type):
                        self._unanswered = max(0, self._unanswered - 1)
                        self._watch()
                        text = WyomingTranscript.from_event(event).text.strip()
                        on_transcript(Transcript(text, final=True))
        except TimeoutError as error:
            late = f"no transcript within {_ANSWER_LIMIT_S:g} s"
            raise ProviderError("recognition_stalled", late) from error
        finally:
            self._writer = self._limit = None
            self._unsent.clear()
            self._unanswered = 0
        raise ProviderError("recognition_lost", "the recognition service hung up")

    def segment_started(self, expects: str | None) -> None:
        if self._in_segment:
            self.segment_ended()
        self._in_segment = True
        model = self._model_for(expects)
        start = AudioStart(_RATE_HZ, _WIDTH, 1)
        self._send(encode(Transcribe(name=model).event()) + encode(start.event()))
        self._unsent_frames.extend(self._pre_roll)
        self._pre_roll.clear()
        self._send_frames()

    def push(self, frame: bytes) -> None:
        if not self._in_segment:
            self._pre_roll.append(frame)
        elif self._backlog() > _UNSENT_LIMIT_BYTES:
            self.frames_dropped += 1
        else:
            self._unsent_frames.append(frame)
            if len(self._unsent_frames) >= _FRAMES_PER_EVENT:
                self._send_frames()

    def segment_ended(self) -> None:
        if not self._in_segment:
            return
        self._in_segment = False
        self._unanswered += 1
        if self._unanswered == 1:
            self._watch()
        self._send_frames()
        self._send(encode(AudioStop().event()))

    def _send_frames(self) -> None:
        if self._unsent_frames:
            self._send(encode_audio(_to_wire(b"".join(self._unsent_frames))))
            self._unsent_frames.clear()

    def _send(self, data: bytes) -> None:
        if self._writer is None:
            self._unsent += data
        else:
            self._writer.write(data)

    def _backlog(self) -> int:
        return len(self._unsent) if self._writer is None else self._writer.transport.get_write_buffer_size()

    def _watch(self) -> None:
        """Sets the moment by which the oldest unanswered segment must have its transcript."""
        if self._limit is not None and not self._limit.expired():
            now = asyncio.get_running_loop().time()
            self._limit.reschedule(now + _ANSWER_LIMIT_S if self._unanswered else None)


class WyomingTextToSpeech:
    """A TextToSpeech with one connection per clause: hanging up is how Wyoming cancels."""

    format = ULAW_8K

    def __init__(self, connect: Connect, voice: str | None = None) -> None:
        self._connect = connect
        self._voice = SynthesizeVoice(name=voice) if voice else None

    async def synthesize(self, text: str) -> AsyncGenerator[bytes, None]:
        """Raises ProviderError, also for sound at another rate than the telephone's."""
        from_wire = converter(SLIN_8K, ULAW_8K)
        async with self._connect() as (reader, writer):
            writer.write(encode(Synthesize(text, self._voice).event()))
            events = _events(reader, "voice")
            while (event := await _within_limit(events)) is not None:
                if event.type == "audio-chunk" and event.payload:
                    form = tuple(event.data.get(name) for name in ("rate", "width", "channels"))
                    if form != (_RATE_HZ, _WIDTH, 1):
                        raise ProviderError("unsupported_audio", f"{form} instead of 8000 Hz, 16 bit, mono")
                    yield from_wire(event.payload)
                elif AudioStop.is_type(event.type):
                    return
        raise ProviderError("voice_lost", "the voice service hung up in the middle of a clause")


async def _within_limit(events: AsyncIterator[Event]) -> Event | None:
    try:
        async with asyncio.timeout(_ANSWER_LIMIT_S):
            return await anext(events, None)
    except TimeoutError as error:
        raise ProviderError("voice_stalled", f"no sound within {_ANSWER_LIMIT_S:g} s") from error
