from __future__ import annotations

import asyncio
import logging
import socket
from uuid import uuid4

import pytest
from audiosocket_support import FRAME, NOT_UNDERSTOOD, REFUSED, Listener, Open

from audio.formats import SLIN_8K, SLIN_16K, SLIN_24K, AudioFormat
from testkit.waiting import wait_until
from transport.audiosocket import AudioSocketTransport
from transport.audiosocket_codec import (
    DigitReceived,
    Identified,
    encode,
    encode_audio,
)
from transport.media import Connected, DtmfReceived


async def test_sound_both_ways_bit_for_bit(listener: Listener) -> None:
    call, peer = await listener.live_call()
    frames = [bytes([n]) * 320 for n in range(100)]
    for frame in frames:
        peer.send(encode_audio(frame))
        call.port.send(frame)
    assert await peer.reader.readexactly(323 * 100) == b"".join(map(encode_audio, frames))
    await wait_until(lambda: len(call.heard) == 100)
    assert call.heard == frames
    assert (call.port.frames_received, call.port.frames_sent, call.port.frames_dropped) == (100, 100, 0)
    assert listener.counters == {"connections": 1}


async def test_everything_in_one_write_and_in_single_bytes(listener: Listener) -> None:
    stream = encode_audio(FRAME) + encode(DigitReceived("#")) + encode_audio(b"\1\2")
    at_once, dripping = listener.expect_call(), listener.expect_call()
    await listener.connect(at_once.hello + stream)
    peer = await listener.connect()
    for byte in dripping.hello + stream:
        peer.send(bytes([byte]))
        await peer.writer.drain()
        await asyncio.sleep(0)
    for call in (at_once, dripping):
        await wait_until(lambda call=call: len(call.heard) == 2)
        assert call.heard == [FRAME, b"\1\2"]
        assert call.events == [Connected(), DtmfReceived("#")]


async def test_frames_of_other_lengths_pass_as_they_are(listener: Listener) -> None:
    call, peer = await listener.live_call()
    for size in (2, 160, 640, 16000):
        peer.send(encode_audio(bytes(size)))
        call.port.send(bytes(size))
        assert await peer.reader.readexactly(3 + size) == encode_audio(bytes(size))
    await wait_until(lambda: len(call.heard) == 4)
    assert [len(frame) for frame in call.heard] == [2, 160, 640, 16000]


async def test_a_frame_that_would_kill_the_channel_is_dropped(listener: Listener) -> None:
    call, peer = await listener.live_call()
    call.port.send(b"")
    call.port.send(bytes(70_000))
    call.port.send(FRAME)
    assert await peer.reader.readexactly(323) == encode_audio(FRAME)
    assert (call.port.frames_sent, call.port.frames_dropped) == (1, 2)


async def test_frames_without_a_connection_are_dropped_and_counted(listener: Listener) -> None:
    call = listener.expect_call()
    call.port.send(FRAME)
    peer = await listener.connect(call.hello)
    await wait_until(lambda: call.events == [Connected()])
    call.port.send(FRAME)
    peer.writer.close()
    await call.ended()
    call.port.send(FRAME)
    assert (call.port.frames_sent, call.port.frames_dropped) == (1, 2)


async def test_the_socket_is_tuned(listener: Listener) -> None:
    call, _ = await listener.live_call()
    wire = call.port._wire
    assert wire.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert getattr(wire, "max_size", 8192) == 8192


# --- who may come in


async def test_an_unknown_uuid_is_refused(listener: Listener) -> None:
    peer = await listener.connect(encode(Identified(uuid4())) + encode_audio(FRAME) * 3)
    assert await peer.rest() == REFUSED
    assert listener.counters == {"connections": 1, "refused": 1}


async def test_a_uuid_is_accepted_once(listener: Listener) -> None:
    call, first = await listener.live_call()
    second = await listener.connect(call.hello)
    assert await second.rest() == REFUSED
    call.port.send(FRAME)
    assert await first.reader.readexactly(323) == encode_audio(FRAME)
    assert call.events == [Connected()]
    assert listener.counters == {"connections": 2, "refused": 1}


