"""A private Asterisk with an engine for every way of carrying a call's sound, and callers who choose theirs."""

from __future__ import annotations

import asyncio
import random
import statistics
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import accumulate, count
from types import TracebackType
from typing import Any, Self

from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller, in_sequence
from testkit.engine import EngineProcess
from testkit.hearing import find_clip
from testkit.openai_realtime import OpenAIRealtimeDouble, Reply, Script, Session
from testkit.speech import noise
from testkit.waiting import wait_until
from transport.ari import AriClient, AriState

GREETING = noise(1000, seed=1)
QUESTION = noise(600, seed=2)
SCRIPT = Script(greeting=Reply(audio=GREETING), burst_factor=None, speech_stopped_after_ms=200)
"""What every call begins with: all that is said is there at once."""
GUESTS = 9
"""The first digit of the numbers that lead past the engines, into an application of the tests'."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a call's sound goes between Asterisk and the engine."""

    name: str
    transport: str
    """What the dialplan asks for."""
    site: str = "engine_connects"
    """The engine that it goes through: what is one engine's for all of its calls, it has its own way."""
    heard_within_ms: int = 60
    """How well the engine knows what the caller has heard."""
    bridged: bool = True
    """The caller is in one bridge with the sound. Otherwise Asterisk listens in with a clock of its own, and puts a
    silent frame between the caller's here and there."""


WAYS = (
    Way("audiosocket", "audiosocket"),
    Way("externalmedia", "externalmedia"),
    Way("websocket", "websocket", heard_within_ms=100),
    Way("websocket_by_asterisk", "websocket", site="asterisk_connects", heard_within_ms=100),
    Way("files", "audiosocket", site="files", heard_within_ms=100, bridged=False),
)
SITES: Mapping[str, Mapping[str, Any]] = {
    "engine_connects": {},
    "asterisk_connects": {"websocket": {"connected_by": "asterisk"}},
    "files": {"downstream_mode": "file"},
}
"""The settings that differ from engine to engine."""

_DIALPLAN = """
[from-sip]
; The first digit chooses the engine, the others tell the calls apart.
exten => _X.,1,Set(AI_TRANSPORT=${PJSIP_HEADER(read,X-AI-Transport)})
 same => n,Set(AI_AUDIO_FORMAT=${PJSIP_HEADER(read,X-AI-Audio-Format)})
 same => n,Set(AI_GREETING=${PJSIP_HEADER(read,X-AI-Greeting)})
 same => n,Stasis(site-${EXTEN:0:1})
 same => n,Hangup()
"""


def engine_at(
    asterisk: AsteriskInstance,
    site: str,
    *,
    provider_url: str,
    app_name: str,
    settings: Mapping[str, Any] | None = None,
) -> EngineProcess:
    """The engine of this site, as an application of this Asterisk."""
    together = {
        "default_provider": "openai_realtime",
        "providers": {"openai_realtime": {"base_url": provider_url}},
        **(settings or {}),
        **SITES[site],
    }
    return EngineProcess(
        ari_port=asterisk.ari_port,
        username=asterisk.username,
        password=asterisk.password,
        app_name=app_name,
        settings=together | {"websocket": {"port": asterisk.media_ws_port, **together.get("websocket", {})}},
        environment={
            "ASTERISK_MEDIA_USERNAME": asterisk.media_username,
            "ASTERISK_MEDIA_PASSWORD": asterisk.media_password,
        },
    )


