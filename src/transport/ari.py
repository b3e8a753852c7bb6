"""Asterisk's REST interface (ARI): what happens to calls, and what can be done with them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any
from urllib.parse import quote

import orjson
import structlog

from transport.ari_events import open_events
from transport.ari_rest import (
    REQUEST_TIMEOUT_S,
    AriError,
    AriNotFound,
    AriRest,
    AriUnauthorized,
    AriUnavailable,
    basic_authorization,
)
from transport.media import ExternalMedia

__all__ = [
    "AriClient",
    "AriError",
    "AriNotFound",
    "AriState",
    "AriUnauthorized",
    "AriUnavailable",
    "Event",
    "HangupCause",
    "Snapshot",
]

log = structlog.get_logger(__name__)

Event = dict[str, Any]
"""One ARI event as Asterisk sent it; ``type`` names its kind."""

EVENT_TYPES = frozenset(
    {
        "BridgeDestroyed",
        "ChannelDestroyed",
        "ChannelDtmfReceived",
        "ChannelHangupRequest",
        "ChannelLeftBridge",
        "PlaybackFinished",
        "PlaybackStarted",
        "StasisEnd",
        "StasisStart",
    }
)
_REPLACED = "ApplicationReplaced"

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 5.0


class AriState(StrEnum):
    """How it stands with the event connection."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    UNAUTHORIZED = "unauthorized"
    """Asterisk refuses the credentials; asked again now and then."""
    REPLACED = "replaced"
    """Another client took the application's name; final."""
    CLOSED = "closed"
    """Not running, or not any more."""


class HangupCause(IntEnum):
    """Q.850 causes for hanging up; in brackets what a SIP phone sees of a call not answered yet."""

    NORMAL_CLEARING = 16
    USER_BUSY = 17
    """(486)"""
    CALL_REJECTED = 21
    """(403)"""
    CONGESTION = 34
    """(503)"""
    NETWORK_OUT_OF_ORDER = 38
    """(500)"""


@dataclass(slots=True, frozen=True)
class Snapshot:
    """What exists in Asterisk at the moment of (re)connecting, whoever it belongs to.

    Events that come later may tell of changes that it shows already.
    """

    channels: list[dict[str, Any]]
    bridges: list[dict[str, Any]]
    asterisk_version: str
    modules: frozenset[str] = frozenset()
    """Those that run, such as ``chan_websocket.so``."""


def _ignore(*_: object) -> None:
    pass


