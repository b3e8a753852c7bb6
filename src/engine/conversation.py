"""What is said in one call: carries sound and events between provider, playback and the coordinator."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from audio.convert import converter
from audio.formats import FRAME_MS, AudioFormat
from engine.catalogue import ProviderCatalogue
from engine.conversation_events import (
    CLIP_PREFIX,
    Clip,
    Command,
    ConversationEvent,
    CutAgent,
    EndCall,
    HangupWanted,
    KeyPressed,
    MediaConnected,
    Pause,
    PlayClip,
    ProviderLost,
    Resume,
    Say,
    ToolFinished,
    ToolStarted,
)
from engine.coordinator import ConversationCoordinator, ConversationRules, Turn
from engine.cushion import Cushioning
from engine.ending import EndReason
from engine.listening import TurnListener
from engine.metrics import EngineMetrics, FrameCounts
from engine.metronome import Metronome
from engine.playout import AgentSilenced, Cut, Playback, PlayoutEvent, PlayoutFinished, PlayoutStarted
from engine.sessions import Session
from engine.tools import TOOLS, ToolContext, ToolError, run_tool
from providers.base import (
    AgentItemDone,
    AgentText,
    CallContext,
    CallerSpeechStopped,
    CallerText,
    Provider,
    ProviderError,
    ProviderEvent,
    ProviderWarned,
    Ready,
    ToolCalled,
)
from transport.media import MediaPort

log = structlog.get_logger(__name__)

TOOL_LIMIT_S = 10.0
GAP_MS = 200
"""Without a frame from the caller, after which it is taken for silence; keys make gaps of 120 ms."""
HELD_MS = 5000
"""How much of the caller's newest sound is kept for a provider that has yet to be started."""


@dataclass(slots=True, frozen=True)
class ConversationSettings:
    """What a conversation was given when its call arrived; a reload does not touch it."""

    provider: str
    greeting: str
    prompt: str
    as_files: bool
    """Replies are played as files by Asterisk instead of being streamed."""
    rules: ConversationRules
    cushioning: Cushioning
    provider_start_timeout_s: float
    messages_dir: Path


@dataclass(slots=True, frozen=True)
class ConversationServices:
    """What all conversations share."""

    catalogue: ProviderCatalogue
    metronome: Metronome
    metrics: EngineMetrics
    clips: Callable[[AudioFormat], Mapping[Clip, bytes]]


