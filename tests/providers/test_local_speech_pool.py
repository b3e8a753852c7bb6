"""The speech workers as processes: started, shared, killed, restarted, gone."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from local_speech_corpus import said
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from providers import wyoming
from providers.base import ProviderError
from providers.local.speech.pool import SpeechPool
from testkit.waiting import wait_until

PHRASES = ("do you deliver", "where are you")
LIMIT_S = 20.0


def transcripts_of(_: object) -> None:
    """For calls whose transcripts do not matter."""


@pytest_asyncio.fixture
async def pool() -> AsyncIterator[SpeechPool]:
    pool = SpeechPool(PHRASES, workers=1)
    await pool.start()
    yield pool
    await pool.close()


@pytest_asyncio.fixture
async def worker(tmp_path: Path) -> AsyncIterator[str]:
    """A worker that runs alone; its address."""
    uri = f"unix://{tmp_path / 's'}"
    arguments = (sys.executable, "-m", "providers.local.speech.worker", "--uri", uri)
    process = await asyncio.create_subprocess_exec(*arguments, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(LIMIT_S):
            while not await wyoming.is_answering(uri):
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield uri
        assert process.returncode is None
        process.terminate()
        assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def pid(pool: SpeechPool) -> int:
    return int(pool.status().facts["worker_pids"][0])


async def hears(pool: SpeechPool) -> bool:
    """Whether a new caller is understood."""
    recognizer = pool.recognizer()
    heard: asyncio.Queue[str] = asyncio.Queue()
    running = asyncio.create_task(recognizer.run(lambda transcript: heard.put_nowait(transcript.text)))
    recognizer.segment_started(None)
    for frame in said("do you deliver", "rms"):
        recognizer.push(frame)
    recognizer.segment_ended()
    text = await asyncio.wait_for(heard.get(), LIMIT_S)
    running.cancel()
    await asyncio.wait((running,))
    return text == "do you deliver"


async def test_a_worker_killed_in_the_middle_of_a_word_fails_its_callers_and_is_replaced(pool: SpeechPool) -> None:
    recognizer = pool.recognizer()
    running = asyncio.create_task(recognizer.run(transcripts_of))
    await wait_until(lambda: pool.status().facts["connections"] == 1, what="the line stands")
    recognizer.segment_started(None)
    for frame in said("do you deliver", "rms")[:30]:
        recognizer.push(frame)
    first = pid(pool)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ProviderError) as lost:
        await asyncio.wait_for(running, LIMIT_S)
    assert lost.value.code == "recognition_lost"
    recognizer.push(ULAW_8K.silent_frame)
    recognizer.segment_ended()

    await wait_until(lambda: not pool.status().ready, LIMIT_S, "the death is noticed")
    assert await hears(pool)
    assert pid(pool) != first
    assert pool.status().facts["restarts"] == 1


async def test_a_worker_killed_in_the_middle_of_a_clause_fails_the_voice(pool: SpeechPool) -> None:
    with pytest.raises(ProviderError) as lost:
        async for _ in pool.voice().synthesize("This is a long sentence, and there is more of it. " * 50):
            if pool.status().facts["worker_pids"]:
                os.kill(pid(pool), signal.SIGKILL)
    assert lost.value.code == "voice_lost"


async def test_a_worker_that_does_not_answer_any_more_is_found_out(
    pool: SpeechPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wyoming, "_ANSWER_LIMIT_S", 0.3)
    recognizer = pool.recognizer()
    running = asyncio.create_task(recognizer.run(transcripts_of))
    await wait_until(lambda: pool.status().facts["connections"] == 1, what="the line stands")
    os.kill(pid(pool), signal.SIGSTOP)
    try:
        recognizer.segment_started(None)
        for _ in range(100_000):
            recognizer.push(ULAW_8K.silent_frame)
        recognizer.segment_ended()
        with pytest.raises(ProviderError) as stalled:
            await asyncio.wait_for(running, LIMIT_S)
        assert stalled.value.code == "recognition_stalled"
        assert recognizer.frames_dropped > 0
        with pytest.raises(ProviderError) as stalled:
            async for _ in pool.voice().synthesize("Hello?"):
                pass
        assert stalled.value.code == "voice_stalled"
    finally:
        os.kill(pid(pool), signal.SIGCONT)
    assert await hears(pool)


async def test_calls_are_shared_among_the_workers() -> None:
    pool = SpeechPool(PHRASES, workers=2)
    await pool.start()
    calls = [asyncio.create_task(pool.recognizer().run(transcripts_of)) for _ in range(6)]
    try:
        await wait_until(lambda: pool.status().facts["connections"] == 6, what="six lines stand")
        assert pool.status().facts["connections_by_worker"] == [3, 3]
    finally:
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await pool.close()


async def test_closing_leaves_no_process_and_no_file() -> None:
    pool = SpeechPool(PHRASES, workers=2)
    await pool.start()
    pids = pool.status().facts["worker_pids"]
    folder = Path(psutil.Process(pids[0]).environ()["TMPDIR"])
    assert len(pids) == 2
    assert folder.stat().st_mode & 0o777 == 0o700
    await pool.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not folder.exists()
    assert not pool.status().ready
    await pool.close()
    with pytest.raises(ProviderError) as stopped:
        await asyncio.wait_for(pool.recognizer().run(transcripts_of), LIMIT_S)
    assert stopped.value.code == "unavailable"


async def test_cancelling_the_start_leaves_no_process() -> None:
    before = set(psutil.Process().children())
    starting = asyncio.create_task(SpeechPool(PHRASES, workers=2).start())
    await wait_until(lambda: len(set(psutil.Process().children()) - before) == 2, what="the workers are born")
    starting.cancel()
    await asyncio.wait((starting,))
    assert starting.cancelled()
    assert set(psutil.Process().children()) == before


async def test_the_workers_end_when_the_engine_is_killed() -> None:
    program = (
        "import asyncio\n"
        "from providers.local.speech.pool import SpeechPool\n"
        "async def main():\n"
        "    pool = SpeechPool(['hello'], workers=2)\n"
        "    await pool.start()\n"
        "    print(*pool.status().facts['worker_pids'], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    engine = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert engine.stdout is not None
    # The log goes to the standard output as well, before the line with the numbers.
    async with asyncio.timeout(LIMIT_S):
        while not (line := await engine.stdout.readline()).split()[0].isdigit():
            pass
    workers = [psutil.Process(int(number)) for number in line.split()]
    folder = Path(workers[0].environ()["TMPDIR"])
    engine.kill()
    await engine.wait()
    await wait_until(lambda: not any(worker.is_running() for worker in workers), LIMIT_S, "the workers are gone")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("module", "code", "hint"),
    [
        ("pocketsphinx.py", "recognition_missing", "pocketsphinx"),
        ("sitecustomize.py", "voice_missing", "apt-get install flite"),
    ],
)
async def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str, hint: str
) -> None:
    missing = {
        "pocketsphinx.py": "raise ImportError('there is no such wheel')\n",
        "sitecustomize.py": (
            "import ctypes\n"
            "class NoFlite(ctypes.CDLL):\n"
            "    def __init__(self, name, *rest, **more):\n"
            "        if 'flite' in str(name):\n"
            "            raise OSError('no such file')\n"
            "        super().__init__(name, *rest, **more)\n"
            "ctypes.CDLL = NoFlite\n"
        ),
    }
    (tmp_path / module).write_text(missing[module])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), *sys.path)))
    pool = SpeechPool(PHRASES, workers=1)
    with pytest.raises(ProviderError, match=hint) as failure:
        await pool.start()
    assert failure.value.code == code
    assert not pool.status().ready


async def test_the_package_s_own_client_is_served(worker: str) -> None:
    samples = converter(ULAW_8K, SLIN_8K)(b"".join(said("yes please", "rms")))
    async with AsyncClient.from_uri(worker) as client:
        await client.write_event(Ping("anybody there?").event())
        pong = await asyncio.wait_for(client.read_event(), LIMIT_S)
        assert pong is not None
        assert Pong.from_event(pong).text == "anybody there?"

        await client.write_event(Describe().event())
        event = await asyncio.wait_for(client.read_event(), LIMIT_S)
        assert event is not None
        info = Info.from_event(event)
        models = {model.name for program in info.asr for model in program.models}
        assert {"general", "yes_no", "digits", "time", "name"} == models
        assert [voice.name for program in info.tts for voice in program.voices] == ["slt"]

        await client.write_event(Transcribe(name="yes_no").event())
        await client.write_event(AudioStart(8000, 2, 1).event())
        await client.write_event(AudioChunk(8000, 2, 1, samples).event())
        await client.write_event(AudioStop().event())
        transcript = await asyncio.wait_for(client.read_event(), LIMIT_S)
        assert transcript is not None
        assert Transcript.from_event(transcript).text == "yes please"


@pytest.mark.parametrize(("rate", "width", "channels"), [(44100, 2, 1), (8000, 1, 1), (8000, 2, 2), (0, 2, 1)])
async def test_sound_of_another_form_is_refused(worker: str, rate: int, width: int, channels: int) -> None:
    async with AsyncClient.from_uri(worker) as client:
        await client.write_event(AudioStart(rate, width, channels).event())
        await client.write_event(AudioChunk(rate, width, channels, b"\x00" * 320).event())
        event = await asyncio.wait_for(client.read_event(), LIMIT_S)
        assert event is not None
        assert Error.from_event(event).code == "unsupported_audio"


async def test_a_client_that_talks_nonsense_disturbs_nobody_else(worker: str) -> None:
    nonsense = (
        b"\x00\xff" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"[]\n{}\n",
        b'{"type":"audio-chunk"}\n',
        b'{"type":"audio-chunk","data":{"rate":"fast","width":2,"channels":1},"payload_length":3}\nabc',
        b'{"type":"transcribe","data":{"name":["a"]}}\n{"type":"audio-start"}\n{"type":"audio-stop"}\n',
        b'{"type":"synthesize","data":{"text":7}}\n',
        b'{"type":"synthesize"}\n',
        b'{"type":"audio-chunk","payload_length":99999999999}\n',
        b'{"type":"audio-start","data":{"rate":8000,"width":2,"channels":1}}\n' * 50,
    )
    async with AsyncClient.from_uri(worker) as bystander:
        for bytes_ in nonsense:
            async with wyoming.connection(worker) as (_, writer):
                writer.write(bytes_)
                await writer.drain()
            await bystander.write_event(Ping().event())
            pong = await asyncio.wait_for(bystander.read_event(), LIMIT_S)
            assert pong is not None
            assert Pong.is_type(pong.type)
