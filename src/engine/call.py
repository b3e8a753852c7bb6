"""One call, from its arrival to its last record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog

from engine.conversation import Conversation, ConversationServices, ConversationSettings
from engine.coordinator import Turn
from engine.ending import EndReason
from engine.leg import Leg
from engine.lifecycle import CallState, Lifecycle
from engine.metrics import FrameCounts
from engine.playout import PlaybackState
from engine.sessions import Session
from engine.wires import NoWireError, Wires
from transport.ari import AriClient, AriError
from transport.media import MediaPort, MediaUnavailable

log = structlog.get_logger(__name__)

CODEC = "CHANNEL(audionativeformat)"
"""What the caller's phone speaks, as Asterisk calls it."""
VARIABLES = ("AI_PROVIDER", "AI_GREETING", "AI_TRANSPORT", "AI_AUDIO_FORMAT", CODEC)
"""What the dialplan may choose for a call, and what a choice has to know."""
HANGUP_RACE_S = 0.5
"""How long after a refused request the hang-up that explains it may still be on its way."""
WORKER_LIMIT_S = 2.5
"""How long a cancelled provider or tool may take to close what it opened; the contract allows two seconds."""


@dataclass(slots=True, frozen=True)
class CallServices:
    """What all calls share."""

    ari: AriClient
    wires: Wires
    conversation: ConversationServices