class AriClient:
    """One application of one Asterisk: its events, and the operations on its channels and bridges.

    ``run`` keeps the event connection; the ``on_…`` attributes are called from it, must not block, and what
    they raise is logged and goes no further. Operations are independent of ``run`` once it has connected
    for the first time; they raise ``AriError`` and log nothing.
    """

    def __init__(
        self,
        host: str,
        port: int,
        app: str,
        username: str,
        password: str,
        *,
        event_types: Iterable[str] = EVENT_TYPES,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        self.app = app
        self.state = AriState.CLOSED
        self.last_error: str | None = None
        """Why it is not connected; None when it is."""
        self.reconnects = 0
        self.on_event: Callable[[Event], None] = _ignore
        self.on_connected: Callable[[Snapshot], None] = _ignore
        """Called before any event that came after the snapshot was asked for."""
        self.on_disconnected: Callable[[str], None] = _ignore
        """Takes the reason. Calls go on without us meanwhile; ``on_connected`` follows sooner or later."""
        self.on_replaced: Callable[[], None] = _ignore
        self._host = host
        self._port = port
        self._authorization = basic_authorization(username, password)
        self._event_types = frozenset(event_types) | {_REPLACED}
        self._rest = AriRest(host, port, self._authorization, timeout_s=request_timeout_s)
        self._has_been_connected = False

    # --- the event connection

    async def run(self) -> None:
        """Keeps connected until cancelled; returns only when another client takes the application's name.

        Taking the name back would start a tug-of-war between two engines, each missing events of its calls.
        """
        self.state = AriState.CONNECTING
        delays = _growing_delays()
        try:
            while True:
                try:
                    async with open_events(self._host, self._port, self.app, self._authorization) as events:
                        self._enter_connected(await self._take_stock())
                        delays = _growing_delays()
                        async for event in events:
                            if event.get("type") == _REPLACED:
                                self._enter_replaced()
                                return
                            _tell(str(event.get("type")), self.on_event, event)
                except AriError as error:
                    self._leave_connected(error)
                await asyncio.sleep(LONGEST_DELAY_S if self.state is AriState.UNAUTHORIZED else next(delays))
        finally:
            if self.state is not AriState.REPLACED:
                self.state = AriState.CLOSED

    async def close(self) -> None:
        """Closes the connections that operations used."""
        await self._rest.close()

    async def _take_stock(self) -> Snapshot:
        # The filter belongs to the application and may be that of an engine before this one.
        # Not through aioari, which wraps the body in a way that Asterisk ignores.
        await self._rest.request(
            "PUT",
            f"/ari/applications/{quote(self.app, safe='')}/eventFilter",
            data=orjson.dumps({"allowed": [{"type": name} for name in self._event_types]}),
            headers={"Content-Type": "application/json"},
        )
        await self._rest.load()
        info = await self._rest.call("asterisk", "getInfo", only="system")
        modules = await self._rest.call("asterisk", "listModules")
        running = frozenset(module["name"] for module in modules if module["status"] == "Running")
        return Snapshot(await self.channels(), await self.bridges(), info["system"]["version"], running)

    def _enter_connected(self, snapshot: Snapshot) -> None:
        self.state = AriState.CONNECTED
        self.last_error = None
        self.reconnects += self._has_been_connected
        self._has_been_connected = True
        log.info(
            "ari_connected",
            host=self._host,
            port=self._port,
            app=self.app,
            asterisk_version=snapshot.asterisk_version,
            channels=len(snapshot.channels),
            bridges=len(snapshot.bridges),
        )
        _tell("connected", self.on_connected, snapshot)

    def _leave_connected(self, error: AriError) -> None:
        was_connected = self.state is AriState.CONNECTED
        if isinstance(error, AriUnauthorized):
            self.state = AriState.UNAUTHORIZED
            reason = f"ARI refused the credentials in ASTERISK_ARI_USERNAME/ASTERISK_ARI_PASSWORD: {error}"
        else:
            self.state = AriState.CONNECTING
            reason = str(error)
        if reason != self.last_error:
            self.last_error = reason
            report = log.error if self.state is AriState.UNAUTHORIZED else log.warning
            report("ari_disconnected" if was_connected else "ari_not_connected", reason=reason, app=self.app)
        if was_connected:
            _tell("disconnected", self.on_disconnected, reason)

    def _enter_replaced(self) -> None:
        self.state = AriState.REPLACED
        self.last_error = f"another client took the application name {self.app!r}"
        log.error("ari_application_replaced", app=self.app)
        _tell("replaced", self.on_replaced)

    # --- operations

    async def answer(self, channel_id: str) -> None:
        await self._rest.call("channels", "answer", channelId=channel_id)

    async def hang_up(self, channel_id: str, *, cause: HangupCause | int | None = None) -> None:
        reason_code = None if cause is None else str(int(cause))
        await self._rest.call("channels", "hangup", channelId=channel_id, reason_code=reason_code)

    async def continue_in_dialplan(
        self,
        channel_id: str,
        context: str | None = None,
        extension: str | None = None,
        priority: int | None = None,
    ) -> None:
        """Lets the channel go on where it came from, or at the given place."""
        await self._rest.call(
            "channels",
            "continueInDialplan",
            channelId=channel_id,
            context=context,
            extension=extension,
            priority=priority,
        )

    async def external_media(
        self, channel_id: str, external: ExternalMedia, variables: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Makes the channel that carries a call's sound, under an id of our choice; returns what it says of itself.

        The channel may enter a bridge after its ``StasisStart``, some milliseconds later. An AudioSocket is
        connected by the time this returns.
        """
        channel = await self._rest.call(
            "channels",
            "externalMedia",
            channelId=channel_id,
            app=self.app,
            external_host=external.external_host,
            encapsulation=external.encapsulation,
            transport=external.transport,
            connection_type=external.connection_type,
            format=external.format,
            data=external.data,
            transport_data=external.transport_data,
            variables=dict(variables) if variables else None,
        )
        return dict(channel.get("channelvars") or {})

    async def get_variables(self, channel_id: str, names: Iterable[str]) -> dict[str, str]:
        """The channel's variables of these names; one that is not set is empty."""
        # Asked for by name, one variable that is not set fails the whole request; EVAL never fails.
        expressions = {name: f"EVAL(${{{name}}})" for name in names}
        if not expressions:
            return {}
        if self._rest.knows("channels", "getChannelVars"):
            answer = await self._rest.call(
                "channels", "getChannelVars", channelId=channel_id, variables=",".join(expressions.values())
            )
            return {name: answer["variables"][expression] for name, expression in expressions.items()}
        variables = {}
        for name, expression in expressions.items():
            answer = await self._rest.call("channels", "getChannelVar", channelId=channel_id, variable=expression)
            variables[name] = answer["value"]
        return variables

    async def channels(self) -> list[dict[str, Any]]:
        """All channels of this Asterisk, also those that are not in our application."""
        return list(await self._rest.call("channels", "list"))

    async def create_bridge(self, bridge_id: str, name: str) -> None:
        """Makes a mixing bridge under an id of our choice."""
        await self._rest.call("bridges", "createWithId", bridgeId=bridge_id, type="mixing", name=name)

    async def add_to_bridge(self, bridge_id: str, *channel_ids: str) -> None:
        """The channels must be in our application; 400 tells that one is gone."""
        await self._rest.call("bridges", "addChannel", bridgeId=bridge_id, channel=",".join(channel_ids))

    async def destroy_bridge(self, bridge_id: str) -> None:
        """Channels in it stay in our application."""
        try:
            await self._rest.call("bridges", "destroy", bridgeId=bridge_id)
        except AriError as error:
            # Asterisk remembers a bridge for a moment after its end.
            if error.status == 409:
                raise AriNotFound(error.status, error.reason) from error
            raise

    async def bridges(self) -> list[dict[str, Any]]:
        return list(await self._rest.call("bridges", "list"))

    async def snoop(self, channel_id: str, snoop_id: str) -> None:
        """Makes a channel, under an id of our choice, that gives what this channel's party says, whatever it hears.

        It may enter a bridge after its ``StasisStart``, and ends with the channel.
        """
        await self._rest.call(
            "channels", "snoopChannelWithId", channelId=channel_id, snoopId=snoop_id, spy="in", app=self.app
        )

    async def start_silence(self, channel_id: str) -> None:
        """Sends the channel silence, until something is played on it; needs asking again after that."""
        await self._rest.call("channels", "startSilence", channelId=channel_id)

    async def play(self, channel_id: str, playback_id: str, media: str) -> None:
        """Plays ``media`` (``sound:`` and an absolute path without extension), after all that plays on the channel.

        Tells by ``PlaybackStarted`` and ``PlaybackFinished``, and only so, whether there was anything to play.
        While it plays, a channel in a bridge is not heard there: ``snoop`` hears it. Asterisk does not mind an id
        that is in use already.
        """
        await self._rest.call("channels", "playWithId", channelId=channel_id, playbackId=playback_id, media=[media])

    async def stop_playback(self, playback_id: str) -> None:
        """One that waits for its turn is over when that comes."""
        await self._rest.call("playbacks", "stop", playbackId=playback_id)

    async def pause_playback(self, playback_id: str) -> None:
        """Holds a playback that has started; 409 tells that it has not."""
        await self._rest.call("playbacks", "control", playbackId=playback_id, operation="pause")

    async def resume_playback(self, playback_id: str) -> None:
        """Goes on with the very next sample, but Asterisk plays the first 20 ms of the file again before it."""
        await self._rest.call("playbacks", "control", playbackId=playback_id, operation="unpause")

    async def ping(self) -> None:
        await self._rest.call("asterisk", "ping")


def _growing_delays() -> Iterator[float]:
    """Seconds between attempts; jittered, so that engines do not come back to an Asterisk in step."""
    delay_s = FIRST_DELAY_S
    while True:
        yield random.uniform(0.5, 1.0) * delay_s
        delay_s = min(2 * delay_s, LONGEST_DELAY_S)


def _tell(event_type: str, handler: Callable[..., None], *arguments: object) -> None:
    try:
        handler(*arguments)
    except Exception:
        log.exception("ari_handler_failed", event_type=event_type)
