"""The provider against the double of the API, over a real socket."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from openai_support import CONTEXT, SILENCE, VOICE, Conversation, conversation
from pydantic import SecretStr

from audio.formats import ULAW_8K
from providers.base import (
    AgentItemDone,
    AgentText,
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerText,
    ProviderError,
    ProviderEvent,
    ProviderWarned,
    Ready,
    ReplyEnded,
    Tool,
    ToolCalled,
)
from providers.openai_realtime import (
    OpenAIRealtimeConfig,
    OpenAIRealtimeFactory,
    OpenAIRealtimeProvider,
    TurnDetection,
)
from providers.openai_realtime.provider import HELD_MS
from testkit.openai_realtime import FunctionCall, OpenAIRealtimeDouble, Reply, Script, Session
from testkit.waiting import wait_until

GREETING = random.Random(1).randbytes(8 * 1500)
ANSWER = random.Random(2).randbytes(8 * 2100 + 37)
SCRIPT = Script(
    greeting=Reply(audio=GREETING, transcript="Good morning!"),
    replies=(Reply(audio=ANSWER, transcript="We are open till six."),),
    caller_texts=("When do you close?",),
    speech_stopped_after_ms=100,
    burst_factor=None,
)
MANUAL = TurnDetection(type="none")

StartDouble = Callable[..., Any]


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    known = {*before, asyncio.current_task()}
    await wait_until(lambda: not asyncio.all_tasks() - known, what="the end of all tasks")


@pytest.fixture
async def start_double() -> AsyncIterator[StartDouble]:
    """Starts doubles; none may have seen a violation of the protocol by the time the test ends."""
    doubles: list[OpenAIRealtimeDouble] = []

    async def start(script: Script = SCRIPT, **options: Any) -> OpenAIRealtimeDouble:
        double = OpenAIRealtimeDouble(script.model_copy(update=options))
        await double.start()
        doubles.append(double)
        return double

    yield start
    for double in doubles:
        await double.stop()
        assert double.violations == []


def speak(provider: OpenAIRealtimeProvider, voice_ms: int = 200, silence_ms: int = 300) -> bytes:
    """The caller says something; returns what was pushed."""
    frames = [VOICE] * (voice_ms // 20) + [SILENCE] * (silence_ms // 20)
    for frame in frames:
        provider.push_audio(frame)
    return b"".join(frames)


def only(double: OpenAIRealtimeDouble) -> Session:
    (session,) = double.sessions
    return session


class TestConversation:
    async def test_greets_first_without_waiting_for_anything(self, start_double: StartDouble) -> None:
        double = await start_double()
        async with conversation(double.url) as talk:
            assert await talk.sees(ReplyEnded) == ReplyEnded("completed")
            assert [event["type"] for event in only(double).received_events] == [
                "session.update",
                "response.create",
            ]
            assert [bytes(sound) for sound in talk.sink.sound.values()] == [GREETING]
            assert talk.sink.of(Ready) == [Ready()]
            assert talk.sink.of(AgentText)[-1].text == "Good morning!"
            assert only(double).model == OpenAIRealtimeConfig().model

    async def test_says_nothing_first_where_there_is_no_greeting(self, start_double: StartDouble) -> None:
        double = await start_double()
        async with conversation(double.url, replace(CONTEXT, greeting="")) as talk:
            await talk.sees(Ready)
            speak(talk.provider)
            await talk.sees(ReplyEnded)
            assert only(double).events("response.create") == []

    @pytest.mark.parametrize("pace", [{"burst_factor": None}, {"burst_factor": 6.0}, {"burst_factor": 1.0}])
    @pytest.mark.parametrize("chunk_ms", [20, 333])
    async def test_a_turn_bit_for_bit(self, start_double: StartDouble, pace: Any, chunk_ms: int) -> None:
        double = await start_double(chunk_ms=chunk_ms, **pace)
        silent = replace(CONTEXT, greeting="")
        async with conversation(double.url, silent, input_transcription_model="gpt-transcribe") as talk:
            await talk.sees(Ready)
            said = speak(talk.provider)
            await talk.sees(ReplyEnded)
            assert bytes(only(double).received_audio) == said
            assert [bytes(sound) for sound in talk.sink.sound.values()] == [ANSWER]
            assert len(talk.sink.of(AgentItemDone)) == 1
            order: list[type[ProviderEvent]] = [
                type(event) for event in talk.sink.events if not isinstance(event, AgentText)
            ]
            assert order == [
                Ready,
                CallerSpeechStarted,
                CallerSpeechStopped,
                CallerText,
                CallerText,
                AgentItemDone,
                ReplyEnded,
            ]
            assert talk.sink.of(CallerText)[-1] == CallerText("When do you close?")
            assert talk.sink.of(CallerSpeechStopped)[0].since_voice_ms == 500

    async def test_never_commits_where_the_server_owns_the_turn(self, start_double: StartDouble) -> None:
        double = await start_double()
        async with conversation(double.url) as talk:
            assert talk.provider.capabilities.owns_turns
            await talk.sees(ReplyEnded)
            speak(talk.provider)
            talk.provider.caller_turn_ended()
            await talk.sees(ReplyEnded, 2)
            assert only(double).events("input_audio_buffer.commit") == []

    async def test_says_what_it_is_told_between_replies(self, start_double: StartDouble) -> None:
        goodbye = random.Random(3).randbytes(800)
        double = await start_double(announcement=Reply(audio=goodbye, transcript="Goodbye!"))
        async with conversation(double.url) as talk:
            talk.provider.say("Goodbye!")
            await talk.sees(ReplyEnded, 2)
            assert [bytes(sound) for sound in talk.sink.sound.values()] == [GREETING, goodbye]
            create = only(double).events("response.create")[-1]
            assert "Goodbye!" in create["response"]["instructions"]

    async def test_tool_calls(self, start_double: StartDouble) -> None:
        calls = (FunctionCall(name="hours", arguments='{"day": 1}'), FunctionCall(name="prices"))
        double = await start_double(replies=(Reply(calls=calls), Reply(audio=ANSWER)))
        tools = tuple(Tool(name, "d", {"type": "object", "properties": {}}) for name in ("hours", "prices"))
        async with conversation(double.url, replace(CONTEXT, greeting="", tools=tools)) as talk:
            await talk.sees(Ready)
            speak(talk.provider)
            await talk.sees(ToolCalled, 2)
            first, second = talk.sink.of(ToolCalled)
            assert (first.name, first.arguments, second.name) == ("hours", '{"day": 1}', "prices")
            talk.provider.tool_result(second.call_id, "cheap")
            talk.provider.tool_result(first.call_id, "nine to six")
            await talk.sees(ReplyEnded, 2)
            assert only(double).errors == []
            outputs = [event["item"] for event in only(double).events("conversation.item.create")]
            assert {output["output"] for output in outputs} == {"cheap", "nine to six"}
            assert len(only(double).events("response.create")) == 1
            assert [bytes(sound) for sound in talk.sink.sound.values()] == [ANSWER]

    async def test_calls_do_not_disturb_each_other(self, start_double: StartDouble) -> None:
        double = await start_double(disconnect_after_ms=500)
        healthy = await start_double()
        async with conversation(double.url) as dying, conversation(healthy.url) as talk:
            assert (await dying.failure()).code == "connection_lost"
            await talk.sees(ReplyEnded)
            speak(talk.provider)
            await talk.sees(ReplyEnded, 2)


class TestBargeIn:
    async def interrupted(self, talk: Conversation, heard_ms: int) -> str:
        """Speaks over the agent's first item as soon as it has begun; returns its id."""
        await wait_until(lambda: bool(talk.sink.chunks), what="the agent's voice")
        item_id = talk.sink.chunks[0][0]

        def interrupt(event: ProviderEvent) -> None:
            if isinstance(event, CallerSpeechStarted):
                talk.provider.interrupt(item_id, heard_ms)

        talk.sink.on_event = interrupt
        speak(talk.provider, silence_ms=0)
        await talk.sees(CallerSpeechStarted)
        return item_id

    @pytest.mark.parametrize(("heard_ms", "ends_at_ms"), [(730, 730), (60_000, 1500), (1, 1)])
    async def test_truncates_to_what_was_heard(self, start_double: StartDouble, heard_ms: int, ends_at_ms: int) -> None:
        double = await start_double(replies=(Reply(audio=ANSWER),), greeting=Reply(audio=GREETING), chunk_ms=1500)
        async with conversation(double.url) as talk:
            item_id = await self.interrupted(talk, heard_ms)
            if ends_at_ms == 1500:  # all of it was heard, nothing to say about it
                talk.provider.say("fence")
                speak(talk.provider, voice_ms=0)
                await talk.sees(ReplyEnded, 3)
                assert only(double).truncated == []
            else:
                await wait_until(lambda: bool(only(double).truncated), what="truncation")
                cut = only(double).truncated[0]
                assert (cut.item_id, cut.audio_end_ms) == (item_id, ends_at_ms)
            assert only(double).errors == []

    async def test_amid_a_reply_that_is_still_being_made(self, start_double: StartDouble) -> None:
        double = await start_double(burst_factor=1.0, chunk_ms=40)
        async with conversation(double.url) as talk:
            item_id = await self.interrupted(talk, 60_000)
            received_ms = len(talk.sink.sound[item_id]) // 8
            assert await talk.sees(ReplyEnded) == ReplyEnded("cancelled")
            await wait_until(lambda: bool(only(double).truncated), what="truncation")
            assert only(double).truncated[0].audio_end_ms == received_ms
            assert received_ms < 1500
            assert only(double).events("response.cancel") == []
            assert only(double).errors == []
            # the conversation goes on
            speak(talk.provider, voice_ms=0)
            await talk.sees(ReplyEnded, 2)
            assert bytes(talk.sink.sound[talk.sink.chunks[-1][0]]) == ANSWER

    async def test_of_the_calls_own_making_cancels_the_response(self, start_double: StartDouble) -> None:
        double = await start_double(burst_factor=1.0, chunk_ms=40)
        async with conversation(double.url) as talk:
            await wait_until(lambda: len(talk.sink.chunks) > 2, what="the agent's voice")
            item_id = talk.sink.chunks[0][0]
            talk.provider.interrupt(item_id, 50)
            heard = len(talk.sink.chunks)
            assert await talk.sees(ReplyEnded) == ReplyEnded("cancelled")
            await wait_until(lambda: bool(only(double).truncated), what="truncation")
            assert len(talk.sink.chunks) == heard
            assert only(double).truncated[0].audio_end_ms == 50
            assert len(only(double).events("response.cancel")) == 1

    async def test_before_anything_was_heard_deletes_the_item(self, start_double: StartDouble) -> None:
        double = await start_double()
        async with conversation(double.url) as talk:
            item_id = await self.interrupted(talk, 0)
            await wait_until(lambda: only(double).deleted == [item_id], what="deletion")
            assert only(double).errors == []


