"""The agent's voice: real flite, in its worker process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import numpy as np
import pytest
import pytest_asyncio

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from providers.local.speech.adapters import ClauseCache
from providers.local.speech.flite import Flite, FliteMissingError
from providers.local.speech.pool import SpeechPool
from providers.local.speech.voice import Halver, pieces
from providers.pipeline.stages import TextToSpeech, Transcript
from testkit.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

SENTENCE = "We are open from nine to five, Monday to Friday."
LONG = " ".join([SENTENCE] * 40)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[SpeechPool]:
    pool = SpeechPool(["we are open from nine to five monday to friday"], workers=1)
    await pool.start()
    yield pool
    await pool.close()


async def spoken(voice: TextToSpeech, text: str) -> list[bytes]:
    return [chunk async for chunk in voice.synthesize(text)]


async def test_a_sentence_is_spoken_in_pieces_of_telephone_sound(pool: SpeechPool) -> None:
    voice = pool.voice()
    assert voice.format == ULAW_8K
    chunks = await spoken(voice, SENTENCE)
    assert len(chunks) > 10
    sound = b"".join(chunks)
    assert 2000 < ULAW_8K.duration_ms(len(sound)) < 6000
    samples = np.frombuffer(converter(ULAW_8K, SLIN_8K)(sound), np.int16)
    assert 500 < np.sqrt(np.mean(samples.astype(float) ** 2)) < 10000


async def test_what_the_voice_says_the_recogniser_understands(pool: SpeechPool) -> None:
    recognizer = pool.recognizer()
    heard: asyncio.Queue[Transcript] = asyncio.Queue()
    running = asyncio.create_task(recognizer.run(heard.put_nowait))
    recognizer.segment_started(None)
    for chunk in await spoken(pool.voice(), "We are open 9-5, Mon-Fri."):
        recognizer.push(chunk)
    recognizer.segment_ended()
    text = (await asyncio.wait_for(heard.get(), 20)).text
    running.cancel()
    await asyncio.wait((running,))
    assert text == "we are open nine to five monday to friday"


async def test_what_was_said_before_comes_at_once_and_is_the_same(pool: SpeechPool) -> None:
    first = await spoken(pool.voice(), "Is there anything else?")
    hits = pool.status().facts["cache_hits"]
    again = await spoken(pool.voice(), "Is there  anything else?")
    assert again == [b"".join(first)]
    assert pool.status().facts["cache_hits"] == hits + 1


@pytest.mark.parametrize("text", ["", " ", "…", "🙂"])
async def test_text_without_words_is_short_or_silent(pool: SpeechPool, text: str) -> None:
    assert ULAW_8K.duration_ms(len(b"".join(await spoken(pool.voice(), text)))) < 1500


async def test_closing_the_iterator_stops_the_voice(pool: SpeechPool) -> None:
    """The clause takes minutes to hear and a second to make; the next one must not wait for the rest of it."""
    cached = pool.status().facts["cached_clauses"]
    async with aclosing(pool.voice().synthesize(LONG)) as chunks:  # type: ignore[type-var]
        async for _ in chunks:
            break
    await wait_until(lambda: pool.status().facts["connections"] == 0, what="the connection is closed")
    assert pool.status().facts["cached_clauses"] == cached
    assert await spoken(pool.voice(), "Then this is said.")


async def test_cancelling_whoever_listens_stops_the_voice(pool: SpeechPool) -> None:
    listening = asyncio.create_task(spoken(pool.voice(), LONG))
    await wait_until(lambda: pool.status().facts["connections"] == 1, what="the clause is being made")
    listening.cancel()
    await asyncio.wait((listening,))
    await wait_until(lambda: pool.status().facts["connections"] == 0, what="the connection is closed")
    assert await spoken(pool.voice(), "And this is said after all.")


async def test_clauses_are_spoken_in_advance(pool: SpeechPool) -> None:
    texts = ["Welcome to the bike shop.", "How can I help you?", "Goodbye."]
    cached = pool.status().facts["cached_clauses"]
    pool.prewarm(texts)
    await wait_until(lambda: pool.status().facts["cached_clauses"] == cached + 3, 20, "all are in the cache")
    misses = pool.status().facts["cache_misses"]
    for text in texts:
        assert len(await spoken(pool.voice(), text)) == 1
    assert pool.status().facts["cache_misses"] == misses


async def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = ClauseCache(limit_bytes=30)
    for text in "abc":
        cache.keep(("slt", text), b"0123456789")
    assert cache.find(("slt", "a")) == b"0123456789"
    cache.keep(("slt", "d"), b"0123456789")
    assert cache.find(("slt", "b")) is None
    assert cache.find(("slt", "a")) is not None
    cache.keep(("slt", "d"), b"01234")
    assert (len(cache), cache.size_bytes) == (3, 25)
    cache.keep(("slt", "e"), b"x" * 31)
    assert cache.size_bytes <= 30


def _tone(hz: float) -> bytes:
    moments = np.arange(16000) / 16000
    return (10000 * np.sin(2 * np.pi * hz * moments)).astype(np.int16).tobytes()


def _level(samples: bytes) -> float:
    """Relative to the tone, away from its beginning."""
    middle = np.frombuffer(samples, np.int16)[500:-500].astype(float)
    return float(np.sqrt(np.mean(middle**2)) / (10000 / np.sqrt(2)))


@pytest.mark.parametrize(
    ("hz", "least", "most"), [(300, 0.97, 1.03), (3300, 0.9, 1.03), (4600, 0, 0.01), (7000, 0, 0.01)]
)
async def test_halving_the_rate_keeps_the_voice_and_no_mirror_image(hz: float, least: float, most: float) -> None:
    assert least <= _level(Halver().feed(_tone(hz))) <= most


@pytest.mark.parametrize("portion", [2, 6, 46, 100, 1598, 1600])
async def test_halving_does_not_depend_on_the_portions(portion: int) -> None:
    tone = _tone(700)
    halver = Halver()
    pieces = [halver.feed(tone[at : at + portion]) for at in range(0, len(tone), portion)]
    whole, pieced = (np.frombuffer(sound, np.int16) for sound in (Halver().feed(tone), b"".join(pieces)))
    assert len(whole) == len(pieced)
    assert np.max(np.abs(whole.astype(int) - pieced)) <= 1


@pytest.mark.parametrize("text", ["One. Two. " * 60, "word " * 200, "a" * 1000, "Dr. No is in."])
async def test_long_text_is_spoken_in_pieces_and_none_is_lost(text: str) -> None:
    spoken_pieces = pieces(text)
    assert "".join("".join(spoken_pieces).split()) == "".join(text.split())
    assert max(map(len, spoken_pieces)) <= 300


async def test_a_voice_that_is_not_there_is_named() -> None:
    with pytest.raises(FliteMissingError, match="slt, rms, awb, kal"):
        Flite("hal9000")
