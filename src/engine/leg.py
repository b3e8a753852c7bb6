"""A call's end in Asterisk: the caller's channel, bridged with a media channel of ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import structlog

from engine.ending import EndReason
from engine.sessions import Session
from transport.ari import AriClient, AriError, AriNotFound, AriState
from transport.media import Closed, Connected, DtmfReceived, MediaPort, MediaUnavailable, PortEvent

log = structlog.get_logger(__name__)

MEDIA_TIMEOUT_S = 5.0
ARI_TEARDOWN_LIMIT_S = 3.0
SOCKET_DRAIN_LIMIT_S = 2.0
"""How long Asterisk may take to drop the media socket before we do."""

_CALLER_LEFT = frozenset({"ChannelHangupRequest", "StasisEnd", "ChannelDestroyed"})
_OURS_LEFT = frozenset({"StasisEnd", "ChannelDestroyed"})


class Leg:
    """Answers, bridges and takes down again. Reports the first thing that ends the call, and keys.

    The caller is in a bridge with the media channel, as a rule. ``apart`` keeps the caller out of it, so that files
    can be played on the caller's channel, which nobody in a bridge would be heard beside; a snoop channel then
    brings the caller's voice to the bridge.
    """

    def __init__(
        self,
        session: Session,
        ari: AriClient,
        *,
        on_over: Callable[[EndReason], None],
        on_key: Callable[[str], None],
    ) -> None:
        self._ids = session.ids
        self._port: MediaPort | None = None
        self._apart = False
        self._ari = ari
        self._on_over = on_over
        self._on_key = on_key
        self._log = log.bind(call_id=session.call_id)
        self._arriving: set[str] = set()
        """Channels of ours that are not in Stasis yet."""
        self._arrived = asyncio.Event()
        self._port_connected = asyncio.Event()
        self._port_closed = asyncio.Event()
        self._over = asyncio.Event()
        self._caller_gone = False
        self.answered_at = 0.0

    @property
    def caller_waits(self) -> bool:
        """The caller has been answered and has not hung up."""
        return bool(self.answered_at) and not self._caller_gone

    def on_ari(self, event: Mapping[str, Any]) -> None:
        """Takes an event about one of this call's channels or its bridge; in order, synchronously."""
        kind = event["type"]
        channel = event.get("channel", {}).get("id")
        if kind == "BridgeDestroyed":
            self._end(EndReason.MEDIA_LOST)
        elif channel in (self._ids.media_channel, self._ids.snoop_channel):
            if kind == "StasisStart":
                self._arriving.discard(channel)
                if not self._arriving:
                    self._arrived.set()
            elif kind in _OURS_LEFT:
                self._end(EndReason.MEDIA_LOST)
        elif channel != self._ids.caller_channel:
            return
        elif kind == "ChannelDtmfReceived":
            # Where the wire brings them they have come already; a snoop channel gives it none.
            if self._port is not None and (self._apart or not self._port.brings_keys):
                self._on_key(event["digit"])
        elif kind in _CALLER_LEFT:
            self._caller_gone = self._caller_gone or kind != "ChannelHangupRequest"
            self._end(EndReason.CALLER_HUNG_UP)

    async def set_up(self, port: MediaPort, *, apart: bool) -> bool:
        """Answers and connects the sound; False when the call was over before that.

        The port is the leg's from now on. Raises AriError and MediaUnavailable.
        """
        ids, ari = self._ids, self._ari
        self._port = port
        self._apart = apart
        port.on_event = self._on_port_event
        ear = ids.snoop_channel if apart else ids.caller_channel
        self._arriving = {ids.media_channel, ids.snoop_channel} if apart else {ids.media_channel}
        # All at once; those that succeed are let finish when one fails, so that they can be taken down.
        await _all_done(
            self._answer(),
            ari.create_bridge(ids.bridge, f"call {ids.caller_channel}"),
            self._make_media_channel(port),
        )
        if not await self._media_is_up():
            return False
        await ari.add_to_bridge(ids.bridge, ear, ids.media_channel)
        return not self._over.is_set()

    def give_up(self) -> None:
        """Lets a set-up that is under way know that the call is over."""
        self._over.set()

    async def take_down(self) -> None:
        """Leaves nothing behind in Asterisk. What does not answer in time is left to the reaper."""
        try:
            await self._take_down_channels()
        finally:
            if self._port is not None:
                self._port.close()

    async def _take_down_channels(self) -> None:
        ids, ari = self._ids, self._ari
        steps: list[Awaitable[None]] = [ari.hang_up(ids.media_channel), ari.destroy_bridge(ids.bridge)]
        if self._apart:
            steps.append(ari.hang_up(ids.snoop_channel))
        # The engine that took the application's name has taken over its callers too.
        if not self._caller_gone and ari.state is not AriState.REPLACED:
            steps.append(ari.hang_up(ids.caller_channel))
        for error in await _within(ARI_TEARDOWN_LIMIT_S, asyncio.gather(*steps, return_exceptions=True)) or ():
            if isinstance(error, AriError) and not isinstance(error, AriNotFound):
                self._log.warning("teardown_step_failed", error=str(error))
            elif isinstance(error, BaseException) and not isinstance(error, AriError):
                raise error
        # Asterisk drops the socket with the channel; closing it first would leave it in CLOSE_WAIT there.
        if self._port is not None and self._port.notices_end and self._port_connected.is_set():
            await _within(SOCKET_DRAIN_LIMIT_S, self._port_closed.wait())

    async def _answer(self) -> None:
        ids, ari = self._ids, self._ari
        await ari.answer(ids.caller_channel)
        self.answered_at = time.monotonic()
        if self._apart:
            await ari.snoop(ids.caller_channel, ids.snoop_channel)

    async def _make_media_channel(self, port: MediaPort) -> None:
        variables = await self._ari.external_media(self._ids.media_channel, port.external_media())
        if not self._over.is_set():
            await port.join(variables)

    async def _media_is_up(self) -> bool:
        """Waits until the wire is connected and our channels are in Stasis; False when that is not to be."""
        try:
            async with asyncio.timeout(MEDIA_TIMEOUT_S):
                await _first(self._over.wait(), self._all_up())
        except TimeoutError:
            raise MediaUnavailable(f"the media channel did not come up in {MEDIA_TIMEOUT_S:.0f} s") from None
        return not self._over.is_set()

    async def _all_up(self) -> None:
        await self._arrived.wait()
        await self._port_connected.wait()

    def _on_port_event(self, event: PortEvent) -> None:
        match event:
            case Connected():
                self._port_connected.set()
            case DtmfReceived(digit=digit):
                self._on_key(digit)
            case Closed(reason=reason):
                self._port_closed.set()
                if not self._over.is_set():
                    self._log.info("media_closed", reason=reason)
                self._end(EndReason.MEDIA_LOST)

    def _end(self, reason: EndReason) -> None:
        self._over.set()
        self._on_over(reason)


async def _first(*waits: Coroutine[Any, Any, object]) -> None:
    """Waits for the first of them to be over and cancels the others."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _all_done(*steps: Awaitable[Any]) -> None:
    """Waits for every step, then raises what the first one to fail raised."""
    for result in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


async def _within(limit_s: float, work: Awaitable[Any]) -> Any:
    """The result of ``work``, or None when it took too long."""
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError:
        return None
