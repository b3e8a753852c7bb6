"""The session with the Realtime API, without a socket."""

from __future__ import annotations

from dataclasses import replace

import pytest
from openai_support import CONTEXT, SILENCE, Wire

from providers.base import (
    AgentItemDone,
    AgentText,
    CallerSpeechStarted,
    CallerSpeechStopped,
    CallerText,
    ProviderError,
    ProviderWarned,
    Ready,
    ReplyEnded,
    Tool,
    ToolCalled,
)
from providers.openai_realtime.protocol import MAX_FAULTS

QUIET_CONTEXT = replace(CONTEXT, greeting="")
MANUAL = {"type": "none"}
SECOND = bytes(range(250)) * 32


class TestStart:
    def test_settles_the_session_and_asks_for_the_greeting_without_waiting(self) -> None:
        tool = Tool("transfer", "Hands the caller over.", {"type": "object", "properties": {}})
        wire = Wire(replace(CONTEXT, tools=(tool,)), voice="cedar", input_transcription_model="gpt-transcribe")

        update, create = wire.messages
        assert update["session"] == {
            "type": "realtime",
            "output_modalities": ["audio"],
            "instructions": CONTEXT.prompt,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcmu"},
                    "turn_detection": {
                        "type": "server_vad",
                        "threshold": 0.5,
                        "silence_duration_ms": 500,
                        "create_response": True,
                        "interrupt_response": True,
                    },
                    "transcription": {"model": "gpt-transcribe"},
                },
                "output": {"format": {"type": "audio/pcmu"}, "voice": "cedar"},
            },
            "tools": [
                {
                    "type": "function",
                    "name": "transfer",
                    "description": "Hands the caller over.",
                    "parameters": {"type": "object", "properties": {}},
                }
            ],
        }
        assert create["type"] == "response.create"
        assert CONTEXT.greeting in create["response"]["instructions"]

    def test_a_call_that_may_not_be_interrupted_tells_the_server_so(self) -> None:
        (update, *_) = Wire(replace(CONTEXT, interruptible=False)).messages
        assert update["session"]["audio"]["input"]["turn_detection"]["interrupt_response"] is False

    def test_says_nothing_where_there_is_no_greeting(self) -> None:
        assert Wire(QUIET_CONTEXT).sent_kinds() == ["session.update"]

    @pytest.mark.parametrize(
        ("turns", "expected"),
        [
            (
                {"type": "semantic_vad", "eagerness": "high"},
                {
                    "type": "semantic_vad",
                    "eagerness": "high",
                    "create_response": True,
                    "interrupt_response": True,
                },
            ),
            (MANUAL, None),
        ],
    )
    def test_turn_detection(self, turns: dict[str, str], expected: object) -> None:
        wire = Wire(turn_detection=turns)
        assert wire.messages[0]["session"]["audio"]["input"]["turn_detection"] == expected

    def test_words_of_any_kind_survive_the_way_into_json(self) -> None:
        words = 'He said: "caf\u00e9"\n\\ \u0001 \U0001f600'
        wire = Wire(replace(CONTEXT, greeting=words, prompt=words))
        assert wire.messages[0]["session"]["instructions"] == words
        assert words in wire.messages[1]["response"]["instructions"]

    def test_is_ready_once_the_session_is_settled(self) -> None:
        wire = Wire()
        assert wire.sink.of(Ready) == []
        wire.serve("session.updated", session={"type": "realtime"})
        wire.serve("session.updated", session={"type": "realtime"})
        wire.response_created()
        assert wire.sink.of(Ready) == [Ready()]

    def test_a_refused_session_is_the_end(self) -> None:
        wire = Wire()
        with pytest.raises(ProviderError) as failure:
            wire.error("invalid_value", wire.messages[0]["event_id"])
        assert failure.value.code == "session_refused"