class TestManualTurns:
    async def test_a_turn(self, start_double: StartDouble) -> None:
        double = await start_double()
        async with conversation(
            double.url, replace(CONTEXT, greeting=""), turn_detection=MANUAL, commit_threshold_ms=200
        ) as talk:
            assert not talk.provider.capabilities.owns_turns
            await talk.sees(Ready)
            speak(talk.provider, voice_ms=180, silence_ms=0)
            talk.provider.caller_turn_ended()
            speak(talk.provider, voice_ms=20, silence_ms=0)
            talk.provider.caller_turn_ended()
            await talk.sees(ReplyEnded)
            session = only(double)
            assert [event["type"] for event in session.received_events] == [
                "session.update",
                "input_audio_buffer.commit",
                "response.create",
            ]
            assert session.errors == []
            assert [bytes(sound) for sound in talk.sink.sound.values()] == [ANSWER]

    async def test_turns_in_quick_succession(self, start_double: StartDouble) -> None:
        double = await start_double()
        async with conversation(double.url, replace(CONTEXT, greeting=""), turn_detection=MANUAL) as talk:
            await talk.sees(Ready)
            for _ in range(4):
                speak(talk.provider, silence_ms=0)
                talk.provider.caller_turn_ended()
            await talk.sees(ReplyEnded, 2)
            session = only(double)
            # one at once, the other three together after the first was acknowledged
            assert len(session.events("input_audio_buffer.commit")) == 2
            assert session.errors == []

    async def test_a_turn_that_ended_before_the_connection_stood(self, start_double: StartDouble) -> None:
        def early(provider: OpenAIRealtimeProvider) -> None:
            speak(provider)
            provider.caller_turn_ended()

        double = await start_double()
        async with conversation(double.url, replace(CONTEXT, greeting=""), before=early, turn_detection=MANUAL) as talk:
            await talk.sees(ReplyEnded)
            assert len(only(double).events("input_audio_buffer.commit")) == 1


