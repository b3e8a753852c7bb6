"""Ears: found bit for bit, in the right order, at the right time."""

from __future__ import annotations

import wave
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from testkit.caller import SipCaller, in_sequence
from testkit.codecs import PCMU
from testkit.hearing import (
    clip_arrived_at,
    find_clip,
    gaps_ms,
    longest_silence_ms,
    lost_packets,
    voice_edges,
    write_call_wav,
)
from testkit.rtp import RtpPacket
from testkit.speech import noise

SILENCE = b"\xff" * 160
VOICE = noise(20, seed=1)


def packets(sounds: list[bytes], *, first: int = 0, payload_type: int = 0, start_s: float = 0.0) -> list[RtpPacket]:
    """One packet per sound, 20 ms apart."""
    return [
        RtpPacket(payload_type, (first + n) & 0xFFFF, 160 * n, 1, sound, arrived_at=start_s + 0.02 * n)
        for n, sound in enumerate(sounds)
    ]


def test_a_clip_is_found_where_it_is_and_the_two_zeros_are_one() -> None:
    clip = VOICE + b"\x7f" + VOICE
    assert find_clip(SILENCE + VOICE + b"\xff" + VOICE, clip) == 160
    assert find_clip(SILENCE + VOICE + b"\xff" + VOICE[:-1], clip) is None


def test_packets_are_put_in_order_once_each_across_the_counters_turn() -> None:
    sent = packets([bytes([n]) for n in range(6)], first=0xFFFD)
    arrived = [sent[1], sent[0], sent[2], sent[4], sent[4], sent[3], sent[5]]
    assert in_sequence(arrived) == sent


def test_keys_are_not_sound() -> None:
    sound = [packets([VOICE])[0], packets([VOICE], first=2, start_s=0.02)[0]]
    key = packets([b"\x01\x0a\x00\xa0"], first=1, payload_type=101, start_s=0.01)
    arrived = [sound[0], *key, sound[1]]
    assert clip_arrived_at(arrived, VOICE + VOICE) == sound[0].arrived_at
    assert gaps_ms(arrived) == pytest.approx([20])
    assert lost_packets(arrived) == 0


def test_losses_are_counted() -> None:
    sent = packets([VOICE] * 10, first=0xFFFA)
    assert lost_packets(sent) == 0
    assert lost_packets(sent[:3] + sent[5:]) == 2
    assert lost_packets([]) == 0


def test_a_clip_arrives_with_the_packet_of_its_first_sample() -> None:
    arrived = packets([SILENCE, SILENCE, VOICE, SILENCE])
    assert clip_arrived_at(arrived, VOICE) == arrived[2].arrived_at
    assert clip_arrived_at(arrived, VOICE + VOICE) is None


def test_voice_has_edges_and_short_pauses_belong_to_it() -> None:
    sounds = [SILENCE] * 5 + [VOICE] * 5 + [SILENCE] * 5 + [VOICE] * 5 + [SILENCE] * 50
    begun, ceased = voice_edges(packets(sounds))
    assert (begun.voice, ceased.voice) == (True, False)
    assert (begun.at, ceased.at) == pytest.approx((0.1, 0.4))


def test_the_longest_silence_counts_only_after_the_moment_asked_for() -> None:
    sounds = [VOICE] + [SILENCE] * 49 + [VOICE] + [SILENCE] * 9 + [VOICE]
    assert longest_silence_ms(packets(sounds)) == pytest.approx(1000)
    assert longest_silence_ms(packets(sounds), after=0.999) == pytest.approx(200)


def test_gaps_are_between_packets_of_sound() -> None:
    assert gaps_ms(packets([VOICE] * 3)) == pytest.approx([20, 20])


def test_a_call_is_written_with_both_sides_where_they_belong(tmp_path: Path) -> None:
    sent = [(0.02 * n, VOICE if n == 0 else SILENCE) for n in range(50)]
    received = packets([SILENCE] * 10 + [VOICE] + [SILENCE] * 10, start_s=0.1)
    call = cast(SipCaller, SimpleNamespace(sent=sent, received=received, codec=PCMU))
    write_call_wav(tmp_path / "call.wav", call)
    with wave.open(str(tmp_path / "call.wav")) as file:
        assert (file.getnchannels(), file.getframerate(), file.getsampwidth()) == (2, 8000, 2)
        assert file.getnframes() == 50 * 160
        frames = memoryview(file.readframes(file.getnframes())).cast("h")
    left, right = frames[0::2].tolist(), frames[1::2].tolist()
    assert any(left[:160])
    assert not any(left[160:])
    loud = [index for index, sample in enumerate(right) if sample]
    # 100 ms until the first packet, 200 ms of silence in it.
    assert 2390 <= loud[0] <= 2410
    assert loud[-1] < 2410 + 160
