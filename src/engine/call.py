"""One call, from its arrival to its last record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from audio.formats import ULAW_8K
from engine.bulk_playback import BulkPlaybackManager
from engine.conversation import Conversation, ConversationServices, ConversationSettings
from engine.conversation_events import Clip
from engine.coordinator import Turn
from engine.ending import HANGUP_RACE_S, EndReason
from engine.file_playback import FilePlaybackManager
from engine.file_player import AriFilePlayer, play_once
from engine.leg import Leg
from engine.lifecycle import CallState, Lifecycle
from engine.metrics import FrameCounts
from engine.playback import StreamingPlaybackManager
from engine.playback_files import PlaybackFiles
from engine.playout import Playback, PlaybackState, PlayoutEvent
from engine.sessions import Session
from engine.wires import NoWireError, Wire, Wires
from transport.ari import AriClient, AriError
from transport.media import MediaPort, MediaUnavailable

log = structlog.get_logger(__name__)

CODEC = "CHANNEL(audionativeformat)"
"""What the caller's phone speaks, as Asterisk calls it."""
VARIABLES = ("AI_PROVIDER", "AI_GREETING", "AI_TRANSPORT", "AI_AUDIO_FORMAT", CODEC)
"""What the dialplan may choose for a call, and what a choice has to know."""
_UNEXPLAINED = frozenset({EndReason.MEDIA_LOST, EndReason.PBX_ERROR})
"""Ends that nobody could tell the caller about."""
WORKER_LIMIT_S = 2.5
"""How long a cancelled provider or tool may take to close what it opened; the contract allows two seconds."""


@dataclass(slots=True, frozen=True)
class CallServices:
    """What all calls share."""

    ari: AriClient
    wires: Wires
    files: PlaybackFiles
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
        self._player: AriFilePlayer | None = None
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
        """Takes an event about this call's channels, its bridge or what is played; in order, synchronously."""
        if "playback" in event:
            if self._player is not None:
                self._player.on_ari(event)
        else:
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
            wire = self._choose_wire(asked)
            port = wire.transport.open_port(self._session.ids.media, wire.audio_format)
            self._conversation = Conversation(
                self._session,
                port,
                wire.caller_format,
                partial(self._open_playback, port),
                self._settings,
                self._services.conversation,
                end=self.end,
                spawn=self._work,
            )
            self._work(self._conversation.talk())
            connected = await self._leg.set_up(port, apart=self._settings.as_files)
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

    def _choose_wire(self, asked: Mapping[str, str]) -> Wire:
        codec = asked.get(CODEC, "").strip("()").partition("|")[0]
        wire = self._services.wires.choose(asked.get("AI_TRANSPORT", ""), asked.get("AI_AUDIO_FORMAT", ""), codec)
        if wire.compromise:
            self._log.warning("wire_not_as_asked", reason=wire.compromise)
        self._log.info(
            "wire_chosen", transport=wire.transport.name, audio_format=str(wire.audio_format), caller_codec=codec
        )
        return wire

    def _open_playback(self, port: MediaPort, on_event: Callable[[PlayoutEvent], None]) -> Playback:
        """The way of playing that suits the wire and the operator."""
        cushioning = self._settings.cushioning
        if self._settings.as_files:
            self._player = AriFilePlayer(self._services.ari, self._session.call_id, spawn=self._work)
            files = self._services.files.for_call()
            return FilePlaybackManager(port.format, self._player, files, on_event, cushioning=cushioning)
        if port.paced_by_peer:
            return BulkPlaybackManager(port, on_event, cushioning=cushioning)
        return StreamingPlaybackManager(port, on_event, cushioning=cushioning)

    def _choose(self, asked: Mapping[str, str]) -> ConversationSettings:
        """The settings of this call, with what the dialplan asks for."""
        settings = self._settings
        provider = asked.get("AI_PROVIDER") or settings.provider
        if provider not in self._services.conversation.catalogue:
            self._log.warning("provider_unknown", asked_for=provider, using=settings.provider)
            provider = settings.provider
        return replace(settings, provider=provider, greeting=asked.get("AI_GREETING") or settings.greeting)

    async def _apologise(self) -> None:
        """The caller has nothing to hear us by: has Asterisk play the apology."""
        files = self._services.files.for_call()
        try:
            async with asyncio.TaskGroup() as requests:
                player = AriFilePlayer(
                    self._services.ari, self._session.call_id, spawn=lambda work: _spawn(requests, work)
                )
                self._player = player
                apology = self._services.conversation.clips(ULAW_8K)[Clip.APOLOGY]
                heard = await play_once(player, files, apology, ULAW_8K)
                player.close()
        finally:
            files.close()
        self._log.warning("apology_played", to_its_end=heard)

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
        if reason in _UNEXPLAINED and self._leg.caller_waits:
            await self._apologise()
        await self._leg.take_down()
        metrics = self._services.conversation.metrics
        metrics.finished.add(self.counts())
        self._lifecycle.to(CallState.ENDED)
        metrics.calls_ended.labels(reason).inc()
        seconds = time.monotonic() - self._session.started_at
        self._log.info("call_ended", reason=reason, seconds=round(seconds, 2))


def _spawn(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
    tasks.create_task(work)


async def _even_if_cancelled(work: Coroutine[Any, Any, None]) -> None:
    """Carries ``work`` through, and only then lets a cancellation pass."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
