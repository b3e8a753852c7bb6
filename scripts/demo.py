"""``make demo``: a scripted caller talks with the local agent through a real Asterisk, and what came of it.

Leaves ``out/call.wav`` (caller left, agent right) and ``out/summary.md``. Exit code 0 only if the conversation
really took place: the caller was understood, the agent answered, and the interruption stopped the agent.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller
from testkit.engine import EngineProcess
from testkit.hearing import is_voice, write_call_wav
from testkit.speech import speak
from testkit.waiting import wait_until

OUT = Path("out")
VOICE = "rms"
AGENT_DONE_S = 1.2
"""Silence of the agent after which the caller takes the turn."""


@dataclass
class Line:
    """A sentence of the script."""

    text: str
    interrupts: bool = False
    """Said while the agent is speaking, instead of after it."""


SCRIPT = [
    Line("What are your opening hours?"),
    Line("How much does it cost?"),
    Line("Where are you located?", interrupts=True),
    Line("Can I speak to a person please?"),
    Line("No thank you."),
    Line("Goodbye."),
]


@dataclass
class Turn:
    """What the caller said, what was understood, and what came back when."""

    said: str
    interrupts: bool
    understood: str = ""
    answer: str = ""
    latency_ms: float | None = None
    silenced_ms: float | None = None


@dataclass
class Demo:
    """Follows the engine's log, prints it as it comes, and gathers the turns."""

    turns: list[Turn] = field(default_factory=list)
    greeting: str = ""
    agent_said: list[tuple[float, str, bool]] = field(default_factory=list)
    started_at: float = field(default_factory=time.monotonic)

    def on_log(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "caller_said":
                if self.turns:
                    self.turns[-1].understood = f"{self.turns[-1].understood} {event['text']}".strip()
                self.show("caller", event["text"])
            case "agent_said":
                text = event["text"]
                if not text:
                    return
                self.agent_said.append((time.monotonic(), text, event["interrupted"]))
                if not self.turns:
                    self.greeting = f"{self.greeting} {text}".strip()
                elif not event["interrupted"] or not self.turns[-1].interrupts:
                    self.turns[-1].answer = f"{self.turns[-1].answer} {text}".strip()
                self.show("agent", text + (" — (interrupted)" if event["interrupted"] else ""))
            case "reply_started":
                self.show("", f"replied {event['latency_ms']} ms after the caller's last word")
            case "call_ended":
                self.show("", f"call ended: {event['reason']}")
            case "clip_played" | "provider_lost" | "provider_warned" | "call_failed":
                self.show("engine", str(event))

    def show(self, who: str, text: str) -> None:
        colour = {"caller": "36", "agent": "33", "engine": "31"}.get(who, "90")
        print(f"  {time.monotonic() - self.started_at:6.1f} s  \033[{colour}m{who:>7}  {text}\033[0m", flush=True)


async def converse(call: SipCaller, demo: Demo) -> None:
    """Speaks the script, taking turns by ear."""
    ear = Ear(call)
    await ear.wait_for_voice(since=0.0)
    for line in SCRIPT:
        if line.interrupts:
            await ear.wait_for_voice(since=demo.turns[-1].said_until)  # type: ignore[attr-defined]
            await asyncio.sleep(1.0)
        else:
            await ear.wait_for_quiet()
        turn = Turn(line.text, line.interrupts)
        demo.turns.append(turn)
