"""A whole conversation with the local agent: speech in, speech out, through a real Asterisk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from testkit.caller import SipCaller
from testkit.conversing import Ear, say
from testkit.engine import EngineProcess
from testkit.hearing import is_voice
from testkit.speech import noise, speak
from tests.calls.conftest import LineFactory

pytestmark = pytest.mark.asterisk

QUIET_S = 1.0
"""Silence of the agent after which it has finished."""
COUGH = noise(150, seed=1)
SILENCE = b"\x7f\xff"
"""The two zeros of μ-law."""


@dataclass(frozen=True)
class Rendition:
    """Something as the agent said it once."""

    sound: bytes
    """Without the silence in and around it."""
    duration_ms: int
    """From its first voice to its last."""


class Conversation:
    """A caller who takes turns by ear, and what the engine's log says about them."""

    def __init__(self, call: SipCaller, engine: EngineProcess) -> None:
        self.call = call
        self.ear = Ear(call)
        self._engine = engine
        self._told = 0

    async def ask(self, words: str) -> float:
        """Says something; returns when the answer to it began."""
        said = await say(self.call, speak(words))
        return await self.ear.wait_for_voice(after=max(said.last_voice_at, self.ear.last_voice_at))

    async def listen(self) -> list[dict[str, Any]]:
        """Hears the agent out; returns what it has said since the last time."""
        await self.ear.wait_for_quiet(QUIET_S)
        lines = self._engine.logged("agent_said")
        new, self._told = lines[self._told :], len(lines)
        return new

    def heard_since(self, moment: float) -> Rendition:
        packets = [packet.payload for packet in self.call.received if packet.arrived_at >= moment and packet.is_sound]
        voiced = [number for number, payload in enumerate(packets) if is_voice(payload)]
        sound = b"".join(packets).translate(None, delete=SILENCE)
        return Rendition(sound, 20 * (voiced[-1] - voiced[0] + 1))


def text_of(lines: list[dict[str, Any]]) -> str:
    return " ".join(line["text"] for line in lines)


async def test_a_conversation(open_line: LineFactory) -> None:
    async with open_line(settings={"default_provider": "local"}) as line, line.caller() as call:
        engine: EngineProcess = line.engine
        await call.dial()
        talk = Conversation(call, engine)
        await talk.ear.wait_for_voice(after=0)
        assert "How can I help you" in text_of(await talk.listen())

        # A question is understood and answered.
        began = await talk.ask("What are your opening hours?")
        answer = await talk.listen()
        assert "Monday to Friday" in text_of(answer)
        whole = talk.heard_since(began)
        assert await engine.metric("ai_agent_false_barge_ins_total") == 0

        # A cough holds the same answer for a moment, and not a sample of it is lost.
        began = await talk.ask("What are your opening hours?")
        await call.speak(COUGH).done
        coughed = await talk.listen()
        assert text_of(coughed) == text_of(answer)
        assert await engine.metric("ai_agent_false_barge_ins_total") == 1
        assert await engine.metric("ai_agent_barge_ins_total") == 0
        held = talk.heard_since(began)
        assert held.duration_ms >= whole.duration_ms + len(COUGH) // 8, "it was held"
        assert held.sound == whole.sound, "and went on with the very next sample"

        # A caller who speaks stops it, and is answered.
        await talk.ask("How much does it cost?")
        await asyncio.sleep(1.0)
        await talk.ask("Where are you located?")
        cut, *answer = await talk.listen()
        assert cut["interrupted"]
        assert "student" not in cut["text"], "the end of the long answer was never heard"
        assert "12 Green Street" in text_of(answer)
        assert not any(said["interrupted"] for said in answer)
        assert await engine.metric("ai_agent_barge_ins_total") == 1

        # It says goodbye, and hangs up once that was heard.
        await talk.ask("Goodbye.")
        await call.wait_ended(15)
        assert call.ended_by == "callee"
        await engine.wait_for_log("call_ended", reason="agent_hung_up")
        farewell = engine.logged("agent_said")[-1]
        assert farewell["text"].endswith("Goodbye.")
        assert not farewell["interrupted"]
        assert not engine.logged("clip_played"), "no filler was needed"
        await line.nothing_left()