@dataclass
class Exchange:
    """``async with Exchange(ways) as exchange``; ``settings`` are laid over those of all engines."""

    ways: Sequence[Way] = WAYS
    settings: Mapping[str, Any] = field(default_factory=dict)
    double_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.asterisk = AsteriskInstance()
        self.double = OpenAIRealtimeDouble(SCRIPT, **self.double_options)
        self.engines: dict[str, EngineProcess] = {}
        """By site."""
        self._sites = sorted({way.site for way in self.ways})
        self._numbers = count(1)
        self._stack = AsyncExitStack()
        self._ari = AriClient(
            "127.0.0.1", self.asterisk.ari_port, f"site-{GUESTS}", self.asterisk.username, self.asterisk.password
        )
        self._guests: dict[str, str] = {}
        """Channels of those who dialled past the engines, by number."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._configure()
            await asyncio.to_thread(stack.enter_context, self.asterisk)
            await stack.enter_async_context(self.double)
            for site in self._sites:
                self.engines[site] = self._engine(site)
            await asyncio.gather(*map(stack.enter_async_context, self.engines.values()))
            await stack.enter_async_context(self._reception())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def engine(self, way: Way) -> EngineProcess:
        return self.engines[way.site]

    def number(self, way: Way) -> str:
        """A number that leads to the engine of this way, and was never dialled before."""
        return self._number(self._sites.index(way.site))

    def caller(self, way: Way, **options: Any) -> SipCaller:
        """Somebody who calls the engine by this way."""
        headers = {"X-AI-Transport": way.transport, **options.pop("headers", {})}
        number = options.pop("number", None) or self.number(way)
        return self._caller(number, headers=headers, **options)

    @asynccontextmanager
    async def guest_in(self, conversation: Conversation) -> AsyncIterator[SipCaller]:
        """A third party that has joined the bridge of this conversation, and leaves it by hanging up."""
        number = self._number(GUESTS)
        async with self._caller(number) as guest:
            dialling = asyncio.create_task(guest.dial())
            channel = await wait_until(lambda: self._guests.get(number), 10, "the guest's channel")
            await self._ari.answer(channel)
            await dialling
            await self._ari.add_to_bridge((await self._bridge_of(conversation))["id"], channel)
            yield guest

    async def media_channel_of(self, conversation: Conversation) -> dict[str, Any]:
        """The channel of this conversation's sound, as ARI describes it."""
        bridge = await self._bridge_of(conversation)
        others = [member for member in bridge["channels"] if member != conversation.call_id]
        (channel,) = [each for each in await self._ari.channels() if each["id"] in others]
        return channel

    async def variable_of(self, channel: Mapping[str, Any], name: str) -> str:
        return (await self._ari.get_variables(channel["id"], [name]))[name]

    @asynccontextmanager
    async def conversation(self, way: Way, *replies: bytes, **options: Any) -> AsyncIterator[Conversation]:
        """A call by this way in which the agent has greeted and is going to say ``replies``, one after the other."""
        token = f"greeting-{next(self._numbers)}"
        headers = {"X-AI-Greeting": token}
        number = self.number(way)
        async with self.caller(way, number=number, headers=headers, **options) as call:
            await call.dial()
            conversation = Conversation(way, number, call, await self._session(token), self.engine(way))
            said = {"replies": tuple(Reply(audio=sound) for sound in replies or (b"",))}
            conversation.session.script = conversation.session.script.model_copy(update=said)
            await conversation.hears(GREETING)
            yield conversation

    async def _session(self, token: str) -> Session:
        """The double's end of the call whose greeting is to say ``token``."""

        def find() -> Session | None:
            for session in self.double.sessions:
                for event in session.events("response.create"):
                    if token in (event.get("response") or {}).get("instructions", ""):
                        return session
            return None

        return await wait_until(find, 10, f"the session of {token}")

    async def nothing_left(self) -> None:
        """Within five seconds no call, channel, bridge or provider session is left, and nobody had to clean up."""
        for engine in self.engines.values():
            await engine.idle(5)
            assert await engine.metric("ai_agent_tts_gating_active") == 0
            for kind in ("channel", "bridge"):
                assert await engine.metric("ai_agent_orphans_removed_total", kind=kind) == 0
        assert await asyncio.to_thread(self.asterisk.channels) == []
        assert await asyncio.to_thread(self.asterisk.bridges) == []
        assert not any(session.is_open for session in self.double.sessions)

    async def _bridge_of(self, conversation: Conversation) -> dict[str, Any]:
        (bridge,) = [each for each in await self._ari.bridges() if conversation.call_id in each["channels"]]
        return bridge

    @asynccontextmanager
    async def _reception(self) -> AsyncIterator[None]:
        """Notes whom the dialplan led past the engines."""

        def note(event: Mapping[str, Any]) -> None:
            if event["type"] == "StasisStart":
                channel = event["channel"]
                self._guests[channel["dialplan"]["exten"]] = channel["id"]

        self._ari.on_event = note
        running = asyncio.create_task(self._ari.run())
        try:
            await wait_until(lambda: self._ari.state is AriState.CONNECTED, 10, "the tests' own application")
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await self._ari.close()

    def _number(self, digit: int) -> str:
        return f"{digit}{next(self._numbers):06}"

    def _caller(self, number: str, **options: Any) -> SipCaller:
        return SipCaller(server=("127.0.0.1", self.asterisk.sip_port), extension=number, **options)

    def _configure(self) -> None:
        local = self.asterisk.home / "local"
        local.mkdir(exist_ok=True)
        (local / "extensions.conf").write_text(_DIALPLAN)

    def _engine(self, site: str) -> EngineProcess:
        return engine_at(
            self.asterisk,
            site,
            app_name=f"site-{self._sites.index(site)}",
            provider_url=self.double.url,
            settings=self.settings,
        )