async def test_a_call_that_ended_before_asterisk_connected_is_refused(listener: Listener) -> None:
    call = listener.expect_call()
    call.port.close()
    peer = await listener.connect(call.hello)
    assert await peer.rest() == REFUSED
    assert call.events == []
    assert listener.counters == {"connections": 1, "refused": 1}


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes.fromhex("16 0301 0200 01 0001fc0303"),
        encode_audio(FRAME),
        b"\x01\x00\x0f",
        b"\xff" * 100_000,
    ],
    ids=["http", "tls", "sound before the uuid", "short uuid", "a lot"],
)
async def test_a_stranger_is_told_and_dismissed(
    listener: Listener, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    peer = await listener.connect(garbage)
    assert await peer.rest() == NOT_UNDERSTOOD
    assert listener.counters == {"connections": 1, "protocol_errors": 1}
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("said", [b"", b"\x01\x00\x10" + bytes(15)], ids=["nothing", "half a uuid"])
async def test_a_peer_that_does_not_name_its_call_is_closed(listen: Open, said: bytes) -> None:
    listener = await listen(identify_timeout_s=0.05)
    peer = await listener.connect(said)
    assert await peer.rest() == b""
    assert listener.counters == {"connections": 1, "timeouts": 1}


async def test_a_call_outlives_the_limit_for_its_uuid(listen: Open) -> None:
    listener = await listen(identify_timeout_s=0.05)
    call, peer = await listener.live_call()
    silent = await listener.connect()
    assert await silent.rest() == b""
    call.port.send(FRAME)
    assert await peer.reader.readexactly(323) == encode_audio(FRAME)


async def test_a_port_scanner_is_counted_and_leaves_no_trace(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    for end in (lambda peer: peer.writer.close(), lambda peer: peer.reset()):
        end(await listener.connect())
    await wait_until(lambda: listener.counters == {"connections": 2, "abandoned": 2})
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_silent_connections_cannot_crowd_out_a_call(listen: Open) -> None:
    listener = await listen(max_unidentified=4)
    silent = [await listener.connect() for _ in range(10)]
    await wait_until(lambda: listener.counters.get("connections") == 10)
    call, peer = await listener.live_call()
    assert listener.counters == {"connections": 11, "crowded_out": 7}
    for oldest in silent[:7]:
        assert await oldest.rest() == b""
    assert not any(late.reader.at_eof() for late in silent[7:])
    call.port.send(FRAME)
    assert await peer.reader.readexactly(323) == encode_audio(FRAME)


# --- what Asterisk is told


async def test_external_media_names_our_address_and_the_call(listener: Listener) -> None:
    media_id = uuid4()
    external = listener.transport.open_port(media_id, SLIN_8K).external_media()
    host, port = listener.transport.address
    assert external.external_host == f"{host}:{port}" == f"127.0.0.1:{port}"
    assert (external.format, external.encapsulation, external.transport) == ("slin", "audiosocket", "tcp")
    assert external.data == str(media_id)


@pytest.mark.parametrize(("audio_format", "name"), [(SLIN_16K, "slin16"), (SLIN_24K, "slin24")])
async def test_wideband_sound_goes_both_ways(listener: Listener, audio_format: AudioFormat, name: str) -> None:
    frame = bytes(range(1, 161)) * (audio_format.frame_bytes // 160)
    call, peer = await listener.live_call(audio_format)
    assert call.port.external_media().format == name
    call.port.send(frame)
    message = encode_audio(frame, audio_format.rate_hz)
    assert await peer.reader.readexactly(len(message)) == message
    peer.send(message)
    await wait_until(lambda: call.heard == [frame])


async def test_sound_at_another_rate_than_agreed_ends_the_call(listener: Listener) -> None:
    call, peer = await listener.live_call(SLIN_16K)
    peer.send(encode_audio(FRAME, 8000))
    assert await call.ended() == "protocol error: sound at 8000 Hz, expected 16000"
    assert await peer.rest() == NOT_UNDERSTOOD


async def test_the_advertised_host_is_named_instead(listen: Open) -> None:
    listener = await listen(host="0.0.0.0", advertise_host="engine.lan")
    port = listener.transport.address[1]
    assert listener.transport.advertised == f"engine.lan:{port}"


async def test_an_ipv6_address_is_bracketed(listen: Open) -> None:
    listener = await listen(advertise_host="fd00::7")
    port = listener.transport.address[1]
    assert listener.transport.advertised == f"[fd00::7]:{port}"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_a_wildcard_needs_an_advertised_host(host: str) -> None:
    with pytest.raises(ValueError, match="advertise_host"):
        AudioSocketTransport(host)


async def test_a_port_in_use_is_an_error_at_start(listener: Listener) -> None:
    with pytest.raises(OSError):
        await AudioSocketTransport(*listener.transport.address).start()


async def test_a_wire_over_which_nothing_is_sent_is_fed_with_silence(listener: Listener) -> None:
    """Asterisk holds its channel locked while it waits for a frame."""
    call, peer = await listener.live_call()
    assert await peer.reader.readexactly(323) == encode_audio(bytes(320))
    assert call.port.frames_sent == 0, "it is nobody's frame"
