"""``make demo``: a scripted caller talks with the local agent through a real Asterisk, and what came of it.

Leaves ``out/call.wav`` (caller left, agent right) and ``out/summary.md``. Exit code 0 only if the conversation
really took place: the caller was understood, the agent answered, and the interruption stopped the agent.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testkit.asterisk import AsteriskFailedError, AsteriskInstance
from testkit.caller import CallRejected, CallTimeout, SipCaller
from testkit.conversing import CallEndedError, Ear, say
from testkit.engine import EngineFailedError, EngineProcess
from testkit.hearing import write_call_wav
from testkit.speech import speak

OUT = Path("out").resolve()
MESSAGES = OUT / "messages"
VOICE = "rms"
AGENT_DONE_S = 1.0
"""Silence of the agent after which the caller takes the turn."""
INTERRUPT_AFTER_S = 1.5
"""How far into an answer the caller cuts in."""
SILENCED_LIMIT_MS = 1000


@dataclass(frozen=True)
class Sentence:
    """A line of the caller's, and words that its answer must have: the proof that it was understood."""

    text: str
    answer_has: tuple[str, ...]
    interrupts: bool = False
    """Said while the agent speaks, instead of after it."""


SCRIPT = (
    Sentence("What are your opening hours?", ("monday", "friday")),
    Sentence("How much does it cost?", ("costs",)),
    Sentence("Where are you located?", ("green street",), interrupts=True),
    Sentence("Can I speak to a person please?", ("message",)),
    Sentence("Yes please.", ("name",)),
    Sentence("John Smith.", ("number",)),
    Sentence("Yes.", ("about",)),
    Sentence("My bicycle is broken.", ("right",)),
    Sentence("Yes.", ("message has been taken",)),
    Sentence("Goodbye.", ("bye",)),
)


@dataclass
class Turn:
    """What became of a sentence. Times as the caller measured them, in milliseconds."""

    sentence: Sentence
    understood: str = ""
    answer: str = ""
    latency_ms: float | None = None
    """From the caller's last voiced sample to the first of the answer."""
    silenced_ms: float | None = None
    """From the first sample of an interruption to the last of what it interrupted."""

    @property
    def succeeded(self) -> bool:
        answered = all(words in self.answer.lower() for words in self.sentence.answer_has)
        if self.sentence.interrupts:
            return answered and self.silenced_ms is not None and self.silenced_ms < SILENCED_LIMIT_MS
        return answered


