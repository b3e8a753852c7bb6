"""OpenAI Realtime in the format nearest to the call's wire: the session, the double, and both over a socket."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest
from openai_support import CONTEXT, Wire, conversation
from pydantic import SecretStr
from websockets.asyncio.client import connect

from audio.convert import convert
from audio.formats import ALAW_8K, SLIN_8K, SLIN_16K, SLIN_24K, ULAW_8K, AudioFormat
from providers.base import CallerSpeechStarted, CallerSpeechStopped, Ready, ReplyEnded
from providers.openai_realtime import OpenAIRealtimeConfig, OpenAIRealtimeProvider
from providers.openai_realtime.provider import HELD_MS
from providers.openai_realtime.sound import DECLARATIONS, nearest
from testkit.openai_realtime import OpenAIRealtimeDouble, Reply, Script, Session
from testkit.speech import tone
from testkit.waiting import wait_until

PCM = {"type": "audio/pcm", "rate": 24000}
PCMA = {"type": "audio/pcma"}
PCMU = {"type": "audio/pcmu"}
SPOKEN = (ULAW_8K, ALAW_8K, SLIN_24K)
every_format = pytest.mark.parametrize("spoken", SPOKEN, ids=str)


def context(wire: AudioFormat, **fields: Any) -> Any:
    return replace(CONTEXT, greeting="", wire=wire, **fields)


def sound(audio_format: AudioFormat, duration_ms: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(audio_format.size_bytes(duration_ms))


@pytest.mark.parametrize(
    ("wire", "spoken", "declared"),
    [
        (ULAW_8K, ULAW_8K, PCMU),
        (ALAW_8K, ALAW_8K, PCMA),
        (SLIN_8K, ULAW_8K, PCMU),
        (SLIN_16K, SLIN_24K, PCM),
        (SLIN_24K, SLIN_24K, PCM),
    ],
    ids=str,
)
def test_the_session_speaks_what_is_nearest_to_the_wire(
    wire: AudioFormat, spoken: AudioFormat, declared: dict[str, Any]
) -> None:
    session = Wire(context(wire))
    (update,) = session.sent("session.update")
    assert update["session"]["audio"]["input"]["format"] == declared
    assert update["session"]["audio"]["output"]["format"] == declared
    assert session.session.audio_format == spoken
    assert nearest(wire) == spoken


def test_a_call_that_names_no_wire_is_one_of_mu_law() -> None:
    assert CONTEXT.wire == ULAW_8K


@every_format
class TestSizes:
    def reply(self, spoken: AudioFormat) -> Wire:
        """A response with one second of sound."""
        session = Wire(context(spoken))
        session.response_created()
        session.sound(sound(spoken, 1000))
        session.sound_done()
        session.response_done()
        session.messages.clear()
        return session

    @pytest.mark.parametrize(("heard_ms", "ends_at_ms"), [(1, 1), (640, 640), (999, 999)])
    def test_an_item_ends_where_the_caller_stopped_listening(
        self, spoken: AudioFormat, heard_ms: int, ends_at_ms: int
    ) -> None:
        session = self.reply(spoken)
        session.session.interrupt("i1", heard_ms)
        assert [event["audio_end_ms"] for event in session.messages] == [ends_at_ms]

    def test_what_was_heard_to_the_end_is_left_alone(self, spoken: AudioFormat) -> None:
        session = self.reply(spoken)
        session.session.interrupt("i1", 1000)
        assert session.messages == []

    def test_a_turn_is_committed_from_its_threshold_on(self, spoken: AudioFormat) -> None:
        session = Wire(context(spoken), turn_detection={"type": "none"}, commit_threshold_ms=160)
        frame = spoken.silent_frame
        for _ in range(7):
            session.session.append(frame)
        session.session.caller_turn_ended()
        assert session.sent("input_audio_buffer.commit") == []
        session.session.append(frame)
        session.session.caller_turn_ended()
        assert len(session.sent("input_audio_buffer.commit")) == 1

    def test_as_much_of_the_caller_is_kept_while_nothing_can_be_sent(self, spoken: AudioFormat) -> None:
        provider = OpenAIRealtimeProvider(OpenAIRealtimeConfig(), context(spoken), SecretStr("key"))
        for _ in range(HELD_MS // 20):
            provider.push_audio(spoken.silent_frame)
        assert provider.frames_dropped == 0
        provider.push_audio(spoken.silent_frame)
        assert provider.frames_dropped == 1


@asynccontextmanager
async def doubled(**script: Any) -> AsyncIterator[OpenAIRealtimeDouble]:
    """A double that must find nothing wrong with either side."""
    async with OpenAIRealtimeDouble(Script(speech_stopped_after_ms=100, burst_factor=None, **script)) as double:
        yield double
    assert double.violations == []


def speech(spoken: AudioFormat) -> bytes:
    """A third of a second of voice between two silences."""
    ulaw = b"\xff" * 1600 + tone(700, 320) + b"\xff" * 3200
    return convert(ulaw, ULAW_8K, spoken)


def speak(push: Callable[[bytes], None], spoken: AudioFormat) -> bytes:
    said = speech(spoken)
    for start in range(0, len(said), spoken.frame_bytes):
        push(said[start : start + spoken.frame_bytes])
    return said


@every_format
class TestOverASocket:
    async def test_a_turn_is_heard_and_answered_bit_for_bit(self, spoken: AudioFormat) -> None:
        answer = sound(spoken, 1333)
        async with (
            doubled(replies=(Reply(audio=answer, audio_format=spoken),), chunk_ms=70) as double,
            conversation(double.url, context(spoken)) as talk,
        ):
            assert talk.provider.capabilities.input_format == talk.provider.capabilities.output_format == spoken
            await talk.sees(Ready)
            said = speak(talk.provider.push_audio, spoken)
            await talk.sees(CallerSpeechStarted)
            await talk.sees(CallerSpeechStopped)
            await talk.sees(ReplyEnded)
            (session,) = double.sessions
            assert (session.input_format, session.output_format) == (spoken, spoken)
            assert bytes(session.received_audio) == said
            assert [bytes(heard) for heard in talk.sink.sound.values()] == [answer]
            assert double.stats()["sessions"][0]["received_audio_ms"] == 920

    async def test_an_answer_of_another_format_is_spoken_in_that_of_the_session(self, spoken: AudioFormat) -> None:
        answer = tone(440, 900)
        async with (
            doubled(replies=(Reply(audio=answer),)) as double,
            conversation(double.url, context(spoken)) as talk,
        ):
            await talk.sees(Ready)
            speak(talk.provider.push_audio, spoken)
            await talk.sees(ReplyEnded)
            assert [bytes(heard) for heard in talk.sink.sound.values()] == [convert(answer, ULAW_8K, spoken)]

    async def test_what_the_caller_did_not_hear_is_cut_off(self, spoken: AudioFormat) -> None:
        answer = Reply(audio=sound(spoken, 2000), audio_format=spoken)
        async with (
            doubled(replies=(answer,)) as double,
            conversation(double.url, context(spoken)) as talk,
        ):
            await talk.sees(Ready)
            speak(talk.provider.push_audio, spoken)
            await talk.sees(ReplyEnded)
            item_id = talk.sink.chunks[0][0]
            talk.provider.interrupt(item_id, 730)
            (session,) = double.sessions
            await wait_until(lambda: bool(session.truncated), what="truncation")
            assert session.truncated[0].audio_end_ms == 730
            assert session.items[item_id].sound == answer.audio[: spoken.size_bytes(730)]
            assert session.errors == []

    async def test_the_calls_own_turns_are_committed(self, spoken: AudioFormat) -> None:
        async with (
            doubled(replies=(Reply(audio=tone(440, 200)),)) as double,
            conversation(double.url, context(spoken), turn_detection={"type": "none"}) as talk,
        ):
            await talk.sees(Ready)
            speak(talk.provider.push_audio, spoken)
            talk.provider.caller_turn_ended()
            await talk.sees(ReplyEnded)
            (session,) = double.sessions
            assert len(session.events("input_audio_buffer.commit")) == 1
            assert session.errors == []


class TestTheDouble:
    async def settled(self, double: OpenAIRealtimeDouble, *declared: dict[str, Any]) -> Session:
        headers = {"Authorization": "Bearer key"}
        async with connect(f"{double.url}?model=m", additional_headers=headers) as connection:
            for number, one in enumerate(declared):
                session = {"type": "realtime", "audio": {"input": {"format": one, "turn_detection": None}}}
                event = {"type": "session.update", "event_id": f"e{number}", "session": session}
                await connection.send(orjson.dumps(event).decode())
                append = {"type": "input_audio_buffer.append", "event_id": f"a{number}", "audio": "AAAA"}
                await connection.send(orjson.dumps(append).decode())
            await wait_until(lambda: bool(double.sessions) and len(double.sessions[0].appends) == len(declared))
        return double.sessions[0]

    @pytest.mark.parametrize("declared", [dict(declaration) for declaration in DECLARATIONS.values()], ids=str)
    async def test_knows_the_formats_of_the_api(self, declared: dict[str, Any]) -> None:
        async with doubled() as double:
            session = await self.settled(double, declared)
            assert DECLARATIONS[session.input_format] == declared

    @pytest.mark.parametrize(
        "declared",
        [{"type": "audio/pcm"}, {"type": "audio/pcm", "rate": 16000}, {"type": "audio/pcmu", "rate": 8000}, {}],
        ids=str,
    )
    async def test_notes_what_the_api_would_not_take(self, declared: dict[str, Any]) -> None:
        async with OpenAIRealtimeDouble() as double:
            await self.settled(double, declared)
        assert any("audio.input.format" in violation for violation in double.violations)

    async def test_notes_a_format_that_changes_amid_the_sound(self) -> None:
        async with OpenAIRealtimeDouble() as double:
            await self.settled(double, PCMU, PCM)
        assert "audio.input.format: changed amid the caller's sound" in double.violations

    def test_a_script_with_wideband_sound_survives_json(self) -> None:
        script = Script(replies=(Reply(audio=b"\x01\x02", audio_format=SLIN_24K),))
        assert Script.model_validate_json(script.model_dump_json()) == script

    @every_format
    async def test_commits_need_a_tenth_of_a_second_of_sound(self, spoken: AudioFormat) -> None:
        """Which a client that counted bytes of another format would get wrong."""
        async with (
            doubled() as double,
            conversation(double.url, context(spoken), turn_detection={"type": "none"}, commit_threshold_ms=100) as talk,
        ):
            await talk.sees(Ready)
            for _ in range(4):
                talk.provider.push_audio(spoken.silent_frame)
            talk.provider.caller_turn_ended()
            talk.provider.push_audio(spoken.silent_frame)
            talk.provider.caller_turn_ended()
            await talk.sees(ReplyEnded)
            (session,) = double.sessions
            assert len(session.events("input_audio_buffer.commit")) == 1
            assert session.errors == []
