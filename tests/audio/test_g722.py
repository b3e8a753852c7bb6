from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.g722 import RATE_HZ, G722Decoder, G722Encoder
from testkit.speech import speak_slin

FRAME_BYTES = 640
SPEECH = speak_slin("Wideband speech has the sound of s and f in it.", RATE_HZ, voice="slt")[: 100 * FRAME_BYTES]
ENCODED = G722Encoder().encode(SPEECH)


def test_each_frame_of_20_ms_is_160_bytes_and_comes_back_as_a_frame() -> None:
    encoder, decoder = G722Encoder(), G722Decoder()
    for start in range(0, len(SPEECH), FRAME_BYTES):
        encoded = encoder.encode(SPEECH[start : start + FRAME_BYTES])
        assert len(encoded) == 160
        assert len(decoder.decode(encoded)) == FRAME_BYTES


def test_speech_survives_with_the_lag_of_the_codec_and_no_more() -> None:
    said = np.frombuffer(SPEECH, "<i2").astype(float)
    heard = np.frombuffer(G722Decoder().decode(ENCODED), "<i2").astype(float)
    ratios = {}
    for lag in range(40):
        error = heard[lag:] - said[: len(said) - lag]
        ratios[lag] = 10 * np.log10(np.mean(said**2) / np.mean(error**2))
    best = max(ratios, key=lambda lag: ratios[lag])
    assert best == 22  # 1.4 ms: two quadrature mirror filters of 24 taps
    assert ratios[best] > 20


@pytest.mark.parametrize("frequency_hz", [300, 1000, 3400, 5000, 6800])
def test_the_whole_band_passes(frequency_hz: int) -> None:
    time_s = np.arange(RATE_HZ) / RATE_HZ
    tone = (8000 * np.sin(2 * np.pi * frequency_hz * time_s)).astype("<i2").tobytes()
    heard = np.frombuffer(G722Decoder().decode(G722Encoder().encode(tone)), "<i2").astype(float)[2000:-2000]
    level_db = 20 * np.log10(np.sqrt(np.mean(heard**2)) / (8000 / np.sqrt(2)))
    assert abs(level_db) < 1


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, len(SPEECH)), max_size=8))
def test_speech_may_be_cut_anywhere(cuts: list[int]) -> None:
    encoder, decoder = G722Encoder(), G722Decoder()
    edges = [0, *sorted(cuts), len(SPEECH)]
    pieces = [encoder.encode(SPEECH[start:end]) for start, end in pairwise(edges)]
    assert b"".join(pieces) == ENCODED
    assert b"".join(decoder.decode(piece) for piece in pieces) == G722Decoder().decode(ENCODED)


def test_nothing_gives_nothing_and_ends_nothing() -> None:
    encoder, decoder = G722Encoder(), G722Decoder()
    assert encoder.encode(b"") == b""
    assert decoder.decode(b"") == b""
    assert decoder.decode(encoder.encode(SPEECH)) == G722Decoder().decode(ENCODED)


def test_two_streams_do_not_disturb_each_other() -> None:
    one, other = G722Encoder(), G722Encoder()
    noise = np.random.default_rng(1).integers(-20000, 20000, 320, dtype=np.int16).tobytes()
    pieces = []
    for start in range(0, len(SPEECH), FRAME_BYTES):
        pieces.append(one.encode(SPEECH[start : start + FRAME_BYTES]))
        other.encode(noise)
    assert b"".join(pieces) == ENCODED


@settings(max_examples=50)
@given(st.binary(max_size=400))
def test_any_bytes_decode(garbage: bytes) -> None:
    assert len(G722Decoder().decode(garbage)) == 4 * len(garbage)


def test_silence_stays_silent() -> None:
    heard = np.frombuffer(G722Decoder().decode(G722Encoder().encode(bytes(50 * FRAME_BYTES))), "<i2")
    assert np.abs(heard.astype(int)).max() < 20
