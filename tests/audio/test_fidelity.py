"""What a change of rate does to speech, in PESQ: the gate for providers and wires at other rates than the caller.

Sound of a provider at 24 kHz is made from flite's 16 kHz (``SpokenClip.provider_sound`` argues why that is honest) and
goes through the converter in frames of 20 ms, as in a call. The reference is made from the same 16 kHz by scipy.
"""

from __future__ import annotations

import numpy as np
import pytest

from audio._audioop import audioop
from audio.convert import convert, converter
from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from testkit.fidelity import CLIPS, PERFECT, SpokenClip, pesq_nb

GATE = 4.3
every_clip = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.name)


def in_frames(sound: bytes, source: AudioFormat, target: AudioFormat) -> bytes:
    change = converter(source, target)
    size = source.frame_bytes
    frames = [change(sound[start : start + size]) for start in range(0, len(sound), size)]
    return b"".join(frames) + change.drain()


def score(clip: SpokenClip, degraded: bytes, heard_as: AudioFormat) -> float:
    """Against what the caller's codec makes of the original."""
    reference = convert(clip.sound(heard_as), heard_as, SLIN_8K)
    return pesq_nb(reference, convert(degraded, heard_as, SLIN_8K))


@every_clip
@pytest.mark.parametrize("wire", [ULAW_8K, ALAW_8K], ids=str)
def test_a_provider_at_24_khz_is_heard_well_on_a_telephone(clip: SpokenClip, wire: AudioFormat) -> None:
    assert score(clip, in_frames(clip.provider_sound(), SLIN_24K, wire), wire) >= GATE


@every_clip
def test_the_change_of_rate_itself_cannot_be_heard(clip: SpokenClip) -> None:
    assert score(clip, in_frames(clip.provider_sound(), SLIN_24K, SLIN_8K), SLIN_8K) >= 4.5


@every_clip
def test_a_telephone_is_heard_well_by_a_provider_at_24_khz(clip: SpokenClip) -> None:
    heard = in_frames(clip.sound(ULAW_8K), ULAW_8K, SLIN_24K)
    assert score(clip, convert(heard, SLIN_24K, ULAW_8K), ULAW_8K) >= GATE


@every_clip
def test_a_wideband_wire_costs_a_narrowband_provider_nothing(clip: SpokenClip) -> None:
    assert score(clip, in_frames(clip.sound(SLIN_16K), SLIN_16K, ULAW_8K), ULAW_8K) >= GATE


def test_the_gate_stops_a_poor_resampler() -> None:
    for clip in CLIPS:
        linear = audioop.ratecv(clip.provider_sound(), 2, 1, 24000, 8000, None)[0]
        assert score(clip, convert(linear, SLIN_8K, ULAW_8K), ULAW_8K) < GATE, clip.name


def test_the_score_forgives_lag_and_surroundings_and_nothing_else() -> None:
    clip = CLIPS[0]
    sound = clip.sound(SLIN_8K)
    silence = bytes(8000)
    assert pesq_nb(sound, sound) == pytest.approx(PERFECT, abs=0.001)
    assert pesq_nb(sound, silence + sound + silence) == pytest.approx(PERFECT, abs=0.001)
    samples = np.frombuffer(sound, "<i2")
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160).copy()
    frames[10::20] = 0  # one frame in twenty is lost
    assert pesq_nb(sound, frames.tobytes()) < 4.0
    assert pesq_nb(sound, sound[: len(sound) // 4 * 2]) < 3.0


def test_the_providers_clips_have_what_a_poor_filter_would_fold_down() -> None:
    for clip in CLIPS:
        samples = np.frombuffer(clip.provider_sound(), "<i2").astype(float)
        power = np.abs(np.fft.rfft(samples)) ** 2
        frequencies = np.fft.rfftfreq(len(samples), 1 / 24000)
        for low, high in ((4000, 8000), (8000, 12000)):
            share_db = 10 * np.log10(power[(frequencies >= low) & (frequencies < high)].sum() / power.sum())
            assert share_db > -45, f"{clip.name} {low} Hz"
