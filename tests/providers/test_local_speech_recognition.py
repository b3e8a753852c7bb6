"""What is understood over the telephone path: real voices, real recogniser, in its worker process."""

from __future__ import annotations

import asyncio
import random
import time
from array import array
from collections.abc import AsyncIterator, Iterable, Sequence

import psutil
import pytest
import pytest_asyncio
from local_speech_corpus import (
    DIGITS,
    FAQ,
    NAMES,
    PARAPHRASES,
    PAUSE_FRAMES,
    TIMES,
    VOICES,
    YES_NO,
    said,
    word_errors,
)

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from providers.local.speech.pool import SpeechPool
from providers.pipeline.stages import SpeechToText, Transcript

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT_S = 20.0
NO_WORDS = {"no", "nope", "not", "wrong"}
YES_WORDS = {"yes", "yeah", "yep", "yup", "sure", "okay", "correct", "right"}
FIGURES = frozenset(
    ["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "double", "triple"]
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[SpeechPool]:
    pool = SpeechPool(FAQ, workers=1)
    await pool.start()
    yield pool
    await pool.close()


class Caller:
    """Speaks into a recogniser of its own, faster than life."""

    def __init__(self, recognizer: SpeechToText) -> None:
        self._recognizer = recognizer
        self._transcripts: asyncio.Queue[Transcript] = asyncio.Queue()

    async def __aenter__(self) -> Caller:
        self._running = asyncio.create_task(self._recognizer.run(self._transcripts.put_nowait))
        return self

    async def __aexit__(self, *problem: object) -> None:
        self._running.cancel()
        await asyncio.wait((self._running,))

    async def say(self, frames: Sequence[bytes], expects: str | None = None) -> str:
        for nth, frame in enumerate(frames):
            if nth == PAUSE_FRAMES:
                self._recognizer.segment_started(expects)
            self._recognizer.push(frame)
        self._recognizer.segment_ended()
        return (await self.answer()).text

    async def answer(self) -> Transcript:
        return await asyncio.wait_for(self._transcripts.get(), LIMIT_S)


async def hear(pool: SpeechPool, texts: Iterable[str], expects: str | None = None) -> list[tuple[str, str]]:
    """What was said and what was heard; the voices take turns, each on a line of its own."""
    pairs = []
    texts = tuple(texts)
    for turn, voice in enumerate(VOICES):
        async with Caller(pool.recognizer()) as caller:
            for text in texts[turn :: len(VOICES)]:
                pairs.append((text, await caller.say(said(text, voice), expects)))
    return pairs


def error_rate(pairs: list[tuple[str, str]]) -> float:
    return sum(word_errors(*pair) for pair in pairs) / sum(len(text.split()) for text, _ in pairs)


def right(pairs: list[tuple[str, str]]) -> float:
    return sum(text == heard for text, heard in pairs) / len(pairs)


async def test_most_questions_of_the_faq_are_heard_word_for_word(pool: SpeechPool) -> None:
    pairs = await hear(pool, FAQ)
    assert right(pairs) >= 0.8
    assert error_rate(pairs) < 0.1


async def test_questions_in_other_words_are_mostly_heard(pool: SpeechPool) -> None:
    assert error_rate(await hear(pool, PARAPHRASES)) < 0.3


async def test_yes_is_told_from_no(pool: SpeechPool) -> None:
    pairs = await hear(pool, YES_NO, "yes_no")
    for text, heard in pairs:
        assert bool(NO_WORDS & set(heard.split())) == (YES_NO[text] == "no"), (text, heard)
    clear = [heard for _, heard in pairs if (YES_WORDS | NO_WORDS) & set(heard.split())]
    assert len(clear) >= 0.9 * len(pairs)


async def test_telephone_numbers_are_mostly_heard(pool: SpeechPool) -> None:
    assert error_rate(await hear(pool, DIGITS, "digits")) < 0.2


async def test_days_and_times_are_mostly_heard(pool: SpeechPool) -> None:
    assert error_rate(await hear(pool, TIMES, "time")) < 0.2


async def test_names_are_heard_often_enough_to_be_asked_back(pool: SpeechPool) -> None:
    assert error_rate(await hear(pool, NAMES, "name")) < 0.4


@pytest.mark.parametrize("expects", ["yes_no", "digits", "time", "name"])
async def test_a_caller_may_answer_something_else_than_expected(pool: SpeechPool, expects: str) -> None:
    pairs = await hear(pool, ("i want to talk to a person", "can you repeat that please", "goodbye"), expects)
    assert error_rate(pairs) < 0.4
    assert not any(FIGURES & set(heard.split()) for _, heard in pairs)


async def test_an_expectation_that_nobody_knows_of_is_no_expectation(pool: SpeechPool) -> None:
    async with Caller(pool.recognizer()) as caller:
        assert await caller.say(said("do you deliver", "rms"), "the unexpected") == "do you deliver"


async def test_the_first_word_is_heard_though_the_detector_was_late(pool: SpeechPool) -> None:
    frames = said("what is your address", "rms")
    recognizer = pool.recognizer()
    late_frames = PAUSE_FRAMES + 10
    async with Caller(recognizer) as caller:
        for frame in frames[:late_frames]:
            recognizer.push(frame)
        recognizer.segment_started(None)
        for frame in frames[late_frames:]:
            recognizer.push(frame)
        recognizer.segment_ended()
        assert (await caller.answer()).text == "what is your address"


@pytest.mark.parametrize("frames", [0, 1, 100], ids=["nothing", "one frame", "two seconds"])
async def test_silence_is_no_words(pool: SpeechPool, frames: int) -> None:
    recognizer = pool.recognizer()
    async with Caller(recognizer) as caller:
        recognizer.segment_started(None)
        for _ in range(frames):
            recognizer.push(ULAW_8K.silent_frame)
        recognizer.segment_ended()
        assert (await caller.answer()).text == ""


@pytest.mark.parametrize("loudness", [30, 300, 3000])
async def test_noise_is_no_words(pool: SpeechPool, loudness: int) -> None:
    chance = random.Random(loudness)
    samples = array("h", (int(chance.gauss(0, loudness)) for _ in range(16000)))
    sound = converter(SLIN_8K, ULAW_8K)(samples.tobytes())
    frames = [sound[at : at + 160] for at in range(0, len(sound), 160)]
    async with Caller(pool.recognizer()) as caller:
        assert await caller.say(frames) == ""


async def test_every_segment_is_answered_in_order_though_they_follow_at_once(pool: SpeechPool) -> None:
    texts = ("do you deliver", "are you a robot", "please call me back")
    recognizer = pool.recognizer()
    async with Caller(recognizer) as caller:
        for text in texts:
            recognizer.segment_started(None)
            for frame in said(text, "rms"):
                recognizer.push(frame)
            recognizer.segment_ended()
        heard = [await caller.answer() for _ in texts]
    assert heard == [Transcript(text, final=True) for text in texts]


async def test_what_is_said_before_the_line_to_the_worker_stands_is_not_lost(pool: SpeechPool) -> None:
    recognizer = pool.recognizer()
    recognizer.segment_started(None)
    for frame in said("where can i park my car", "rms"):
        recognizer.push(frame)
    recognizer.segment_ended()
    async with Caller(recognizer) as caller:
        assert (await caller.answer()).text == "where can i park my car"


async def test_more_callers_than_decoders_speak_at_once_and_the_engine_hardly_works(pool: SpeechPool) -> None:
    async def call(nth: int) -> float:
        texts = FAQ[nth * 6 : nth * 6 + 6]
        async with Caller(pool.recognizer()) as caller:
            return right([(text, await caller.say(said(text, VOICES[nth % 3]))) for text in texts])

    for voice in VOICES:
        for text in FAQ[:36]:
            said(text, voice)  # made before the clock runs
    worker = psutil.Process(pool.status().facts["worker_pids"][0])
    worker_before, engine_before = sum(worker.cpu_times()[:2]), time.process_time()
    shares = await asyncio.gather(*(call(nth) for nth in range(6)))
    engine_s, worker_s = time.process_time() - engine_before, sum(worker.cpu_times()[:2]) - worker_before
    assert sum(shares) / len(shares) >= 0.8
    assert engine_s < worker_s / 3