class TestHearing:
    def test_a_reply(self) -> None:
        wire = Wire()
        wire.response_created()
        wire.serve(
            "response.output_item.added",
            item={"id": "i1", "type": "message", "role": "assistant", "content": []},
            output_index=0,
            response_id="r1",
        )
        wire.transcript("Good")
        wire.sound(b"\x00\x01\x02")
        wire.transcript(" morning")
        wire.sound(b"\x03")
        wire.sound_done()
        wire.serve(
            "response.output_audio_transcript.done",
            item_id="i1",
            response_id="r1",
            output_index=0,
            content_index=0,
            transcript="Good morning.",
        )
        wire.response_done()

        assert wire.sink.chunks == [("i1", b"\x00\x01\x02"), ("i1", b"\x03")]
        assert wire.sink.events == [
            Ready(),
            AgentText("i1", "Good", final=False),
            AgentText("i1", "Good morning", final=False),
            AgentItemDone("i1"),
            AgentText("i1", "Good morning.", final=True),
            ReplyEnded("completed"),
        ]

    def test_the_beta_names_mean_the_same(self) -> None:
        wire = Wire()
        place = {"item_id": "i1", "response_id": "r1"}
        wire.serve_raw({"type": "response.audio_transcript.delta", "delta": "Hi", **place})
        wire.serve_raw({"type": "response.audio.delta", "delta": "AAEC", **place})
        wire.serve_raw({"type": "response.audio.done", **place})
        wire.serve_raw({"type": "response.audio_transcript.done", "transcript": "Hi.", **place})
        wire.serve_raw({"type": "response.text.delta", "delta": "Hm", "item_id": "i2", "response_id": "r1"})
        wire.serve_raw({"type": "response.text.done", "text": "Hm.", "item_id": "i2", "response_id": "r1"})
        wire.serve_raw({"type": "conversation.item.created", "item": {"type": "message"}})

        assert wire.sink.chunks == [("i1", b"\x00\x01\x02")]
        assert wire.sink.events == [
            AgentText("i1", "Hi", final=False),
            AgentItemDone("i1"),
            AgentText("i1", "Hi.", final=True),
            AgentText("i2", "Hm", final=False),
            AgentText("i2", "Hm.", final=True),
        ]
        assert wire.session.unknown_events == 0

    def test_text_instead_of_sound(self) -> None:
        wire = Wire()
        place = {"item_id": "i1", "response_id": "r1", "output_index": 0, "content_index": 0}
        wire.serve("response.output_text.delta", delta="Hm", **place)
        wire.serve("response.output_text.done", text="Hm.", **place)
        assert wire.sink.events == [AgentText("i1", "Hm", final=False), AgentText("i1", "Hm.")]

    def test_an_item_is_done_once_and_at_the_latest_with_its_response(self) -> None:
        wire = Wire()
        wire.response_created()
        wire.sound(b"a", "i1")
        wire.sound_done("i1")
        wire.serve(
            "response.output_item.done",
            item={"id": "i1", "type": "message", "role": "assistant", "content": []},
            output_index=0,
            response_id="r1",
        )
        wire.sound(b"b", "i2")
        wire.response_done(status="cancelled")
        assert wire.sink.of(AgentItemDone) == [AgentItemDone("i1"), AgentItemDone("i2")]
        assert wire.sink.events[-1] == ReplyEnded("cancelled")

    @pytest.mark.parametrize(
        ("turns", "since_ms"),
        [({"type": "server_vad", "silence_duration_ms": 700}, 700.0), ({"type": "semantic_vad"}, 0.0)],
    )
    def test_the_callers_turn(self, turns: dict[str, object], since_ms: float) -> None:
        wire = Wire(turn_detection=turns)
        wire.speech_started()
        wire.speech_stopped()
        wire.committed()
        place = {"item_id": "caller-1", "content_index": 0}
        for delta in ("My", " name"):
            wire.serve("conversation.item.input_audio_transcription.delta", delta=delta, **place)
        wire.serve(
            "conversation.item.input_audio_transcription.completed",
            transcript="My name.",
            usage={"type": "duration", "seconds": 1.0},
            **place,
        )
        assert wire.sink.events == [
            CallerSpeechStarted(certain=True),
            CallerSpeechStopped(since_ms),
            CallerText("My", final=False),
            CallerText("My name", final=False),
            CallerText("My name.", final=True),
        ]

    def test_partial_texts_of_two_turns_do_not_mix(self) -> None:
        wire = Wire()
        for item_id in ("caller-1", "caller-2"):
            wire.serve("conversation.item.input_audio_transcription.delta", delta="Hi", item_id=item_id)
        assert wire.sink.of(CallerText) == [CallerText("Hi", final=False)] * 2

    def test_a_failed_transcription_is_a_warning(self) -> None:
        wire = Wire()
        wire.serve(
            "conversation.item.input_audio_transcription.failed",
            item_id="caller-1",
            content_index=0,
            error={"message": "no words"},
        )
        assert wire.sink.events == [ProviderWarned("transcription_failed", "no words")]

    def test_a_failed_response_is_a_warning_and_the_end_of_the_reply(self) -> None:
        wire = Wire()
        wire.response_created()
        wire.response_done(
            status="failed",
            status_details={"type": "failed", "error": {"code": "server_error", "message": "sorry"}},
        )
        assert wire.sink.events[1:] == [ProviderWarned("server_error", "sorry"), ReplyEnded("failed")]

    def test_a_response_that_fails_for_want_of_money_is_the_end(self) -> None:
        wire = Wire()
        with pytest.raises(ProviderError) as failure:
            wire.response_done(
                status="failed", status_details={"error": {"code": "insufficient_quota", "message": "pay"}}
            )
        assert failure.value.code == "unavailable"

    def test_what_the_api_may_yet_invent_is_counted_and_ignored(self) -> None:
        wire = Wire()
        wire.serve_raw({"type": "response.telepathy.delta"})
        wire.serve("rate_limits.updated", rate_limits=[])
        assert wire.session.unknown_events == 1
        assert wire.sink.events == []