class TestTheCallersSound:
    async def test_what_was_said_before_the_connection_stood_arrives_first(self, start_double: StartDouble) -> None:
        sound = random.Random(4)
        early = [sound.randbytes(160) for _ in range(HELD_MS // 20)]
        late = [sound.randbytes(160) for _ in range(50)]
        double = await start_double(greeting=Reply())

        def push(provider: OpenAIRealtimeProvider) -> None:
            for frame in early:
                provider.push_audio(frame)

        async with conversation(double.url, before=push) as talk:
            await talk.sees(Ready)
            for frame in late:
                talk.provider.push_audio(frame)
            everything = b"".join(early + late)
            await wait_until(lambda: len(only(double).received_audio) >= len(everything), what="sound")
            assert bytes(only(double).received_audio) == everything
            assert talk.provider.frames_dropped == 0
            assert talk.provider.frames_sent == len(early) + len(late)

    async def test_of_too_much_of_it_the_newest_is_kept(self, start_double: StartDouble) -> None:
        sound = random.Random(5)
        frames = [sound.randbytes(160) for _ in range(HELD_MS // 20 + 17)]
        double = await start_double(greeting=Reply())

        def push(provider: OpenAIRealtimeProvider) -> None:
            for frame in frames:
                provider.push_audio(frame)

        async with conversation(double.url, before=push) as talk:
            await talk.sees(Ready)
            kept = b"".join(frames[17:])
            await wait_until(lambda: len(only(double).received_audio) >= len(kept), what="sound")
            assert bytes(only(double).received_audio) == kept
            assert talk.provider.frames_dropped == 17

    async def test_a_server_that_stops_reading_loses_the_oldest_and_recovers(self, start_double: StartDouble) -> None:
        double = await start_double(greeting=Reply())
        silent = replace(CONTEXT, greeting="")
        async with conversation(double.url, silent, turn_detection=MANUAL) as talk:
            await talk.sees(Ready)
            session = only(double)
            session.stop_reading()
            pushed = []
            while talk.provider.frames_dropped < 100:
                frame = len(pushed).to_bytes(4, "big") + bytes(156)
                pushed.append(frame)
                talk.provider.push_audio(frame)
                assert len(pushed) < 50_000, "nothing is ever dropped"
                if len(pushed) % 100 == 0:
                    await asyncio.sleep(0)
            session.resume_reading()
            await wait_until(lambda: bytes(session.received_audio[-160:]) == pushed[-1], what="the newest frame")
            talk.provider.push_audio(VOICE)
            await wait_until(lambda: bytes(session.received_audio[-160:]) == VOICE, what="live sound")

            received = bytes(session.received_audio[:-160])
            numbers = [int.from_bytes(received[at : at + 4], "big") for at in range(0, len(received), 160)]
            dropped = talk.provider.frames_dropped
            assert numbers == sorted(set(numbers)), "in order, each once"
            assert len(pushed) - len(numbers) == dropped
            gap = next(index for index, number in enumerate(numbers) if number != index)
            assert numbers[gap] - gap == dropped, "one gap, of the oldest that waited"
            assert (len(numbers) - gap) * 20 == HELD_MS


class TestTrouble:
    @pytest.mark.parametrize("status", [401, 403])
    async def test_a_wrong_key(self, start_double: StartDouble, status: int) -> None:
        double = await start_double(reject_status=status)
        async with conversation(double.url) as talk:
            assert (await talk.failure()).code == "unauthorized"

    async def test_an_overloaded_server(self, start_double: StartDouble) -> None:
        double = await start_double(reject_status=503)
        async with conversation(double.url) as talk:
            failure = await talk.failure()
            assert failure.code == "connect_failed"
            assert "503" in str(failure)

    async def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        async with conversation(f"ws://127.0.0.1:{port}/v1/realtime") as talk:
            assert (await talk.failure()).code == "connect_failed"

    async def test_no_such_host(self) -> None:
        async with conversation("ws://no-such-host.invalid/v1/realtime") as talk:
            assert (await talk.failure()).code == "connect_failed"

    @pytest.mark.parametrize("how", ["accepts", "upgrades"])
    async def test_a_server_that_never_answers(
        self, start_double: StartDouble, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("providers.openai_realtime.provider.CONNECT_TIMEOUT_S", 0.2)
        double = await start_double(never_answers=how)
        async with conversation(double.url) as talk:
            assert (await talk.failure()).code == "connect_timeout"
        if how == "upgrades":
            await wait_until(lambda: not only(double).is_open, what="the end of the connection")

    async def test_a_server_that_dies_mid_reply(self, start_double: StartDouble) -> None:
        double = await start_double(disconnect_after_ms=700)
        async with conversation(double.url) as talk:
            failure = await talk.failure()
            assert failure.code == "connection_lost"
            assert "1011" in str(failure)
            assert b"".join(talk.sink.sound.values()) == GREETING[: 700 * 8]

    async def test_a_connection_that_is_cut(self, start_double: StartDouble) -> None:
        double = await start_double(disconnect_after_ms=700, disconnect_code=1006)
        async with conversation(double.url) as talk:
            assert (await talk.failure()).code == "connection_lost"

    async def test_a_session_that_has_lasted_an_hour(self, start_double: StartDouble) -> None:
        reason = "Your session hit the maximum duration of 60 minutes."
        double = await start_double(disconnect_after_ms=700, disconnect_code=1001, disconnect_reason=reason)
        async with conversation(double.url) as talk:
            assert (await talk.failure()).code == "session_expired"

    async def test_the_error_that_announces_it(self, start_double: StartDouble) -> None:
        error = {"type": "invalid_request_error", "code": "session_expired", "message": "one hour"}
        double = await start_double(error=error)
        async with conversation(double.url) as talk:
            assert (await talk.failure()).code == "session_expired"
        await wait_until(lambda: not only(double).is_open, what="the end of the connection")

    async def test_a_server_that_closes_in_good_order(self, start_double: StartDouble) -> None:
        double = await start_double(disconnect_after_ms=700, disconnect_code=1000)
        async with conversation(double.url) as talk:
            await asyncio.wait({talk.task}, timeout=5)
            assert talk.task.done()
            assert talk.task.exception() is None

    async def test_errors_of_the_api_do_not_end_the_call(self, start_double: StartDouble) -> None:
        error = {"type": "server_error", "code": "rate_limit_exceeded", "message": "slow down"}
        double = await start_double(error=error)
        async with conversation(double.url) as talk:
            await talk.sees(ReplyEnded)
            assert talk.sink.of(ProviderWarned) == [ProviderWarned("rate_limit_exceeded", "slow down")]
            speak(talk.provider)
            await talk.sees(ReplyEnded, 2)

    async def test_garbage_does_not_end_the_call(self, start_double: StartDouble) -> None:
        double = await start_double(garbage=("invalid_json", "wrong_types", "unknown_events", "binary"))
        async with conversation(double.url) as talk:
            await talk.sees(ReplyEnded)
            assert bytes(talk.sink.sound[talk.sink.chunks[0][0]]) == GREETING
            assert talk.provider.warnings > 10
            assert talk.provider.unknown_events == 2

    async def test_a_server_that_sends_only_garbage_is_given_up(self, start_double: StartDouble) -> None:
        double = await start_double(garbage=("invalid_json", "wrong_types") * 5)
        async with conversation(double.url) as talk:
            assert (await talk.failure()).code == "protocol_error"
        await wait_until(lambda: not only(double).is_open, what="the end of the connection")

    async def test_a_message_of_absurd_size(self, start_double: StartDouble) -> None:
        double = await start_double(garbage=("huge",))
        async with conversation(double.url) as talk:
            assert (await talk.failure()).code == "protocol_error"

    async def test_a_reply_that_stalls_leaves_the_call_alive(self, start_double: StartDouble) -> None:
        double = await start_double(stall_after_ms=500)
        async with conversation(double.url) as talk:
            await wait_until(lambda: sum(map(len, talk.sink.sound.values())) == 500 * 8, what="half a greeting")
            speak(talk.provider, silence_ms=0)
            await talk.sees(CallerSpeechStarted)
            assert not talk.task.done()

    async def test_trouble_in_the_call_ends_the_provider_with_an_error(self, start_double: StartDouble) -> None:
        double = await start_double()
        async with conversation(double.url) as talk:

            def broken(item_id: str, chunk: bytes) -> None:
                raise LookupError("the call's own bug")

            talk.sink.audio = broken  # type: ignore[method-assign]
            failure = await talk.failure()
            assert failure.code == "internal_error"
            assert isinstance(failure.__cause__, LookupError)
        await wait_until(lambda: not only(double).is_open, what="the end of the connection")

    async def test_cancelling_closes_the_connection(self, start_double: StartDouble) -> None:
        double = await start_double(burst_factor=1.0)
        async with conversation(double.url) as talk:
            await wait_until(lambda: bool(talk.sink.chunks), what="the agent's voice")
            talk.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await talk.task
            await wait_until(lambda: not only(double).is_open, what="the end of the connection")
            assert only(double).close_code == 1000
            talk.provider.push_audio(SILENCE)
            talk.provider.interrupt(talk.sink.chunks[0][0], 10)
            talk.provider.say("too late")
            talk.provider.tool_result("c1", "too late")

    async def test_cancelling_closes_a_connection_that_is_half_open(self) -> None:
        asked, gone = asyncio.Event(), asyncio.Event()

        async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(4096):
                asked.set()
            gone.set()
            writer.close()

        async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with conversation(f"ws://127.0.0.1:{port}/v1/realtime") as talk:
                await asyncio.wait_for(asked.wait(), 5)
                talk.task.cancel()
                await asyncio.wait_for(gone.wait(), 5)

    async def test_a_server_that_hangs_up_during_the_handshake(self) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(4096)
            writer.close()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with conversation(f"ws://127.0.0.1:{port}/v1/realtime") as talk:
                assert (await talk.failure()).code == "connect_failed"


class TestFactory:
    async def test_without_a_key(self) -> None:
        for key in (None, SecretStr("")):
            factory = OpenAIRealtimeFactory(OpenAIRealtimeConfig(), key)
            await factory.start()
            assert not factory.status().ready
            assert factory.status().detail == "OPENAI_API_KEY is not set"
            with pytest.raises(ProviderError) as failure:
                factory.create(CONTEXT)
            assert failure.value.code == "unauthorized"
            await factory.close()

    async def test_with_a_key(self) -> None:
        factory = OpenAIRealtimeFactory(OpenAIRealtimeConfig(), SecretStr("sk-secret"))
        assert factory.name == "openai_realtime"
        assert factory.status().ready
        provider = factory.create(CONTEXT)
        assert provider.capabilities.input_format == provider.capabilities.output_format == ULAW_8K
        assert "sk-secret" not in repr(vars(provider)) + repr(vars(factory)) + repr(factory.status())
