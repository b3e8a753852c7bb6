"""Which wire a call gets: as asked, else as configured, and in any case one that works."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import pytest

from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from engine.wires import NoWireError, Wires
from transport.media import MediaPort, Requirement


class Kind:
    """A transport that needs a module, and a release for wideband."""

    counters: Mapping[str, int] = {}

    def __init__(self, name: str, *formats: AudioFormat, module: str = "", listens: bool = True) -> None:
        self.name = name
        self.formats = formats
        self.closed = False
        self._modules = (module,) if module else ()
        self._listens = listens

    def requirement(self, audio_format: AudioFormat) -> Requirement:
        return Requirement(self._modules, (22, 7) if audio_format.rate_hz > 8000 else (22, 4))

    async def start(self) -> None:
        if not self._listens:
            raise OSError(98, "address in use")

    async def close(self) -> None:
        self.closed = True

    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> MediaPort:
        raise NotImplementedError


SOCKET = Kind("audiosocket", SLIN_8K, SLIN_16K, SLIN_24K)
RTP = Kind("externalmedia", ULAW_8K, ALAW_8K, SLIN_8K, SLIN_16K, module="chan_rtp.so")


def wires(default: str = "audiosocket", audio_format: str = "auto") -> Wires:
    made = Wires((SOCKET, RTP), default, audio_format)
    made.asterisk_is("22.10.1+dfsg", frozenset({"chan_rtp.so"}))
    return made


@pytest.mark.parametrize(
    ("transport", "codec", "chosen"),
    [
        ("audiosocket", "ulaw", SLIN_8K),
        ("audiosocket", "g722", SLIN_16K),
        ("audiosocket", "opus", SLIN_24K),
        ("audiosocket", "gsm", SLIN_8K),
        ("audiosocket", "", SLIN_8K),
        ("externalmedia", "ulaw", ULAW_8K),
        ("externalmedia", "alaw", ALAW_8K),
        ("externalmedia", "g722", SLIN_16K),
        ("externalmedia", "opus", SLIN_16K),
        ("externalmedia", "gsm", SLIN_8K),
    ],
)
def test_auto_carries_what_the_callers_phone_sends(transport: str, codec: str, chosen: AudioFormat) -> None:
    wire = wires(transport).choose("", "", codec)
    assert (wire.transport.name, wire.audio_format, wire.compromise) == (transport, chosen, "")


def test_a_provider_is_told_the_companding_at_the_callers_end_of_a_linear_wire() -> None:
    assert wires().choose("", "", "alaw").caller_format == ALAW_8K
    assert wires().choose("", "", "gsm").caller_format == SLIN_8K
    assert wires().choose("", "", "g722").caller_format == SLIN_16K


def test_the_dialplan_chooses_for_a_call() -> None:
    wire = wires().choose("externalmedia", "alaw", "ulaw")
    assert (wire.transport.name, wire.audio_format, wire.compromise) == ("externalmedia", ALAW_8K, "")


@pytest.mark.parametrize(
    ("asked_transport", "asked_format", "codec", "chosen", "reason"),
    [
        ("pigeon", "", "ulaw", ("audiosocket", SLIN_8K), "no transport is called 'pigeon'"),
        ("", "slin16", "ulaw", ("audiosocket", SLIN_8K), "the caller's ulaw carries less than 16000 Hz"),
        ("", "slin24", "g722", ("audiosocket", SLIN_16K), "the caller's g722 carries less than 24000 Hz"),
        ("", "ulaw", "ulaw", ("audiosocket", SLIN_8K), "audiosocket does not carry ulaw 8000 Hz"),
        ("externalmedia", "slin24", "opus", ("externalmedia", SLIN_16K), "externalmedia does not carry slin 24000 Hz"),
        ("", "mp3", "g722", ("audiosocket", SLIN_16K), "no sound format is called 'mp3'"),
    ],
)
def test_what_cannot_be_had_is_replaced_and_the_reason_told(
    asked_transport: str, asked_format: str, codec: str, chosen: tuple[str, AudioFormat], reason: str
) -> None:
    wire = wires().choose(asked_transport, asked_format, codec)
    assert (wire.transport.name, wire.audio_format) == chosen
    assert reason in wire.compromise


def test_an_asterisk_that_is_too_old_for_wideband_gets_narrowband() -> None:
    old = Wires((SOCKET,), "audiosocket", "auto")
    old.asterisk_is("22.5.2", frozenset())
    assert old.choose("", "", "g722").audio_format == SLIN_8K
    wanted = old.choose("", "slin16", "g722")
    assert wanted.audio_format == SLIN_8K
    assert wanted.compromise == "audiosocket: Asterisk 22.5.2 is too old: slin 16000 Hz needs 22.7"


@pytest.mark.parametrize(
    ("version", "modules", "fault"),
    [
        ("22.10.1+dfsg+~cs6.17", {"chan_rtp.so"}, ""),
        ("22.10.1", set(), "externalmedia: Asterisk has not loaded chan_rtp.so (modules.conf)"),
        ("22.1.0", {"chan_rtp.so"}, "externalmedia: Asterisk 22.1.0 is too old: ulaw 8000 Hz needs 22.4"),
        ("certified-22.8-cert1", {"chan_rtp.so"}, ""),
        ("23.0.0", {"chan_rtp.so"}, ""),
        ("GIT-master-abc", {"chan_rtp.so"}, ""),
    ],
)
def test_what_the_default_transport_lacks_is_told(version: str, modules: set[str], fault: str) -> None:
    made = Wires((SOCKET, RTP), "externalmedia", "auto")
    assert made.fault == "", "nothing is known yet"
    made.asterisk_is(version, frozenset(modules))
    assert made.fault == fault


def test_a_transport_that_cannot_work_is_not_given_to_a_call_and_a_default_that_cannot_is_an_error() -> None:
    made = Wires((SOCKET, RTP), "audiosocket", "auto")
    made.asterisk_is("22.10.1", frozenset())
    wire = made.choose("externalmedia", "", "ulaw")
    assert wire.transport is SOCKET
    assert "has not loaded chan_rtp.so" in wire.compromise
    broken = Wires((SOCKET, RTP), "externalmedia", "auto")
    broken.asterisk_is("22.10.1", frozenset())
    with pytest.raises(NoWireError, match=r"has not loaded chan_rtp\.so"):
        broken.choose("", "", "ulaw")


def test_a_format_that_the_default_transport_never_carries_is_refused() -> None:
    with pytest.raises(ValueError, match="audio_format ulaw: audiosocket carries only slin, slin16, slin24"):
        wires(audio_format="ulaw")


async def test_only_the_default_transport_has_to_listen() -> None:
    deaf = Kind("websocket", ULAW_8K, listens=False)
    made = Wires((SOCKET, deaf), "audiosocket", "auto")
    await made.start()
    assert [transport.name for transport in made] == ["audiosocket"]
    with pytest.raises(OSError, match="address in use"):
        await Wires((SOCKET, deaf), "websocket", "auto").start()
