"""Gives every ARI event to the call that it is about, and every new caller a call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from engine.call import VARIABLES, Call, CallServices
from engine.conversation import ConversationSettings
from engine.ending import EndReason
from engine.metrics import EngineMetrics
from engine.sessions import OURS, Caller, CallIds, Session, SessionStore
from transport.ari import AriClient, AriError, AriNotFound, AriState, HangupCause, Snapshot

log = structlog.get_logger(__name__)

REAP_INTERVAL_S = 30.0
Listing = Sequence[Mapping[str, Any]]
"""Channels or bridges as ARI lists them."""


@dataclass(slots=True, frozen=True)
class Admission:
    """The terms on which the next caller is taken."""

    settings: ConversationSettings
    max_calls: int


class Switchboard:
    """Owns the tasks of all calls; the calls themselves are in the store."""

    def __init__(
        self,
        store: SessionStore,
        ari: AriClient,
        services: CallServices,
        metrics: EngineMetrics,
        *,
        app_name: str,
        admission: Callable[[], Admission],
    ) -> None:
        self._store = store
        self._ari = ari
        self._services = services
        self._metrics = metrics
        self._app_name = app_name
        self._admission = admission
        self._tasks: set[asyncio.Task[None]] = set()
        self._suspects: frozenset[str] = frozenset()
        self.accepting = True

    # Events ------------------------------------------------------------------------------------------------

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Takes one ARI event; synchronous, so that events of a call stay in order."""
        about = event.get("channel") or event.get("bridge") or _target(event.get("playback"))
        if about is None:
            return
        session = self._store.find(about["id"])
        if session is not None:
            session.call.on_ari(event)
        elif event["type"] == "StasisStart":
            if self._is_ours(about["id"]):
                # The media channel of a call that was over before Asterisk had made it.
                self._remove("channel", about["id"])
            else:
                self._take(about)

    def _take(self, channel: Mapping[str, Any]) -> None:
        """A caller has arrived."""
        terms = self._admission()
        refused = "stopping" if not self.accepting else "full" if len(self._store) >= terms.max_calls else None
        if refused is not None:
            log.warning("call_refused", call_id=channel["id"], reason=refused)
            self._metrics.calls_refused.labels(refused).inc()
            self._spawn(self._turn_away(channel["id"]))
            return
        ids = CallIds.choose(channel["id"], self._app_name)
        session = Session(ids, _caller(channel))
        session.call = Call(session, terms.settings, self._services)
        self._store.add(session)
        self._metrics.calls_started.inc()
        log.info("call_arrived", call_id=session.call_id, dialled=session.caller.dialled)
        self._spawn(self._live(session))

    async def _live(self, session: Session) -> None:
        try:
            await session.call.run()
        finally:
            self._store.remove(session)

    async def _turn_away(self, channel_id: str) -> None:
        try:
            await self._ari.hang_up(channel_id, cause=HangupCause.CONGESTION)
        except AriNotFound:
            pass
        except AriError as error:
            log.warning("refusal_failed", call_id=channel_id, error=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Settling accounts -------------------------------------------------------------------------------------

    def settle(self, snapshot: Snapshot) -> None:
        """After a (re)connection: ends calls that are lost, removes what no call owns, takes who waits."""
        self._end_lost(snapshot.channels, time.monotonic())
        for kind, orphan in self._orphans(snapshot.channels, snapshot.bridges):
            self._remove(kind, orphan)
        for channel in snapshot.channels:
            if self._waits_for_us(channel):
                log.info("caller_adopted", call_id=channel["id"])
                self._take(channel)

    async def reap(self) -> None:
        """Compares the store with Asterisk for ever; what is an orphan twice in a row is removed.

        Among the orphans are callers whose hanging up failed. Nothing is removed while events do not reach us:
        what looks like an orphan may then be a caller who waits, or a call of the engine that took our place.
        """
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            asked_at = time.monotonic()
            try:
                channels, bridges = await self._ari.channels(), await self._ari.bridges()
            except AriError as error:
                log.debug("reaper_could_not_look", error=str(error))
                continue
            self._end_lost(channels, asked_at)
            if self._ari.state is not AriState.CONNECTED:
                self._suspects = frozenset()
                continue
            orphans = self._orphans(channels, bridges)
            orphans += [("channel", channel["id"]) for channel in channels if self._waits_for_us(channel)]
            for kind, orphan in orphans:
                if orphan in self._suspects:
                    self._remove(kind, orphan)
            self._suspects = frozenset(orphan for _, orphan in orphans)

    def _end_lost(self, channels: Listing, asked_at: float) -> None:
        alive = {channel["id"] for channel in channels}
        for session in self._store:
            if session.started_at < asked_at and session.call_id not in alive:
                session.call.end(EndReason.PBX_LOST)

    def _orphans(self, channels: Listing, bridges: Listing) -> list[tuple[str, str]]:
        """Channels and bridges that carry our prefix and belong to no call."""
        listed = [("channel", channel["id"]) for channel in channels]
        listed += [("bridge", bridge["id"]) for bridge in bridges]
        return [(kind, name) for kind, name in listed if self._is_ours(name) and self._store.find(name) is None]

    def _remove(self, kind: str, orphan: str) -> None:
        log.warning("orphan_removed", kind=kind, id=orphan)
        self._metrics.orphans_removed.labels(kind).inc()
        self._spawn(self._delete(kind, orphan))

    async def _delete(self, kind: str, orphan: str) -> None:
        try:
            await (self._ari.hang_up(orphan) if kind == "channel" else self._ari.destroy_bridge(orphan))
        except AriNotFound:
            pass
        except AriError as error:
            log.warning("orphan_not_removed", kind=kind, id=orphan, error=str(error))

    def _is_ours(self, asterisk_id: str) -> bool:
        return asterisk_id.startswith(tuple(f"{self._app_name}-{kind}-" for kind in OURS))

    def _waits_for_us(self, channel: Mapping[str, Any]) -> bool:
        """A caller in our Stasis application without a call: of an engine that is no more, or unseen till now."""
        dialplan = channel.get("dialplan", {})
        return (
            dialplan.get("app_name") == "Stasis"
            and dialplan.get("app_data", "").split(",")[0] == self._app_name
            and not self._is_ours(channel["id"])
            and self._store.find(channel["id"]) is None
        )

    # Stopping ----------------------------------------------------------------------------------------------

    async def drain(self, limit_s: float) -> None:
        """Takes no more callers, lets the calls go on for ``limit_s``, then ends what is left of them."""
        self.accepting = False
        if self._store:
            log.info("draining", active_calls=len(self._store), limit_s=limit_s)
            await self._wait_for_calls(limit_s)
        self.end_all()
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def end_all(self) -> None:
        for session in self._store:
            session.call.end(EndReason.ENGINE_STOPPED)

    async def _wait_for_calls(self, limit_s: float) -> None:
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=limit_s)


def _target(playback: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The channel or bridge that is played to, as far as its id goes."""
    return None if playback is None else {"id": playback.get("target_uri", "").partition(":")[2]}


def _caller(channel: Mapping[str, Any]) -> Caller:
    told = channel.get("channelvars")
    variables = _told(told, VARIABLES) if isinstance(told, dict) else None
    return Caller(
        number=channel.get("caller", {}).get("number", ""),
        dialled=channel.get("dialplan", {}).get("exten", ""),
        variables=variables,
    )


def _told(channelvars: Mapping[str, str], names: Iterable[str]) -> Mapping[str, str] | None:
    """The variables, if ari.conf makes Asterisk tell all of them; otherwise they have to be asked for."""
    if any(name not in channelvars for name in names):
        return None
    return {name: channelvars[name] for name in names}
