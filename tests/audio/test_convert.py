from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.convert import UnsupportedConversion, converter
from audio.formats import ALAW_8K, SLIN_8K, ULAW_8K, AudioFormat, Encoding

EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize("audio_format", [ULAW_8K, ALAW_8K, SLIN_8K])
def test_equal_formats_pass_the_same_object(audio_format: AudioFormat) -> None:
    frame = bytes(audio_format.frame_bytes)
    assert converter(audio_format, audio_format)(frame) is frame


@pytest.mark.parametrize(
    ("companded", "audio_format", "linear"),
    [
        # ITU-T G.711: the ends of both scales and the quiet middle, in 16 bits.
        (b"\x00", ULAW_8K, -32124),
        (b"\x80", ULAW_8K, 32124),
        (b"\xff", ULAW_8K, 0),
        (b"\xfe", ULAW_8K, 8),
        (b"\x2a", ALAW_8K, -32256),
        (b"\xaa", ALAW_8K, 32256),
        (b"\xd5", ALAW_8K, 8),
        (b"\x55", ALAW_8K, -8),
    ],
)
def test_companded_values_are_those_of_g711(companded: bytes, audio_format: AudioFormat, linear: int) -> None:
    slin = converter(audio_format, SLIN_8K)(companded)
    assert int.from_bytes(slin, "little", signed=True) == linear
    assert converter(SLIN_8K, audio_format)(slin) == companded


@pytest.mark.parametrize("audio_format", [ULAW_8K, ALAW_8K])
def test_a_companded_stream_survives_the_way_through_slin(audio_format: AudioFormat) -> None:
    there = converter(audio_format, SLIN_8K)(EVERY_BYTE)
    back = converter(SLIN_8K, audio_format)(there)
    # μ-law has two zeros; the negative one comes back as the positive.
    expected = EVERY_BYTE.replace(b"\x7f", b"\xff") if audio_format is ULAW_8K else EVERY_BYTE
    assert back == expected


def test_between_the_companded_formats_it_goes_through_slin() -> None:
    expected = converter(SLIN_8K, ALAW_8K)(converter(ULAW_8K, SLIN_8K)(EVERY_BYTE))
    assert converter(ULAW_8K, ALAW_8K)(EVERY_BYTE) == expected


@given(slin=st.binary(max_size=400), cuts=st.lists(st.integers(0, 400), max_size=6))
def test_slin_may_be_cut_anywhere(slin: bytes, cuts: list[int]) -> None:
    convert = converter(SLIN_8K, ULAW_8K)
    edges = [0, *sorted(cuts), len(slin)]
    pieces = [convert(slin[start:end]) for start, end in pairwise(edges)]
    whole = slin[: len(slin) - len(slin) % 2]
    assert b"".join(pieces) == converter(SLIN_8K, ULAW_8K)(whole)


def test_other_rates_convert_too() -> None:
    wide_ulaw, wide_slin = AudioFormat(Encoding.ULAW, 16000), AudioFormat(Encoding.SLIN, 16000)
    assert converter(wide_ulaw, wide_slin)(b"\x80\xff") == (32124).to_bytes(2, "little") + b"\0\0"


@pytest.mark.parametrize("audio_format", [ULAW_8K, ALAW_8K, SLIN_8K])
def test_nothing_is_left_to_drain_at_one_rate(audio_format: AudioFormat) -> None:
    change = converter(SLIN_8K, audio_format)
    change(bytes(320))
    assert change.drain() == b""


def test_draining_drops_half_a_sample() -> None:
    to_ulaw = converter(SLIN_8K, ULAW_8K)
    to_ulaw(b"\x7c")
    to_ulaw.drain()
    assert to_ulaw((-32124).to_bytes(2, "little", signed=True)) == b"\x00"


@pytest.mark.parametrize("rate_hz", [0, 50, 1_000_000])
def test_rates_that_are_none_are_refused_by_name(rate_hz: int) -> None:
    odd = AudioFormat(Encoding.SLIN, rate_hz)
    with pytest.raises(UnsupportedConversion, match=f"slin {rate_hz} Hz to ulaw 8000 Hz: only rates of 4000 to"):
        converter(odd, ULAW_8K)
    with pytest.raises(UnsupportedConversion, match=f"ulaw 8000 Hz to slin {rate_hz} Hz"):
        converter(ULAW_8K, odd)


def test_importing_warns_of_nothing() -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", "import audio.convert"], check=True, timeout=30)
