"""The Wyoming wire, against the protocol's own package."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStop
from wyoming.event import Event, read_event, write_event
from wyoming.tts import Synthesize, SynthesizeVoice

from providers.wyoming import MAX_LINE_BYTES, MAX_PART_BYTES, EventDecoder, WyomingError, encode, encode_audio

EVENTS = (
    Transcribe(name="yes_no").event(),
    AudioChunk(8000, 2, 1, b"\x01\x02" * 160).event(),
    AudioStop().event(),
    Synthesize("Zoë said:\n“hi”", SynthesizeVoice(name="slt")).event(),
    Event("audio-chunk", {"rate": 8000}, b'{"type":"not an event"}\n'),
)


def _written_by_the_package(events: Sequence[Event]) -> bytes:
    stream = io.BytesIO()
    for event in events:
        write_event(event, stream)
    return stream.getvalue()


def test_what_is_encoded_reads_the_same_in_the_package() -> None:
    stream = io.BytesIO(b"".join(map(encode, EVENTS)))
    assert [read_event(stream) for _ in EVENTS] == list(EVENTS)


def test_the_quick_way_of_encoding_a_frame_is_an_audio_chunk() -> None:
    event = read_event(io.BytesIO(encode_audio(b"\x05\x00" * 160)))
    assert event is not None
    assert AudioChunk.from_event(event) == AudioChunk(8000, 2, 1, b"\x05\x00" * 160)


@pytest.mark.parametrize("written", [_written_by_the_package(EVENTS), b"".join(map(encode, EVENTS))])
def test_events_come_out_whole_wherever_the_stream_is_split(written: bytes) -> None:
    for split in range(len(written) + 1):
        decoder = EventDecoder()
        assert [*decoder.feed(written[:split]), *decoder.feed(written[split:])] == list(EVENTS)


def test_one_byte_at_a_time() -> None:
    decoder = EventDecoder()
    written = _written_by_the_package(EVENTS)
    assert [event for byte in written for event in decoder.feed(bytes((byte,)))] == list(EVENTS)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"hello\n",
        b"[1, 2]\n",
        b"{}\n",
        b'{"type": 5}\n',
        b'{"type": "ping", "data": 7}\n',
        b'{"type": "ping", "data_length": -1}\n',
        b'{"type": "ping", "payload_length": "9"}\n',
        b'{"type": "ping", "payload_length": %d}\n' % (MAX_PART_BYTES + 1),
        b'{"type": "ping", "data_length": 2}\n[]',
        b'{"type": "ping", "data_length": 3}\n{"a',
        b"x" * MAX_LINE_BYTES,
        b"\xff\xfe\n",
    ],
)
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(WyomingError):
        list(EventDecoder().feed(nonsense))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_random_bytes_are_refused_or_awaited_but_nothing_else(chunks: list[bytes]) -> None:
    decoder = EventDecoder()
    try:
        for chunk in chunks:
            list(decoder.feed(chunk))
    except WyomingError:
        pass