class Call:
    """The lifecycle: sets the leg up while the provider connects, lets them talk, takes all of it down."""

    def __init__(self, session: Session, settings: ConversationSettings, services: CallServices) -> None:
        self._session = session
        self._settings = settings
        self._services = services
        self._log = log.bind(call_id=session.call_id)
        self._lifecycle = Lifecycle()
        self._ending: asyncio.Future[EndReason] = asyncio.get_running_loop().create_future()
        self._leg = Leg(session, services.ari, on_over=self.end, on_key=self._on_key)
        self._conversation: Conversation | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._workers: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> CallState:
        return self._lifecycle.state

    @property
    def provider_name(self) -> str:
        return self._settings.provider

    @property
    def turn(self) -> Turn:
        return Turn.CONNECTING if self._conversation is None else self._conversation.coordinator.turn

    @property
    def gating(self) -> bool:
        """See ``ConversationCoordinator.gating``; never while the call is being taken down."""
        talking = self.state is CallState.TALKING
        return talking and self._conversation is not None and self._conversation.coordinator.gating

    @property
    def playback_state(self) -> PlaybackState:
        return PlaybackState.IDLE if self._conversation is None else self._conversation.playback.state

    def counts(self) -> FrameCounts:
        """What this call moved and lost so far, until it is booked with the calls that are over."""
        if self._conversation is None or self.state is CallState.ENDED:
            return FrameCounts()
        return self._conversation.counts()

    def end(self, reason: EndReason) -> None:
        """Ends the call for this reason, unless it is ending already."""
        if not self._ending.done():
            self._ending.set_result(reason)
            self._leg.give_up()

    def on_ari(self, event: Mapping[str, Any]) -> None:
        """Takes an event about one of this call's channels or its bridge; in order, synchronously."""
        self._leg.on_ari(event)

    async def run(self) -> None:
        """Lives the whole call; when it returns, nothing of the call is left but its session."""
        try:
            await self._live()
        except* Exception:  # noqa: BLE001 -- one call's trouble stays in that call, logged
            self._log.exception("call_failed")
            self.end(EndReason.ENGINE_ERROR)
        finally:
            await _even_if_cancelled(self._take_down())

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._set_up())
            # Shielded: a cancellation, also that by a task that failed, would cancel the reason itself.
            await asyncio.shield(self._ending)
            self._lifecycle.to(CallState.ENDING)
            if self._conversation is not None:
                self._conversation.close()
            for worker in self._workers:
                worker.cancel()
            # The set-up is not cancelled but left to notice: a request that is under way must be answered
            # before what it creates can be taken down.

    async def _set_up(self) -> None:
        asked = await self._ask()
        if self._ending.done():
            return
        self._settings = self._choose(asked)
        self._lifecycle.to(CallState.CONNECTING)
        try:
            port = self._open_port(asked)
            self._conversation = Conversation(
                self._session, port, self._settings, self._services.conversation, end=self.end, spawn=self._work
            )
            self._work(self._conversation.talk())
            connected = await self._leg.set_up(port)
        except (AriError, MediaUnavailable, NoWireError) as error:
            await asyncio.wait({self._ending}, timeout=HANGUP_RACE_S)
            if not self._ending.done():
                self._log.error("call_set_up_failed", error=str(error))
                self.end(EndReason.PBX_ERROR)
            return
        if connected:
            self._lifecycle.to(CallState.TALKING)
            self._conversation.connected(self._leg.answered_at)
            self._log.info("call_connected", provider=self._settings.provider)

    async def _ask(self) -> Mapping[str, str]:
        """The variables of this call, from its arrival or else from Asterisk."""
        told = self._session.caller.variables
        if told is not None:
            return told
        try:
            return await self._services.ari.get_variables(self._session.call_id, VARIABLES)
        except AriError as error:
            self._log.warning("variables_unknown", error=str(error))
            return {}

    def _open_port(self, asked: Mapping[str, str]) -> MediaPort:
        codec = asked.get(CODEC, "").strip("()").partition("|")[0]
        wire = self._services.wires.choose(asked.get("AI_TRANSPORT", ""), asked.get("AI_AUDIO_FORMAT", ""), codec)
        if wire.compromise:
            self._log.warning("wire_not_as_asked", reason=wire.compromise)
        self._log.info(
            "wire_chosen", transport=wire.transport.name, audio_format=str(wire.audio_format), caller_codec=codec
        )
        return wire.transport.open_port(self._session.ids.media, wire.audio_format)

    def _choose(self, asked: Mapping[str, str]) -> ConversationSettings:
        """The settings of this call, with what the dialplan asks for."""
        settings = self._settings
        provider = asked.get("AI_PROVIDER") or settings.provider
        if provider not in self._services.conversation.catalogue:
            self._log.warning("provider_unknown", asked_for=provider, using=settings.provider)
            provider = settings.provider
        return replace(settings, provider=provider, greeting=asked.get("AI_GREETING") or settings.greeting)

    def _on_key(self, digit: str) -> None:
        if self._conversation is not None:
            self._conversation.key_pressed(digit)

    def _work(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something that is cancelled when the call ends."""
        if self._tasks is None or self._ending.done():
            work.close()
            return
        task = asyncio.create_task(work)
        worker = self._tasks.create_task(self._watch(task))
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)
        # A worker that is cancelled before its first step watches over nothing.
        worker.add_done_callback(lambda _: task.cancel())

    async def _watch(self, work: asyncio.Task[None]) -> None:
        """Waits for ``work``; once cancelled, only so long: the caller is to be hung up on."""
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work}, timeout=WORKER_LIMIT_S)
            if not work.done():
                self._log.error("work_abandoned", limit_s=WORKER_LIMIT_S)
                raise
        await work

    async def _take_down(self) -> None:
        """Leaves nothing behind: sound first, then Asterisk, then the books."""
        self.end(EndReason.ENGINE_STOPPED)
        reason = self._ending.result()
        if self._lifecycle.state is not CallState.ENDING:
            self._lifecycle.to(CallState.ENDING)
        if self._conversation is not None:
            self._conversation.close()
        await self._leg.take_down()
        metrics = self._services.conversation.metrics
        metrics.finished.add(self.counts())
        self._lifecycle.to(CallState.ENDED)
        metrics.calls_ended.labels(reason).inc()
        seconds = time.monotonic() - self._session.started_at
        self._log.info("call_ended", reason=reason, seconds=round(seconds, 2))


async def _even_if_cancelled(work: Coroutine[Any, Any, None]) -> None:
    """Carries ``work`` through, and only then lets a cancellation pass."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
