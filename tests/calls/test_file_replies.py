"""Calls whose agent Asterisk plays as files, whatever brings the caller's sound; and the apology, a file as well."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from audio.formats import ULAW_8K
from engine.clips import load_clips
from engine.conversation_events import Clip
from testkit.exchange import frames, lost_frames
from testkit.hearing import find_clip
from testkit.openai_realtime import Reply, Script
from testkit.speech import noise, tone
from testkit.waiting import wait_until
from tests.calls.conftest import Line, LineFactory

pytestmark = pytest.mark.asterisk

GREETING, REPLY, LONG = noise(600, seed=1), noise(1200, seed=2), noise(20_000, seed=3)
QUESTION = noise(600, seed=4)
INTERRUPTION = tone(440, 800)
TRANSPORTS = ("audiosocket", "externalmedia", "websocket")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the sound files lie."""
    return tmp_path / "sounds"


@pytest.fixture
def open_file_line(open_line: LineFactory, folder: Path) -> LineFactory:
    """``open_line`` with replies as files."""

    def opened(script: Script, **settings: object) -> object:
        return open_line(script, settings={"downstream_mode": "file", "playback_dir": str(folder), **settings})

    return opened


async def all_clean(line: Line, folder: Path) -> None:
    await line.nothing_left()
    assert list(folder.iterdir()) == []
    assert not line.engine.logged("playback_failed")
    no_traceback(line)


def no_traceback(line: Line) -> None:
    assert not [event for event in line.engine.events if "exception" in event or "Traceback" in event["event"]]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_greeting_reply_question_and_keys(open_file_line: LineFactory, folder: Path, transport: str) -> None:
    script = Script(greeting=Reply(audio=GREETING), replies=(Reply(audio=REPLY),), speech_stopped_after_ms=200)
    async with open_file_line(script) as line:
        async with line.caller(headers={"X-AI-Transport": transport}) as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            await call.speak(QUESTION).done
            await wait_until(lambda: find_clip(call.heard(), REPLY), 10, "the reply")
            # Asterisk puts a frame of silence between the caller's where its clock and the phone's are at odds.
            assert lost_frames(line.double.sessions[0].received_audio, QUESTION) == 0
            call.dtmf("12#")
            await line.engine.wait_for_log("key_pressed", digit="#")
        await all_clean(line, folder)
        assert [event["digit"] for event in line.engine.logged("key_pressed")] == ["1", "2", "#"]
        assert line.engine.logged("wire_chosen", transport=transport)
        assert await line.engine.metric("ai_agent_underruns_total") == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_interruption(open_file_line: LineFactory, folder: Path, transport: str) -> None:
    script = Script(
        greeting=Reply(audio=LONG), replies=(Reply(audio=REPLY),), burst_factor=None, speech_stopped_after_ms=200
    )
    async with open_file_line(script) as line:
        async with line.caller(headers={"X-AI-Transport": transport}) as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), LONG[:8000]), 10, "a second of the greeting")
            call.speak(INTERRUPTION)
            await wait_until(lambda: find_clip(call.heard(), REPLY), 10, "the whole reply")
            (cut,) = await wait_until(lambda: line.double.sessions[0].truncated or None, 5, "the truncation")
            heard, said = call.heard(), list(frames(LONG))
            heard_frames = next(number for number, frame in enumerate(said) if frame not in heard)
            assert not [frame for frame in said[heard_frames + 1 :] if frame in heard], "it was over, then went on"
            assert abs(cut.audio_end_ms - 20 * heard_frames) <= 100
        await all_clean(line, folder)
        assert await line.engine.metric("ai_agent_barge_ins_total") == 1


async def test_hanging_up_in_the_middle_of_a_reply(open_file_line: LineFactory, folder: Path) -> None:
    script = Script(greeting=Reply(audio=LONG), burst_factor=None)
    async with open_file_line(script) as line:
        for frames_heard in (1, 10, 25, 50):
            async with line.caller() as call:
                await call.dial()
                until = LONG[: frames_heard * ULAW_8K.frame_bytes]
                await wait_until(partial(lambda call, until: find_clip(call.heard(), until) is not None, call, until))
                assert list(folder.iterdir())
            await all_clean(line, folder)
        assert len(line.engine.logged("call_ended", reason="caller_hung_up")) == 4
        assert await line.engine.metric("ai_agent_playback_stalls_total") == 0


async def test_a_folder_that_takes_no_files_any_more(open_file_line: LineFactory, folder: Path) -> None:
    script = Script(greeting=Reply(audio=GREETING), replies=(Reply(audio=REPLY),), announcement=Reply(audio=REPLY))
    async with open_file_line(script, conversation={"no_input_timeout_s": 1, "max_check_ins": 1}) as line:
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting")
            shutil.rmtree(folder)
            folder.write_text("in the way")
            await call.speak(QUESTION).done
            failed = await line.engine.wait_for_log("playback_failed")
            assert "could not be written" in failed["error"]
            await call.wait_ended(20)
        await line.engine.wait_for_log("call_ended", reason="no_input")
        await line.nothing_left()
        no_traceback(line)
        assert await line.engine.metric("ai_agent_playback_stalls_total") >= 1
        folder.unlink()
        folder.mkdir()
        async with line.caller() as call:
            await call.dial()
            await wait_until(lambda: find_clip(call.heard(), GREETING), 10, "the greeting of the next call")


@pytest.mark.parametrize("mode", ["stream", "file"])
async def test_a_caller_whose_sound_cannot_be_connected_hears_the_apology(
    open_line: LineFactory, folder: Path, mode: str
) -> None:
    nobody_listens = {"audiosocket": {"advertise_host": "127.0.0.2"}}
    settings = {"downstream_mode": mode, "playback_dir": str(folder), **nobody_listens}
    async with open_line(Script(), settings=settings) as line:
        async with line.caller() as call:
            await call.dial()
            await call.wait_ended(20)
            assert call.ended_by == "callee"
            assert find_clip(call.heard(), load_clips(ULAW_8K)[Clip.APOLOGY]) is not None
        assert line.engine.logged("call_set_up_failed")
        await line.engine.wait_for_log("call_ended", reason="pbx_error")
        await all_clean(line, folder)