@dataclass
class Conversation:
    """One call, seen from all sides."""

    way: Way
    number: str
    """What the caller dialled."""
    call: SipCaller
    session: Session
    """The double's end of it."""
    engine: EngineProcess

    @property
    def call_id(self) -> str:
        """What Asterisk and the engine call it."""
        (arrival,) = self.engine.logged("call_arrived", dialled=self.number)
        call_id: str = arrival["call_id"]
        return call_id

    def logged(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """The engine's log lines of this call."""
        return self.engine.logged(event, call_id=self.call_id, **fields)

    async def asks(self, question: bytes = QUESTION) -> None:
        """Says something; the next reply is due when this returns."""
        await self.call.speak(question).done

    async def hears(self, clip: bytes, limit_s: float = 10) -> None:
        """Waits for the end of ``clip``, all of which must have been heard bit for bit then."""
        await self.hears_end_of(clip, limit_s)
        heard = self.call.heard()
        assert find_clip(heard, clip) is not None, f"{lost_frames(heard, clip)} of {len(clip) // 160} frames lost"

    async def hears_end_of(self, clip: bytes, limit_s: float = 10) -> None:
        packets, tail = self.call.received, clip[-320:]
        searched = 0

        def ended() -> bool:
            # What is new alone, and enough before it for a tail that began there: callers share this machine.
            nonlocal searched
            new = b"".join(packet.payload for packet in packets[max(0, searched - 5) :] if packet.is_sound)
            searched = len(packets)
            return find_clip(new, tail) is not None

        await self._until(ended, limit_s, f"the end of what was said ({len(clip) // 8} ms)")

    async def is_heard(self, clip: bytes, limit_s: float = 5) -> None:
        """Waits until the provider has been sent the end of ``clip``, and all of it then: bit for bit, where the caller
        is bridged. Else Asterisk loses a frame here and there on a machine that is busy: 2 % at most."""
        received, tail = self.session.received_audio, clip[-320:]
        await self._until(lambda: tail in received, limit_s, f"the end of the caller's words ({len(clip) // 8} ms)")
        lost = lost_frames(received, clip)
        least = clip in received if self.way.bridged else lost <= len(clip) // 160 // 50
        assert least, f"{lost} of {len(clip) // 160} frames lost"

    def delays_to_caller_ms(self, clip: bytes) -> list[float]:
        """For each 20 ms of ``clip`` that came: how much later than by an even clock from the first of them."""
        packets = [packet for packet in in_sequence(self.call.received) if packet.is_sound]
        ends = list(accumulate(len(packet.payload) for packet in packets))
        heard = b"".join(packet.payload for packet in packets)
        due = [
            packets[bisect_right(ends, place)].arrived_at - 0.02 * number
            for number, place in enumerate(places(heard, clip))
            if place >= 0
        ]
        return [1000 * (at - due[0]) for at in due]

    def delays_to_provider_ms(self, words: bytes) -> list[float]:
        """For each 20 ms of ``words`` that came: from when they left the phone until the provider was sent them."""
        appends = self.session.appends
        ends = list(accumulate(append.size_bytes for append in appends))
        sent_at = {sound: at for at, sound in self.call.sent}
        return [
            1000 * (appends[bisect_right(ends, place)].at - sent_at[frame])
            for frame, place in zip(frames(words), places(self.session.received_audio, words), strict=True)
            if place >= 0
        ]

    async def _until(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        await wait_until(condition, limit_s, f"{self.way.name}: {what}")


def murmur(duration_ms: int, seed: int) -> bytes:
    """Noise like ``noise``, but too quiet for the double to take it for voice."""
    quiet = bytes(value for value in range(256) if 0x50 <= value & 0x7F < 0x7F)
    return bytes(random.Random(seed).choices(quiet, k=8 * duration_ms))


def frames(clip: bytes) -> Iterator[bytes]:
    """The clip in pieces of 20 ms."""
    return (clip[start : start + 160] for start in range(0, len(clip), 160))


def growth_ms(delays_ms: Sequence[float]) -> float:
    """By how much the last five seconds were later than the first five; by medians, as machines have other work."""
    return statistics.median(delays_ms[-250:]) - statistics.median(delays_ms[:250])


def lost_frames(heard: bytes | bytearray, clip: bytes) -> int:
    """How many 20 ms of ``clip`` were not heard whole, wherever they came."""
    return sum(place < 0 for place in places(heard, clip))


def places(heard: bytes | bytearray, clip: bytes) -> Iterator[int]:
    """Where each 20 ms of ``clip`` were heard, in bytes; -1 where they were not."""
    place = 0
    for frame in frames(clip):
        # As a rule not far behind the one before.
        found = heard.find(frame, place)
        if found < 0:
            found = heard.find(frame, 0, place)
        place = max(place, found)
        yield found