class TestInterrupt:
    def reply(self, *, finished: bool = False, **config: object) -> Wire:
        """A response with one second of sound."""
        wire = Wire(QUIET_CONTEXT, **config)
        wire.response_created()
        wire.sound(SECOND)
        if finished:
            wire.sound_done()
        wire.messages.clear()
        return wire

    @pytest.mark.parametrize(
        ("heard_ms", "audio_end_ms"),
        [(1, 1), (640, 640), (999, 999), (1000, 1000), (1001, 1000), (9999, 1000)],
    )
    def test_truncates_to_what_was_heard_and_never_beyond_what_was_generated(
        self, heard_ms: int, audio_end_ms: int
    ) -> None:
        wire = self.reply()
        wire.speech_started()
        wire.session.interrupt("i1", heard_ms)
        assert wire.sent_kinds() == ["conversation.item.truncate"]
        truncate = wire.messages[0]
        assert (truncate["item_id"], truncate["content_index"]) == ("i1", 0)
        assert truncate["audio_end_ms"] == audio_end_ms

    @pytest.mark.parametrize("heard_ms", [0, -5])
    def test_deletes_what_was_not_heard_at_all(self, heard_ms: int) -> None:
        wire = self.reply(finished=True)
        wire.response_done()
        wire.session.interrupt("i1", heard_ms)
        assert [(event["type"], event["item_id"]) for event in wire.messages] == [("conversation.item.delete", "i1")]

    def test_leaves_alone_what_was_heard_to_the_end(self) -> None:
        wire = self.reply(finished=True)
        wire.response_done()
        wire.session.interrupt("i1", 1000)
        assert wire.messages == []

    def test_truncates_what_was_broken_off_even_if_all_that_came_was_heard(self) -> None:
        wire = self.reply()
        wire.speech_started()
        wire.sound_done()
        wire.response_done(status="cancelled")
        wire.session.interrupt("i1", 1000)
        assert [event["audio_end_ms"] for event in wire.messages] == [1000]

    def test_deletes_what_came_after(self) -> None:
        wire = self.reply(finished=True)
        wire.sound(b"abc", "i2")
        wire.response_done()
        wire.response_created("r2")
        wire.sound(b"def", "i3", "r2")
        wire.response_done("r2")
        wire.session.interrupt("i1", 500)
        assert [(event["type"].split(".")[-1], event["item_id"]) for event in wire.messages] == [
            ("truncate", "i1"),
            ("delete", "i2"),
            ("delete", "i3"),
        ]

    def test_spares_what_came_before(self) -> None:
        wire = self.reply(finished=True)
        wire.sound(SECOND, "i2")
        wire.session.interrupt("i2", 10)
        assert [event["item_id"] for event in wire.sent("conversation.item.truncate")] == ["i2"]
        assert wire.sent("conversation.item.delete") == []

    def test_what_came_after_is_what_sounded_later_whatever_its_words_did(self) -> None:
        wire = self.reply()
        wire.transcript("Later.", "i3")
        wire.sound(SECOND, "i2")
        wire.sound(SECOND, "i3")
        wire.messages.clear()
        wire.session.interrupt("i2", 10)
        assert [event["item_id"] for event in wire.sent("conversation.item.delete")] == ["i3"]
        chunks = len(wire.sink.chunks)
        wire.sound(SECOND, "i3")
        assert len(wire.sink.chunks) == chunks

    def test_tells_the_api_once(self) -> None:
        wire = self.reply()
        wire.session.interrupt("i1", 500)
        before = len(wire.messages)
        wire.session.interrupt("i1", 400)
        assert len(wire.messages) == before

    def test_drops_what_still_arrives(self) -> None:
        wire = self.reply()
        wire.session.interrupt("i1", 500)
        wire.sound(b"late")
        wire.sound(b"also late", "i2")
        wire.transcript("late", "i2")
        wire.sound_done()
        wire.response_done(status="cancelled")
        assert wire.sink.sound == {"i1": SECOND}
        assert wire.session.late_deltas == 2
        assert wire.sink.events[1:] == [ReplyEnded("cancelled")]

    def test_does_not_cancel_what_the_server_has_cancelled(self) -> None:
        wire = self.reply()
        wire.speech_started()
        wire.session.interrupt("i1", 500)
        assert wire.sent("response.cancel") == []

    def test_cancels_where_the_server_has_not(self) -> None:
        wire = self.reply()
        wire.session.interrupt("i1", 500)
        assert [event["response_id"] for event in wire.sent("response.cancel")] == ["r1"]
        assert wire.sent_kinds() == ["response.cancel", "conversation.item.truncate"]

    def test_cancels_nothing_when_nothing_is_generated_any_more(self) -> None:
        wire = self.reply(finished=True)
        wire.response_done()
        wire.session.interrupt("i1", 500)
        assert wire.sent_kinds() == ["conversation.item.truncate"]

    def test_hears_the_next_reply_again(self) -> None:
        wire = self.reply()
        wire.session.interrupt("i1", 500)
        wire.response_done(status="cancelled")
        wire.response_created("r2")
        wire.sound(b"next", "i2", "r2")
        assert wire.sink.chunks[-1] == ("i2", b"next")

    def test_a_reply_given_up_before_its_first_sound_does_not_start_any_more(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.speech_started()
        wire.sound(b"fragment")
        assert wire.sink.chunks == []

    def test_a_reply_that_nobody_interrupts_is_played_as_far_as_it_came(self) -> None:
        wire = self.reply()
        wire.speech_started()
        wire.sound(b"rest")
        wire.response_done(status="cancelled")
        assert wire.sink.sound["i1"] == SECOND + b"rest"
        assert wire.sink.of(AgentItemDone) == [AgentItemDone("i1")]

    def test_an_unknown_item_is_no_trouble(self) -> None:
        wire = self.reply(finished=True)
        wire.response_done()
        wire.session.interrupt("nobody", 500)
        assert wire.messages == []


class TestSay:
    def said(self, wire: Wire) -> list[str]:
        return [event["response"]["instructions"].rpartition("\n")[2] for event in wire.sent("response.create")]

    def test_at_once_when_the_agent_is_free(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.session.say("Are you there?")
        assert self.said(wire) == ["Are you there?"]

    def test_one_after_the_other(self) -> None:
        wire = Wire()
        wire.session.say("One")
        wire.session.say("Two")
        assert self.said(wire) == ["Good morning!"]
        wire.response_created("r1")
        wire.response_done("r1")
        assert self.said(wire) == ["Good morning!", "One"]
        wire.response_created("r2")
        assert self.said(wire) == ["Good morning!", "One"]
        wire.response_done("r2")
        assert self.said(wire) == ["Good morning!", "One", "Two"]

    def test_after_the_caller(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.speech_started()
        wire.session.say("Are you there?")
        wire.speech_stopped()
        assert self.said(wire) == []
        wire.response_created()
        wire.response_done()
        assert self.said(wire) == ["Are you there?"]

    def test_again_when_a_response_of_the_servers_came_first(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.session.say("Are you there?")
        wire.response_created("server's")
        wire.error("conversation_already_has_active_response", wire.messages[-1]["event_id"])
        assert self.said(wire) == ["Are you there?"]
        wire.response_done("server's")
        assert self.said(wire) == ["Are you there?"] * 2
        assert wire.sink.of(ProviderWarned) == []

    def test_not_again_when_it_was_refused_for_another_reason(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.session.say("One")
        wire.session.say("Two")
        wire.error("invalid_value", wire.messages[-1]["event_id"])
        assert self.said(wire) == ["One", "Two"]

    def test_before_the_connection_stands(self) -> None:
        wire = Wire(QUIET_CONTEXT, start=False)
        wire.session.say("One")
        wire.session.interrupt("i1", 0)
        wire.session.tool_result("c1", "{}")
        wire.session.start(wire.sink, wire.send)
        assert self.said(wire) == ["One"]


class TestCommit:
    def append(self, wire: Wire, duration_ms: int) -> None:
        for _ in range(duration_ms // 20):
            wire.session.append(SILENCE)

    def test_never_with_a_voice_detector_of_the_servers(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        self.append(wire, 1000)
        wire.session.caller_turn_ended()
        assert set(wire.sent_kinds()) == {"session.update", "input_audio_buffer.append"}

    def test_commits_and_asks_for_the_reply(self) -> None:
        wire = Wire(QUIET_CONTEXT, turn_detection=MANUAL)
        self.append(wire, 160)
        wire.session.caller_turn_ended()
        assert wire.sent_kinds()[-2:] == ["input_audio_buffer.commit", "response.create"]
        assert "response" not in wire.messages[-1]

    def test_too_little_sound_waits_for_more(self) -> None:
        wire = Wire(QUIET_CONTEXT, turn_detection=MANUAL, commit_threshold_ms=160)
        self.append(wire, 140)
        wire.session.caller_turn_ended()
        assert wire.sent("input_audio_buffer.commit") == []
        self.append(wire, 20)
        wire.session.caller_turn_ended()
        assert len(wire.sent("input_audio_buffer.commit")) == 1

    def test_never_two_at_once(self) -> None:
        wire = Wire(QUIET_CONTEXT, turn_detection=MANUAL)
        for _ in range(3):
            self.append(wire, 200)
            wire.session.caller_turn_ended()
        assert len(wire.sent("input_audio_buffer.commit")) == 1
        wire.committed()
        assert len(wire.sent("input_audio_buffer.commit")) == 2
        wire.committed()
        assert len(wire.sent("input_audio_buffer.commit")) == 2
        assert len(wire.sent("response.create")) == 1
        wire.response_created()
        wire.response_done()
        assert len(wire.sent("response.create")) == 2

    def test_refused_sound_counts_for_the_next_turn(self) -> None:
        wire = Wire(QUIET_CONTEXT, turn_detection=MANUAL)
        self.append(wire, 160)
        wire.session.caller_turn_ended()
        wire.error("input_audio_buffer_commit_empty", wire.sent("input_audio_buffer.commit")[0]["event_id"])
        wire.session.caller_turn_ended()
        assert len(wire.sent("input_audio_buffer.commit")) == 2

    def test_an_interruption_cancels_the_response(self) -> None:
        wire = Wire(QUIET_CONTEXT, turn_detection=MANUAL)
        wire.response_created()
        wire.sound(SECOND)
        wire.session.interrupt("i1", 100)
        assert wire.sent_kinds()[1:] == ["response.cancel", "conversation.item.truncate"]


class TestTools:
    def test_a_call_is_reported_and_answered_after_its_response(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.call("c1", name="look_up", arguments='{"day": "Monday"}')
        assert wire.sink.of(ToolCalled) == [ToolCalled("c1", "look_up", '{"day": "Monday"}')]
        wire.session.tool_result("c1", "closed")
        assert wire.sent_kinds() == ["session.update"]
        wire.response_done()
        output, create = wire.messages[1:]
        assert output["item"] == {"type": "function_call_output", "call_id": "c1", "output": "closed"}
        assert (create["type"], "response" in create) == ("response.create", False)

    def test_a_result_after_the_response(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.call("c1")
        wire.response_done()
        assert wire.sent_kinds() == ["session.update"]
        wire.session.tool_result("c1", "{}")
        assert wire.sent_kinds()[1:] == ["conversation.item.create", "response.create"]

    def test_several_calls_make_one_reply(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        for call_id in ("c1", "c2", "c3"):
            wire.call(call_id)
        wire.session.tool_result("c2", "2")
        wire.response_done()
        wire.session.tool_result("c3", "3")
        assert wire.sent("response.create") == []
        wire.session.tool_result("c1", "1")
        assert [event["item"]["call_id"] for event in wire.sent("conversation.item.create")] == [
            "c2",
            "c3",
            "c1",
        ]
        assert wire.sent_kinds()[-1] == "response.create"
        assert len(wire.sent("response.create")) == 1

    def test_a_name_that_only_the_announcement_tells(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.serve(
            "response.output_item.added",
            item={"type": "function_call", "id": "i9", "call_id": "c1", "name": "look_up", "arguments": ""},
            output_index=0,
            response_id="r1",
        )
        arguments_done = {"call_id": "c1", "response_id": "r1", "item_id": "i9", "arguments": "{}"}
        wire.serve_raw({"type": "response.function_call_arguments.done", **arguments_done})
        assert wire.sink.of(ToolCalled) == [ToolCalled("c1", "look_up", "{}")]

    def test_a_call_that_only_the_response_tells(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        call = {"type": "function_call", "id": "i9", "call_id": "c1", "name": "look_up", "arguments": "{}"}
        wire.response_created()
        wire.response_done(output=[call])
        assert wire.sink.events[1:] == [ToolCalled("c1", "look_up", "{}"), ReplyEnded()]
        wire.session.tool_result("c1", "x")
        assert len(wire.sent("conversation.item.create")) == 1

    def test_a_call_is_reported_once(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        call = {"type": "function_call", "id": "i9", "call_id": "c1", "name": "hang_up", "arguments": "{}"}
        wire.response_created()
        wire.call("c1")
        wire.session.tool_result("c1", "x")
        wire.response_done(output=[call])
        assert len(wire.sink.of(ToolCalled)) == 1

    def test_a_call_of_a_response_that_was_cut_is_not_made(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.sound(SECOND)
        wire.session.interrupt("i1", 100)
        wire.call("c1")
        assert wire.sink.of(ToolCalled) == []

    def test_results_that_nobody_waits_for_are_ignored(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.call("c1")
        wire.response_done()
        wire.session.tool_result("c1", "x")
        wire.session.tool_result("c1", "y")
        wire.session.tool_result("c2", "z")
        assert len(wire.sent("conversation.item.create")) == 1

    def test_a_response_of_the_servers_that_knows_the_result_tells_it(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.call("c1")
        wire.response_done()
        wire.speech_started()
        wire.session.tool_result("c1", "x")
        output = {"type": "function_call_output", "call_id": "c1", "output": "x"}
        wire.serve("conversation.item.added", item=output)
        wire.speech_stopped()
        wire.response_created("r2")
        wire.response_done("r2")
        assert wire.sent("response.create") == []

    def test_a_response_of_the_servers_that_may_not_know_the_result_does_not(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.call("c1")
        wire.response_done()
        wire.speech_started()
        wire.session.tool_result("c1", "x")
        wire.speech_stopped()
        wire.response_created("r2")
        wire.response_done("r2")
        assert len(wire.sent("response.create")) == 1


class TestTrouble:
    @pytest.mark.parametrize(
        ("code", "expected"),
        [
            ("session_expired", "session_expired"),
            ("invalid_api_key", "unauthorized"),
            ("insufficient_quota", "unavailable"),
        ],
    )
    def test_errors_that_end_the_call(self, code: str, expected: str) -> None:
        wire = Wire()
        with pytest.raises(ProviderError) as failure:
            wire.error(code)
        assert failure.value.code == expected

    def test_other_errors_are_warnings(self) -> None:
        wire = Wire()
        wire.error("server_error")
        assert wire.sink.events == [ProviderWarned("server_error", "about server_error")]
        assert wire.session.warnings == 1

    def test_an_error_without_a_code_has_its_type(self) -> None:
        wire = Wire()
        wire.serve("error", error={"type": "server_error", "message": "m"})
        assert wire.sink.events == [ProviderWarned("server_error", "m")]

    def test_what_comes_too_late_by_nature_is_no_warning(self) -> None:
        wire = Wire(QUIET_CONTEXT)
        wire.response_created()
        wire.sound(SECOND)
        wire.session.interrupt("i1", 100)
        wire.error("invalid_value", wire.sent("conversation.item.truncate")[0]["event_id"])
        wire.error("response_cancel_not_active")
        wire.error("whatever", wire.sent("response.cancel")[0]["event_id"])
        assert wire.sink.of(ProviderWarned) == []

    def test_malformed_events_are_survived_up_to_a_point(self) -> None:
        wire = Wire()
        for _ in range(MAX_FAULTS):
            wire.session.receive(b"{")
        assert {warned.code for warned in wire.sink.of(ProviderWarned)} == {"malformed_event"}
        assert wire.session.warnings == MAX_FAULTS
        with pytest.raises(ProviderError) as failure:
            wire.session.receive(b"{")
        assert failure.value.code == "protocol_error"

    def test_a_server_that_refuses_the_callers_sound_for_good_is_given_up(self) -> None:
        wire = Wire()
        for number in range(MAX_FAULTS):
            wire.error("invalid_audio", f"append-{number}")
        with pytest.raises(ProviderError):
            wire.error("invalid_audio", "append-99")

    def test_trouble_in_the_call_itself_is_not_taken_for_the_servers(self) -> None:
        class Broken:
            def audio(self, item_id: str, chunk: bytes) -> None:
                raise ValueError("the call's own bug")

            def event(self, event: object) -> None: ...

        wire = Wire(start=False)
        wire.session.start(Broken(), wire.send)
        with pytest.raises(ValueError, match="own bug"):
            wire.sound(b"x")