class Conversation:
    """Implements ``ProviderSink``. All decisions are the coordinator's; this class carries them out."""

    def __init__(
        self,
        session: Session,
        port: MediaPort,
        caller_format: AudioFormat,
        open_playback: Callable[[Callable[[PlayoutEvent], None]], Playback],
        settings: ConversationSettings,
        services: ConversationServices,
        *,
        end: Callable[[EndReason], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """``caller_format`` is the sound at the caller's end of the wire. ``open_playback`` is given what takes the
        playout's events. ``end`` ends the call; ``spawn`` runs work that is cancelled when the call ends.
        """
        self._session = session
        self._port = port
        self._caller_format = caller_format
        self._settings = settings
        self._services = services
        self._end = end
        self._spawn = spawn
        self._log = log.bind(call_id=session.call_id)
        self.playback = open_playback(self._on_playout)
        self.coordinator = ConversationCoordinator(settings.rules, lambda: self.playback.speaking)
        self._provider: Provider | None = None
        self._to_wire = converter(port.format, port.format)
        self._held: deque[bytes] = deque(maxlen=HELD_MS // FRAME_MS)
        self._start_limit: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due: float | None = None
        self._clips_played = 0
        self._answered_at = 0.0
        self._greeting_due = bool(settings.greeting)
        """The provider has not been heard yet, and is to speak first."""
        self._leave_beat: Callable[[], None] | None = None
        self._frames_seen = 0
        self._beats_unheard = 0
        port.on_audio = self._held.append

    def connected(self, answered_at: float) -> None:
        """Sound flows from now on; what the provider has said so far begins to play."""
        self._answered_at = answered_at
        self.playback.start()
        self._leave_beat = self._services.metronome.join(self._tick)
        self._decide(MediaConnected(greeting_due=self._greeting_due))

    def key_pressed(self, digit: str) -> None:
        self._log.info("key_pressed", digit=digit)
        self._decide(KeyPressed(digit))

    def close(self) -> None:
        """Stops playing, listening and deciding. The provider is closed by cancelling ``talk``. Idempotent."""
        self.coordinator.stop()
        self._arm(None)
        if self._leave_beat is not None:
            self._leave_beat()
        self.playback.close()
        self._port.on_audio = _discard

    def counts(self) -> FrameCounts:
        """What this call moved and lost so far."""
        port, playback, talk = self._port, self.playback.stats, self.coordinator.stats
        return FrameCounts(
            frames_in=port.frames_received,
            frames_out=port.frames_sent,
            frames_dropped=port.frames_dropped,
            frames_lost=port.frames_lost,
            frames_concealed=port.frames_concealed,
            underruns=playback.underruns,
            playback_stalls=playback.stalls,
            late_chunks=playback.late_chunks,
            flushed_frames=playback.flushed_frames,
            provider_frames_dropped=0 if self._provider is None else self._provider.frames_dropped,
            barge_ins=talk.barge_ins,
            false_barge_ins=talk.false_barge_ins,
            tails_ignored=talk.tails_ignored,
            fillers=talk.fillers,
            check_ins=talk.check_ins,
        )

    async def talk(self) -> None:
        """Lets the provider talk until it or the call ends."""
        settings = self._settings
        try:
            async with asyncio.timeout(settings.provider_start_timeout_s) as self._start_limit:
                factory = await self._services.catalogue.started(settings.provider)
                provider = factory.create(
                    CallContext(
                        call_id=self._session.call_id,
                        greeting=settings.greeting,
                        prompt=settings.prompt,
                        caller_number=self._session.caller.number,
                        tools=TOOLS,
                        interruptible=settings.rules.barge_in,
                        wire=self._caller_format,
                    )
                )
                self._join(provider)
                await provider.run(self)
            self.playback.complete_all()
            self._decide(HangupWanted())
        except ProviderError as error:
            self._provider_lost(error.code, str(error))
        except TimeoutError:
            self._provider_lost("start_timeout", f"not ready within {settings.provider_start_timeout_s:.0f} s")

    def _join(self, provider: Provider) -> None:
        """Connects the caller's sound to the provider and the provider's to the caller."""
        port, able = self._port, provider.capabilities
        self._provider = provider
        self._to_wire = converter(able.output_format, port.format)
        hear = port.on_audio = _chain(converter(port.format, able.input_format), provider.push_audio)
        if not able.owns_turns:
            port.on_audio = TurnListener(port.format, hear, self._on_turn).hear
        while self._held:
            port.on_audio(self._held.popleft())

    def _provider_lost(self, code: str, message: str) -> None:
        if self.coordinator.turn is Turn.ENDED:
            return  # what breaks while it is being closed is missed by nobody
        self._log.error("provider_lost", provider=self._settings.provider, code=code, error=message)
        self._services.metrics.provider_errors.labels(self._settings.provider, code).inc()
        self._port.on_audio = _discard
        self.playback.complete_all()
        self._decide(ProviderLost())

    # What the provider says (ProviderSink) -----------------------------------------------------------------

    def audio(self, item_id: str, chunk: bytes) -> None:
        self.playback.enqueue(item_id, self._to_wire(chunk))

    def event(self, event: ProviderEvent) -> None:
        if self.coordinator.turn is Turn.ENDED:
            return
        match event:
            case Ready():
                # One that has struck cannot be taken back: the provider is being given up.
                if self._start_limit is not None and not self._start_limit.expired():
                    self._start_limit.reschedule(None)
            case AgentItemDone(item_id=item_id):
                tail = self._to_wire.drain()
                if tail:
                    self.playback.enqueue(item_id, tail)
                self.playback.complete(item_id)
            case AgentText(item_id=item_id, text=text):
                self.playback.describe(item_id, text)
            case CallerText(text=text, final=True):
                self._log.info("caller_said", text=text)
            case ToolCalled():
                # Before the reply that called it ends, or the turn would be taken for the caller's.
                self._decide(ToolStarted())
                self._spawn(self._run_tool(event))
            case ProviderWarned(code=code, message=message):
                self._log.warning("provider_warned", code=code, error=message)
                self._services.metrics.provider_warnings.labels(self._settings.provider).inc()
        self._decide(event)

    async def _run_tool(self, called: ToolCalled) -> None:
        context = ToolContext(
            call_id=self._session.call_id,
            caller_number=self._session.caller.number,
            messages_dir=self._settings.messages_dir,
            hang_up=lambda: self._decide(HangupWanted()),
        )
        started = time.monotonic()
        output: str | None
        try:
            async with asyncio.timeout(TOOL_LIMIT_S):
                output = await run_tool(called.name, called.arguments, context)
        except ToolError as error:
            output = json.dumps({"error": str(error)})
        except TimeoutError:
            output = json.dumps({"error": f"{called.name} did not finish within {TOOL_LIMIT_S:.0f} s."})
        except Exception:  # noqa: BLE001 -- a tool's trouble is told to the model, not to the caller; logged
            self._log.exception("tool_failed", tool=called.name)
            output = json.dumps({"error": f"{called.name} failed."})
        self._log.info("tool_ran", tool=called.name, took_ms=round(1000 * (time.monotonic() - started)))
        if output is not None and self._provider is not None:
            self._provider.tool_result(called.call_id, output)
            self._decide(ToolFinished())

    def _on_turn(self, event: ProviderEvent) -> None:
        """The call's own detector heard an edge of the caller's speech."""
        self._decide(event)
        if isinstance(event, CallerSpeechStopped) and self._provider is not None:
            self._provider.caller_turn_ended()

    def _on_playout(self, event: PlayoutEvent) -> None:
        metrics = self._services.metrics
        match event:
            case AgentSilenced(after_ms=after_ms):
                metrics.barge_in_reaction.observe(after_ms / 1000)
                return
            case PlayoutStarted(item_id=item_id) if not item_id.startswith(CLIP_PREFIX):
                self._book_latency()
            case PlayoutFinished(item_id=item_id):
                self._report(item_id, interrupted=False)
        self._decide(event)

    def _book_latency(self) -> None:
        now = time.monotonic()
        due = self.coordinator.reply_due_since
        if due is not None:
            self._services.metrics.reply_latency.observe(now - due)
            self._log.info("reply_started", latency_ms=round(1000 * (now - due)))
        elif self._greeting_due:
            self._services.metrics.answer_to_greeting.observe(now - self._answered_at)
            self._log.info("greeting_started", after_answer_ms=round(1000 * (now - self._answered_at)))
        self._greeting_due = False

    def _report(self, item_id: str, *, interrupted: bool) -> None:
        item = self.playback.ledger.items[item_id]
        self._log.info("agent_said", text=item.heard_text, item=item_id, interrupted=interrupted)

    # What is to be done ------------------------------------------------------------------------------------

    def _decide(self, event: ConversationEvent) -> None:
        self._carry_out(self.coordinator.handle(event, time.monotonic()))

    def _advance(self) -> None:
        self._timer_due = None
        try:
            self._carry_out(self.coordinator.advance(time.monotonic()))
        except Exception:  # noqa: BLE001 -- the event loop would log it and let the call sit in silence
            self._fail()

    def _tick(self) -> None:
        try:
            self.playback.tick()
            self._listen_on()
        except Exception:  # noqa: BLE001 -- the other calls have their beat from the same hand
            self._fail()

    def _listen_on(self) -> None:
        """A phone that sends nothing in pauses is heard as silence: turns end by silence that is heard."""
        port = self._port
        if port.frames_received != self._frames_seen:
            self._frames_seen = port.frames_received
            self._beats_unheard = 0
            return
        self._beats_unheard += 1
        if self._beats_unheard > GAP_MS // FRAME_MS:
            port.on_audio(port.format.silent_frame)

    def _fail(self) -> None:
        self._log.exception("call_failed")
        self._end(EndReason.ENGINE_ERROR)

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Pause():
                    self.playback.pause()
                case Resume():
                    self.playback.resume()
                case CutAgent():
                    self._cut()
                case Say(text=text):
                    if self._provider is not None:
                        self._provider.say(text)
                case PlayClip(clip=clip):
                    self._play(clip)
                case EndCall(reason=reason):
                    self._end(reason)
        due = self.coordinator.deadline()
        if due != self._timer_due:
            self._arm(due)

    def _arm(self, due: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        if due is not None:
            delay = max(0.0, due - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._advance)

    def _cut(self) -> None:
        cut = _last_heard(self.playback.cut())
        self._to_wire.drain()
        if cut is not None:
            self._report(cut.item_id, interrupted=True)
            self._log.info("agent_interrupted", item=cut.item_id, heard_ms=cut.heard_ms)
        if self._provider is not None:
            self._provider.interrupt(*((cut.item_id, cut.heard_ms) if cut is not None else ("", 0)))

    def _play(self, clip: Clip) -> None:
        self._clips_played += 1
        item_id = f"{CLIP_PREFIX}{clip}:{self._clips_played}"
        self._log.warning("clip_played", clip=clip)
        self.playback.enqueue(item_id, self._services.clips(self._port.format)[clip])
        self.playback.complete(item_id)


def _last_heard(cuts: Iterable[Cut]) -> Cut | None:
    """Of the provider's items the last one begun, or else the first one: the clips are none of its business."""
    its_own = [cut for cut in cuts if not cut.item_id.startswith(CLIP_PREFIX)]
    begun = [cut for cut in its_own if cut.heard_ms]
    return begun[-1] if begun else next(iter(its_own), None)


def _discard(_: bytes) -> None:
    pass


def _chain(convert: Callable[[bytes], bytes], push: Callable[[bytes], None]) -> Callable[[bytes], None]:
    return lambda frame: push(convert(frame))
