"""The double of the OpenAI Realtime API: strict with both sides, and as particular as the real one."""

from __future__ import annotations

import asyncio
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect

from testkit.openai_realtime import FunctionCall, OpenAIRealtimeDouble, Reply, Script
from testkit.openai_realtime.validation import CLIENT_EVENTS, SERVER_EVENTS, problems
from testkit.openai_realtime.voice import Edge, VoiceDetector
from testkit.waiting import wait_until

VOICE = b"\x80\x00" * 80
SILENCE = b"\xff" * 160
HEADERS = {"Authorization": "Bearer key"}


class Client:
    """A client of another make, that says what it is told."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []
        self._number = 0

    async def send(self, kind: str, **fields: Any) -> str:
        self._number += 1
        event_id = f"e{self._number}"
        await self.connection.send(orjson.dumps({"type": kind, "event_id": event_id, **fields}).decode())
        return event_id

    async def say(self, sound: bytes) -> None:
        for start in range(0, len(sound), 160):
            audio = b64encode(sound[start : start + 160]).decode()
            await self.send("input_audio_buffer.append", audio=audio)

    async def until(self, kind: str) -> dict[str, Any]:
        """Reads up to the next event of that type."""
        async with asyncio.timeout(5):
            while True:
                event: dict[str, Any] = orjson.loads(await self.connection.recv())
                self.events.append(event)
                if event["type"] == kind:
                    return event

    async def settle(self, **session: Any) -> None:
        await self.send("session.update", session={"type": "realtime", **session})
        await self.until("session.updated")


@pytest.fixture
async def double() -> AsyncIterator[OpenAIRealtimeDouble]:
    async with OpenAIRealtimeDouble(Script(burst_factor=None)) as running:
        yield running


@pytest.fixture
async def client(double: OpenAIRealtimeDouble) -> AsyncIterator[Client]:
    async with connect(f"{double.url}?model=m", additional_headers=HEADERS) as connection:
        yield Client(connection)


def script(double: OpenAIRealtimeDouble, **fields: Any) -> None:
    double.script = double.script.model_copy(update=fields)
    for session in double.sessions:
        session.script = double.script


MANUAL = {"audio": {"input": {"turn_detection": None}}}


class TestValidation:
    @pytest.mark.parametrize(
        "event",
        [
            {"type": "response.cancel"},
            {"type": "response.cancel", "response_id": "r"},
            {"type": "input_audio_buffer.append", "audio": "AAAA"},
            {
                "type": "session.update",
                "session": {"type": "realtime", "audio": {"input": {"turn_detection": None}}},
            },
        ],
    )
    def test_lets_good_events_pass(self, event: dict[str, Any]) -> None:
        assert problems(CLIENT_EVENTS, event["type"], orjson.dumps(event)) == []

    @pytest.mark.parametrize(
        ("event", "complaint"),
        [
            ({"type": "response.cancle"}, "no type"),
            ({"type": "response.cancel", "responseid": "r"}, "responseid: unknown key"),
            ({"type": "response.cancel", "response_id": 7}, "response_id"),
            ({"type": "input_audio_buffer.append"}, "audio: Field required"),
            (
                {
                    "type": "conversation.item.truncate",
                    "item_id": "i",
                    "content_index": 0,
                    "audio_end_ms": "5",
                },
                "audio_end_ms",
            ),
            (
                {"type": "session.update", "session": {"type": "realtime", "temperature": 0.8}},
                "session.temperature",
            ),
            (
                {
                    "type": "session.update",
                    "session": {"type": "realtime", "audio": {"input": {"fromat": {}}}},
                },
                "session.audio.input.fromat: unknown key",
            ),
            (
                {
                    "type": "session.update",
                    "session": {
                        "type": "realtime",
                        "audio": {"input": {"turn_detection": {"type": "server_vad", "silence_ms": 5}}},
                    },
                },
                "silence_ms: unknown key",
            ),
            (
                {
                    "type": "conversation.item.create",
                    "item": {"type": "function_call_output", "call_id": "c"},
                },
                "output",
            ),
            (
                {
                    "type": "session.update",
                    "session": {
                        "type": "realtime",
                        "tools": [{"type": "function", "name": "n", "params": {}}],
                    },
                },
                "tools.0.params: unknown key",
            ),
        ],
    )
    def test_complains_of_bad_ones(self, event: dict[str, Any], complaint: str) -> None:
        assert any(complaint in problem for problem in problems(CLIENT_EVENTS, event["type"], orjson.dumps(event)))

    def test_holds_the_servers_events_to_the_same(self) -> None:
        event = {"type": "response.created", "event_id": "e", "response": {"id": "r", "state": "x"}}
        assert problems(SERVER_EVENTS, event["type"], orjson.dumps(event)) == [
            "response.created: response.state: unknown key"
        ]

    async def test_violations_of_the_client_are_noted(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        await client.send("session.update", session={"type": "realtime", "voice": "marin"})
        await client.until("session.updated")
        assert any("session.voice: unknown key" in violation for violation in double.violations)

    async def test_violations_of_the_double_are_noted(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        await client.settle()
        double.sessions[0].emit("response.created", response={"id": 5})
        await client.until("response.created")
        assert any("the double sent: response.created" in violation for violation in double.violations)

    async def test_an_event_without_an_id_is_noted(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        await client.connection.send('{"type": "input_audio_buffer.clear"}')
        await client.until("input_audio_buffer.cleared")
        assert double.violations == ["input_audio_buffer.clear: without event_id"]

    @pytest.mark.parametrize("validate", ["all", "first_of_kind"])
    async def test_under_load_the_first_of_a_kind_is_looked_at(self, validate: Any) -> None:
        async with OpenAIRealtimeDouble(validate=validate) as double:
            async with connect(f"{double.url}?model=m", additional_headers=HEADERS) as connection:
                client = Client(connection)
                for _ in range(3):
                    await client.send("input_audio_buffer.clear", wrong=1)
                    await client.until("input_audio_buffer.cleared")
            assert len(double.violations) == (3 if validate == "all" else 1)


class TestVoiceDetector:
    def test_edges(self) -> None:
        detector = VoiceDetector(start_ms=30, stop_ms=100)
        assert detector.hear(SILENCE * 5) == []
        assert detector.hear(VOICE) == []
        assert detector.hear(VOICE) == [Edge(speaking=True, at_ms=100)]
        assert detector.hear(VOICE * 10) == []
        assert detector.hear(SILENCE * 4) == []
        assert detector.hear(VOICE + SILENCE * 4) == []
        assert detector.hear(SILENCE) == [Edge(speaking=False, at_ms=440)]

    def test_what_is_quiet(self) -> None:
        detector = VoiceDetector(start_ms=10, stop_ms=100)
        assert detector.hear(b"\xff\x7f\xce\x4e" * 400) == []
        assert detector.hear(b"\xff" * 79 + b"\xcd")  # 988 was quiet, 1052 is not


class TestServerTurns:
    async def test_a_turn(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        sound = bytes(range(256)) * 10
        script(
            double,
            replies=(Reply(audio=sound, transcript="two words"),),
            caller_texts=("hello",),
            speech_stopped_after_ms=100,
        )
        await client.settle(audio={"input": {"transcription": {"model": "m"}}})
        await client.say(VOICE * 5 + SILENCE * 10)
        await client.until("rate_limits.updated")
        kinds = [event["type"] for event in client.events]
        assert kinds[kinds.index("input_audio_buffer.speech_started") :] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "conversation.item.input_audio_transcription.delta",
            "conversation.item.input_audio_transcription.completed",
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            "response.output_audio_transcript.delta",
            *["response.output_audio.delta"] * 2,
            "response.output_audio_transcript.delta",
            *["response.output_audio.delta"] * 2,
            "response.output_audio.done",
            "response.output_audio_transcript.done",
            "response.content_part.done",
            "conversation.item.done",
            "response.output_item.done",
            "response.done",
            "rate_limits.updated",
        ]
        assert double.violations == []
        (session,) = double.sessions
        assert bytes(session.received_audio) == VOICE * 5 + SILENCE * 10
        assert [append.size_bytes for append in session.appends] == [160] * 15
        assert len(session.first_byte_sent_at) == 1

    async def test_the_caller_cuts_in(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        script(double, greeting=Reply(audio=bytes(80_000)), burst_factor=1.0)
        await client.settle()
        await client.send("response.create", response={"instructions": "hello"})
        await client.until("response.output_audio.delta")
        await client.say(VOICE * 3)
        await client.until("input_audio_buffer.speech_started")
        response = (await client.until("response.done"))["response"]
        assert (response["status"], response["status_details"]["reason"]) == ("cancelled", "turn_detected")


class TestParticularities:
    """What the real one refuses, with the code that it refuses it with."""

    async def refusal(self, client: Client, kind: str, **fields: Any) -> str:
        cause = await client.send(kind, **fields)
        error = (await client.until("error"))["error"]
        assert error["event_id"] == cause
        code: str = error["code"]
        return code

    async def test_a_second_response(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        script(double, response_delay_ms=60_000)
        await client.send("response.create")
        await client.until("response.created")
        assert await self.refusal(client, "response.create") == "conversation_already_has_active_response"

    async def test_cancelling_nothing(self, client: Client) -> None:
        assert await self.refusal(client, "response.cancel") == "response_cancel_not_active"

    async def test_cancelling(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        script(double, response_delay_ms=60_000)
        await client.send("response.create")
        response_id = (await client.until("response.created"))["response"]["id"]
        code = await self.refusal(client, "response.cancel", response_id="another")
        assert code == "response_cancel_not_active"
        await client.send("response.cancel", response_id=response_id)
        details = (await client.until("response.done"))["response"]["status_details"]
        assert details["reason"] == "client_cancelled"

    async def test_commits(self, client: Client) -> None:
        await client.settle(**MANUAL)
        await client.say(VOICE * 4)
        assert await self.refusal(client, "input_audio_buffer.commit") == "input_audio_buffer_commit_empty"
        await client.say(VOICE)
        await client.send("input_audio_buffer.commit")
        await client.until("input_audio_buffer.committed")
        assert await self.refusal(client, "input_audio_buffer.commit") == "input_audio_buffer_commit_empty"
        assert "input_audio_buffer.speech_started" not in [event["type"] for event in client.events]

    async def test_truncation(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        script(double, replies=(Reply(audio=bytes(8000)),))
        await client.send("response.create")
        item_id = (await client.until("response.output_audio.done"))["item_id"]
        place = {"item_id": item_id, "content_index": 0}
        for audio_end_ms in (0, 1001):
            refusal = self.refusal(client, "conversation.item.truncate", audio_end_ms=audio_end_ms, **place)
            assert await refusal == "invalid_value"
        await client.send("conversation.item.truncate", audio_end_ms=700, **place)
        assert (await client.until("conversation.item.truncated"))["audio_end_ms"] == 700
        code = await self.refusal(client, "conversation.item.truncate", audio_end_ms=701, **place)
        assert code == "invalid_value"
        place["item_id"] = "nobody"
        code = await self.refusal(client, "conversation.item.truncate", audio_end_ms=1, **place)
        assert code == "item_truncate_invalid_item_id"
        assert [cut.audio_end_ms for cut in double.sessions[0].truncated] == [700]

    async def test_deletion(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        script(double, replies=(Reply(audio=bytes(8000)),))
        await client.send("response.create")
        item_id = (await client.until("response.output_audio.done"))["item_id"]
        await client.send("conversation.item.delete", item_id=item_id)
        await client.until("conversation.item.deleted")
        assert await self.refusal(client, "conversation.item.delete", item_id=item_id) == (
            "item_delete_invalid_item_id"
        )

    async def test_function_calls(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        call = FunctionCall(name="look_up", arguments='{"a": 1}')
        script(double, replies=(Reply(calls=(call,)), Reply(audio=b"x")))
        await client.send("response.create")
        done = await client.until("response.function_call_arguments.done")
        assert (done["name"], done["arguments"]) == ("look_up", '{"a": 1}')
        output = (await client.until("response.done"))["response"]["output"]
        assert [item["type"] for item in output] == ["function_call"]
        item = {"type": "function_call_output", "call_id": "another", "output": "x"}
        assert await self.refusal(client, "conversation.item.create", item=item) == "invalid_tool_call_id"
        item["call_id"] = done["call_id"]
        await client.send("conversation.item.create", item=item)
        await client.until("conversation.item.done")
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        assert double.violations == []


class TestDoor:
    @pytest.mark.parametrize(
        ("headers", "query"), [({}, "?model=m"), ({"Authorization": "Basic x"}, "?model=m"), (HEADERS, "")]
    )
    async def test_who_is_not_let_in(self, double: OpenAIRealtimeDouble, headers: dict[str, str], query: str) -> None:
        from websockets.exceptions import InvalidStatus

        with pytest.raises(InvalidStatus):
            async with connect(double.url + query, additional_headers=headers):
                pass
        assert double.sessions == []

    async def test_the_beta_is_history(self, double: OpenAIRealtimeDouble) -> None:
        headers = {**HEADERS, "OpenAI-Beta": "realtime=v1"}
        async with connect(f"{double.url}?model=m", additional_headers=headers):
            assert double.violations == ["the client asked for the beta"]


class TestPace:
    async def test_real_time(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        script(double, replies=(Reply(audio=bytes(8 * 300)),), burst_factor=1.0, chunk_ms=20)
        loop = asyncio.get_running_loop()
        await client.send("response.create")
        await client.until("response.output_audio.delta")
        began = loop.time()
        await client.until("response.output_audio.done")
        assert loop.time() - began >= 0.27
        assert len([event for event in client.events if event["type"] == "response.output_audio.delta"]) == 15

    async def test_a_delay_before_the_first_sound(self, double: OpenAIRealtimeDouble, client: Client) -> None:
        script(double, replies=(Reply(audio=bytes(800)),), response_delay_ms=100)
        await client.send("response.create")
        await client.until("response.created")
        began = asyncio.get_running_loop().time()
        await client.until("response.output_audio.delta")
        assert asyncio.get_running_loop().time() - began >= 0.09


def test_a_script_survives_json() -> None:
    script = Script(greeting=Reply(audio=bytes(range(256)), transcript="é"), reject_status=401, burst_factor=None)
    assert Script.model_validate_json(script.model_dump_json()) == script


async def test_as_a_program(tmp_path: Any) -> None:
    config = tmp_path / "script.json"
    config.write_text(Script(greeting=Reply(audio=bytes(800)), burst_factor=None).model_dump_json())
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "testkit.openai_realtime", "--config", str(config), "--sound", "--events"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            url = orjson.loads(await process.stdout.readline())["url"]
            async with connect(f"{url}?model=m", additional_headers=HEADERS) as connection:
                client = Client(connection)
                await client.settle()
                await client.say(SILENCE)
                await client.send("response.create", response={"instructions": "hello"})
                await client.until("response.done")
            process.send_signal(signal.SIGTERM)
            lines = [orjson.loads(line) async for line in process.stdout]
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
    *events, stats = lines
    assert [event["received"] for event in events if "received" in event] == [
        "session.update",
        "response.create",
    ]
    assert stats["violations"] == []
    (session,) = stats["sessions"]
    assert session["received_audio"] == b64encode(SILENCE).decode()
    assert len(session["append_times"]) == len(session["first_byte_sent_at"]) == 1
    assert session["responses"] == ["completed"]


async def test_many_sessions_end_cleanly(double: OpenAIRealtimeDouble) -> None:
    script(double, greeting=Reply(audio=bytes(80_000)), burst_factor=1.0)
    before = len(asyncio.all_tasks())
    async with OpenAIRealtimeDouble(double.script) as other:
        clients = [await connect(f"{other.url}?model=m", additional_headers=HEADERS) for _ in range(5)]
        for connection in clients:
            await Client(connection).send("response.create", response={"instructions": "hello"})
        await wait_until(lambda: len(other.sessions) == 5 and all(s.responses for s in other.sessions))
    for connection in clients:
        await connection.close()
    await wait_until(lambda: len(asyncio.all_tasks()) <= before, what="the end of all tasks")