@dataclass
class Show:
    """Follows the engine's log, prints the conversation as it happens, and gathers it."""

    turns: list[Turn] = field(default_factory=list)
    greeting: str = ""
    started_at: float = field(default_factory=time.monotonic)

    def on_log(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "caller_said":
                self.print("understood", event["text"], "36")
                if self.turns:
                    self.turns[-1].understood = f"{self.turns[-1].understood} {event['text']}".strip()
            case "agent_said":
                self._agent_said(event["text"], event["interrupted"])
            case "clip_played" | "provider_lost" | "provider_warned" | "call_failed":
                self.print("engine", json.dumps(event), "31")

    def _agent_said(self, text: str, interrupted: bool) -> None:
        self.print("agent", f"{text} … (interrupted)" if interrupted else text, "33")
        # An interruption is a turn of its own by the time that the engine tells what it cut.
        turns = self.turns[:-1] if interrupted and self.turns and self.turns[-1].sentence.interrupts else self.turns
        if turns:
            turns[-1].answer = f"{turns[-1].answer} {text}{' …' if interrupted else ''}".strip()
        else:
            self.greeting = f"{self.greeting} {text}".strip()

    def print(self, who: str, text: str, colour: str = "90") -> None:
        at = time.monotonic() - self.started_at
        print(f"  {at:6.1f} s  \033[{colour}m{who:>10}  {text}\033[0m", flush=True)


def step(text: str) -> None:
    print(f"\033[1m==> {text}\033[0m", flush=True)


async def converse(call: SipCaller, show: Show) -> None:
    """Speaks the script, taking turns by ear, until the agent hangs up."""
    ear = Ear(call)
    heard_at = await ear.wait_for_voice(after=0.0)
    show.print("", f"greeted {1000 * (heard_at - (call.answered_at or heard_at)):.0f} ms after the answer")
    for sentence in SCRIPT:
        if sentence.interrupts:
            await asyncio.sleep(INTERRUPT_AFTER_S)
        else:
            await ear.wait_for_quiet(AGENT_DONE_S)
        turn = Turn(sentence)
        show.turns.append(turn)
        show.print("caller", sentence.text, "1;36")
        said = await say(call, speak(sentence.text, VOICE))
        if sentence.interrupts:
            await ear.wait_for_quiet(0.25)
            turn.silenced_ms = 1000 * (ear.last_voice_at - said.first_voice_at)
            show.print("", f"silent {turn.silenced_ms:.0f} ms after the caller cut in")
        heard_at = await ear.wait_for_voice(after=max(said.last_voice_at, ear.last_voice_at))
        turn.latency_ms = 1000 * (heard_at - said.last_voice_at)
        show.print("", f"answered {turn.latency_ms:.0f} ms after the caller's last sound")
    await call.wait_ended(15)


async def run_call(asterisk: AsteriskInstance, show: Show) -> str:
    """Makes the call; returns what went wrong with it, if anything did."""
    engine = EngineProcess(
        ari_port=asterisk.ari_port,
        username=asterisk.username,
        password=asterisk.password,
        app_name=asterisk.app_name,
        settings={"default_provider": "local", "messages_dir": str(MESSAGES)},
        on_log=show.on_log,
    )
    trouble = ""
    async with engine, SipCaller(server=("127.0.0.1", asterisk.sip_port), extension="100") as call:
        step("Calling extension 100")
        show.started_at = time.monotonic()
        try:
            await call.dial()
            await converse(call, show)
        except (CallRejected, CallTimeout) as error:
            return f"the call was not answered: {error}"
        except (CallEndedError, TimeoutError) as error:
            trouble = f"the conversation broke off: {error or 'no answer in time'}"
        await call.hangup()
        write_call_wav(OUT / "call.wav", call)
        await engine.idle()
    return trouble


def summary(show: Show, verdict: str) -> str:
    latencies = sorted(turn.latency_ms for turn in show.turns if turn.latency_ms is not None)
    lines = [
        "# A call with the local agent",
        "",
        f"{verdict}",
        "",
        f"The agent greeted with: {show.greeting}",
        "",
        "| | the caller said | the agent understood | and answered | after |",
        "|---|---|---|---|---|",
    ]
    for turn in show.turns:
        mark = "✓" if turn.succeeded else "✗"
        after = "–" if turn.latency_ms is None else f"{turn.latency_ms:.0f} ms"
        said = turn.sentence.text + (" *(interrupting)*" if turn.sentence.interrupts else "")
        lines.append(f"| {mark} | {said} | {turn.understood} | {turn.answer} | {after} |")
    if latencies:
        lines += [
            "",
            f"Median answer after {latencies[len(latencies) // 2]:.0f} ms, the slowest {latencies[-1]:.0f} ms.",
        ]
    for turn in show.turns:
        if turn.silenced_ms is not None:
            lines.append(f"The agent was silent {turn.silenced_ms:.0f} ms after the caller cut in.")
    for message in sorted(MESSAGES.glob("*.json")):
        lines += ["", "The message that it took:", "", "```json", message.read_text(encoding="utf-8").strip(), "```"]
    lines += ["", "Times are the caller's: from the last voiced sample sent to the first one heard.", ""]
    return "\n".join(lines)


def judge(show: Show, trouble: str) -> str:
    """What is wrong with the conversation; empty if it really took place."""
    if trouble:
        return trouble
    failed = [turn.sentence.text for turn in show.turns if not turn.succeeded]
    if len(show.turns) < len(SCRIPT):
        return f"only {len(show.turns)} of {len(SCRIPT)} sentences were said"
    if not any(turn.sentence.interrupts and turn.succeeded for turn in show.turns):
        return "the interruption did not stop the agent"
    # A recogniser of this size may miss one; more is not a conversation.
    return f"not answered as expected: {'; '.join(failed)}" if len(failed) > 1 else ""


def main() -> int:
    shutil.rmtree(MESSAGES, ignore_errors=True)
    OUT.mkdir(exist_ok=True)
    show = Show()
    try:
        step("Preparing the caller's voice")
        for sentence in SCRIPT:
            speak(sentence.text, VOICE)
        step("Starting Asterisk")
        with AsteriskInstance() as asterisk:
            step("Starting the engine with the local agent (speech recognition and voice warm up)")
            trouble = asyncio.run(run_call(asterisk, show))
    except (AsteriskFailedError, EngineFailedError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    problem = judge(show, trouble)
    verdict = "The conversation took place." if not problem else f"The conversation failed: {problem}."
    text = summary(show, verdict)
    (OUT / "summary.md").write_text(text, encoding="utf-8")
    step(verdict)
    print(
        "\n  out/call.wav     the call: caller left, agent right"
        "\n  out/summary.md   what was said and how fast, on one page"
        "\n\nTo talk to the same agent yourself:  make line"
        "\nThen dial sip:100@127.0.0.1:5060 with a softphone on this machine (Linphone, Zoiper, baresip: no account,"
        "\nno password, UDP, codec PCMU, PCMA, G.722 or Opus). For a telephone elsewhere in your network:"
        "\nSIP_BIND=<this machine's address> make line"
    )
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
