"""Calls without Asterisk: an ARI that keeps channels and bridges, a wire, a provider that follows a script."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

from audio.formats import ULAW_8K, AudioFormat
from engine.call import CallServices
from engine.catalogue import ProviderCatalogue
from engine.conversation import ConversationServices, ConversationSettings
from engine.conversation_events import Clip
from engine.coordinator import ConversationRules
from engine.cushion import Cushioning
from engine.metrics import EngineMetrics
from engine.metronome import Metronome
from engine.playback_files import PlaybackFiles
from engine.sessions import Session, SessionStore
from engine.switchboard import Admission, Switchboard
from engine.wires import Wires
from providers.base import CallContext, Capabilities, ProviderError, ProviderSink, ProviderStatus, Ready
from testkit.waiting import wait_until
from transport.ari import AriError, AriNotFound, AriState, HangupCause, Snapshot
from transport.media import Closed, Connected, ExternalMedia, PortEvent, Requirement

APP = "voice-engine"
CALLER = "17.1"
FRAME = ULAW_8K.frame_bytes
CLIPS = {Clip.ONE_MOMENT: b"\x11" * 2 * FRAME, Clip.APOLOGY: b"\x22" * 2 * FRAME}
SETTINGS = ConversationSettings(
    provider="scripted",
    greeting="Hello",
    prompt="",
    as_files=False,
    rules=ConversationRules(post_tts_end_protection_ms=0),
    cushioning=Cushioning(),
    provider_start_timeout_s=2.0,
    messages_dir=Path("messages"),
)

Script = Callable[["ScriptedProvider", ProviderSink], Awaitable[None]]


class Port:
    """A wire that keeps what is sent."""

    paced_by_peer: Literal[False] = False
    brings_keys = True
    notices_end = True
    frames_lost = 0
    frames_concealed = 0

    def __init__(self, media_id: UUID) -> None:
        self.media_id = media_id
        self.format: AudioFormat = ULAW_8K
        self.on_audio: Callable[[bytes], None] = lambda _: None
        self.on_event: Callable[[PortEvent], None] = lambda _: None
        self.sent: list[bytes] = []
        self.frames_received = 0
        self.frames_dropped = 0
        self.closed = False

    @property
    def frames_sent(self) -> int:
        return len(self.sent)

    @property
    def voiced(self) -> bytes:
        return b"".join(frame for frame in self.sent if frame != ULAW_8K.silent_frame)

    def send(self, frame: bytes) -> None:
        self.sent.append(frame)

    def flush(self) -> None: ...

    def external_media(self) -> ExternalMedia:
        return ExternalMedia("slin", "audiosocket", "tcp", "127.0.0.1:9092", data=str(self.media_id))

    async def join(self, variables: Mapping[str, str]) -> None: ...

    def hear(self, frame: bytes) -> None:
        """The caller's sound arrives."""
        self.frames_received += 1
        self.on_audio(frame)

    def lose(self) -> None:
        """Asterisk drops the connection."""
        if not self.closed:
            self.closed = True
            self.on_event(Closed("dropped"))

    def close(self) -> None:
        self.closed = True


class FakeTransport:
    """The ``MediaTransport``."""

    name = "wires"
    formats = (ULAW_8K,)
    counters: Mapping[str, int] = {}

    def __init__(self) -> None:
        self.ports: list[Port] = []

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def requirement(self, audio_format: AudioFormat) -> Requirement:
        return Requirement()

    def open_port(self, media_id: UUID, audio_format: AudioFormat) -> Port:
        self.ports.append(Port(media_id))
        return self.ports[-1]

    def claim(self, media_id: UUID) -> Port | None:
        """Asterisk connects; the call may be over by then."""
        return next((port for port in self.ports if port.media_id == media_id and not port.closed), None)


class Pbx:
    """The part of an Asterisk that a call sees, in the place of ``AriClient``.

    Every request takes a turn of the event loop before it is carried out and another before it is answered;
    ``interfere`` is told the number of the request, from 1, and which of the two it is.
    """

    def __init__(self) -> None:
        self.state = AriState.CONNECTED
        self.on_event: Callable[[Mapping[str, Any]], None] = lambda _: None
        self.claim: Callable[[UUID], Any] = lambda _: None
        self.channels_by_id: dict[str, dict[str, Any]] = {}
        self.bridged: dict[str, list[str]] = {}
        self.ports: dict[str, Port] = {}
        self.requests: list[str] = []
        self.played: list[bytes] = []
        """What was in the files that callers heard."""
        self.hung_up: dict[str, HangupCause | None] = {}
        self.broken: dict[str, AriError] = {}
        """What a request of that name is answered with."""
        self.variables: dict[str, str] = {}
        self.media_comes_up = True
        self.interfere: Callable[[int, str], None] = lambda number, when: None

    # What happens

    def caller_arrives(self, channel_id: str = CALLER, *, announced: bool = True) -> dict[str, Any]:
        channel = self._channel(channel_id)
        if announced:
            self.tell("StasisStart", channel)
        return channel

    def caller_hangs_up(self, channel_id: str = CALLER) -> None:
        channel = self.channels_by_id.pop(channel_id, None)
        if channel is not None:
            self.tell("ChannelHangupRequest", channel)
            self.tell("StasisEnd", channel)

    def bridge_vanished(self, bridge_id: str) -> None:
        self.bridged.pop(bridge_id, None)
        if self.state is AriState.CONNECTED:
            self.on_event({"type": "BridgeDestroyed", "bridge": {"id": bridge_id}})

    def tell(self, kind: str, channel: Mapping[str, Any]) -> None:
        if self.state is AriState.CONNECTED:
            self.on_event({"type": kind, "channel": channel})

    def snapshot(self) -> Snapshot:
        return Snapshot(list(self.channels_by_id.values()), [{"id": name} for name in self.bridged], "22.10.1")

    @property
    def ours(self) -> list[str]:
        """What the engine has made."""
        return [name for name in (*self.channels_by_id, *self.bridged) if name.startswith(f"{APP}-")]

    def _channel(self, channel_id: str) -> dict[str, Any]:
        channel = {
            "id": channel_id,
            "caller": {"number": "5550199"},
            "dialplan": {"exten": "100", "app_name": "Stasis", "app_data": APP},
        }
        self.channels_by_id[channel_id] = channel
        return channel

    # What is asked of it

    async def _asked(self, name: str) -> int:
        self.requests.append(name)
        number = len(self.requests)
        self.interfere(number, "asked")
        await asyncio.sleep(0)
        if name in self.broken:
            raise self.broken[name]
        return number

    async def _answered(self, number: int) -> None:
        self.interfere(number, "done")
        await asyncio.sleep(0)

    def _must_exist(self, channel_id: str) -> None:
        if channel_id not in self.channels_by_id:
            raise AriNotFound(404, "Channel not found")

    async def get_variables(self, channel_id: str, names: Iterable[str]) -> dict[str, str]:
        number = await self._asked("get_variables")
        self._must_exist(channel_id)
        await self._answered(number)
        return {name: self.variables.get(name, "") for name in names}

    async def answer(self, channel_id: str) -> None:
        number = await self._asked("answer")
        self._must_exist(channel_id)
        await self._answered(number)

    async def create_bridge(self, bridge_id: str, name: str) -> None:
        number = await self._asked("create_bridge")
        self.bridged[bridge_id] = []
        await self._answered(number)

    async def external_media(self, channel_id: str, external: ExternalMedia) -> dict[str, str]:
        number = await self._asked("external_media")
        channel = self._channel(channel_id)
        port = self.claim(UUID(str(external.data)))
        if port is not None:
            self.ports[channel_id] = port
            port.on_event(Connected())
        if self.media_comes_up:
            asyncio.get_running_loop().call_soon(self.tell, "StasisStart", channel)
        await self._answered(number)
        return {}

    async def add_to_bridge(self, bridge_id: str, *channel_ids: str) -> None:
        number = await self._asked("add_to_bridge")
        if any(name not in self.channels_by_id for name in channel_ids):
            raise AriError(400, "Channel not found")
        self.bridged[bridge_id] += channel_ids
        await self._answered(number)

    async def hang_up(self, channel_id: str, *, cause: HangupCause | None = None) -> None:
        number = await self._asked("hang_up")
        self._must_exist(channel_id)
        channel = self.channels_by_id.pop(channel_id)
        self.hung_up[channel_id] = cause
        self.tell("StasisEnd", channel)
        if channel_id in self.ports:
            self.ports.pop(channel_id).lose()
        await self._answered(number)

    async def destroy_bridge(self, bridge_id: str) -> None:
        number = await self._asked("destroy_bridge")
        if self.bridged.pop(bridge_id, None) is None:
            raise AriNotFound(404, "Bridge not found")
        self.bridge_vanished(bridge_id)
        await self._answered(number)

    async def snoop(self, channel_id: str, snoop_id: str) -> None:
        number = await self._asked("snoop")
        self._must_exist(channel_id)
        asyncio.get_running_loop().call_soon(self.tell, "StasisStart", self._channel(snoop_id))
        await self._answered(number)

    async def start_silence(self, channel_id: str) -> None:
        await self._asked("start_silence")

    async def play(self, channel_id: str, playback_id: str, media: str) -> None:
        """It is heard the moment that it is asked for."""
        number = await self._asked("play")
        self._must_exist(channel_id)
        (file,) = Path(media.removeprefix("sound:")).parent.glob(f"{playback_id}.*")
        self.played.append(file.read_bytes())
        playback = {"id": playback_id, "target_uri": f"channel:{channel_id}", "state": "done"}
        for kind in ("PlaybackStarted", "PlaybackFinished"):
            asyncio.get_running_loop().call_soon(self.on_event, {"type": kind, "playback": playback})
        await self._answered(number)

    async def channels(self) -> list[dict[str, Any]]:
        await self._asked("channels")
        return list(self.channels_by_id.values())

    async def bridges(self) -> list[dict[str, Any]]:
        await self._asked("bridges")
        return [{"id": name} for name in self.bridged]


class ScriptedProvider:
    """Does what its script says and keeps what it is told."""

    def __init__(self, script: Script, context: CallContext, *, owns_turns: bool = True) -> None:
        self.capabilities = Capabilities(ULAW_8K, ULAW_8K, owns_turns=owns_turns)
        self.context = context
        self.frames_dropped = 0
        self.heard: list[bytes] = []
        self.interruptions: list[tuple[str, int]] = []
        self.said: list[str] = []
        self.results: dict[str, str] = {}
        self.running = False
        self.sink: ProviderSink
        self._script = script

    async def run(self, sink: ProviderSink) -> None:
        self.sink = sink
        self.running = True
        try:
            await self._script(self, sink)
        finally:
            self.running = False

    def push_audio(self, frame: bytes) -> None:
        self.heard.append(frame)

    def interrupt(self, item_id: str, heard_ms: int) -> None:
        self.interruptions.append((item_id, heard_ms))

    def say(self, text: str) -> None:
        self.said.append(text)

    def caller_turn_ended(self) -> None: ...

    def tool_result(self, call_id: str, output: str) -> None:
        self.results[call_id] = output


class ScriptedFactory:
    """The ``ProviderFactory``; ``start`` waits for ``may_start`` and fails while there are ``failures``."""

    def __init__(self, name: str = "scripted", script: Script | None = None) -> None:
        self.name = name
        self.script = script or ready
        self.providers: list[ScriptedProvider] = []
        self.starts = 0
        self.failures: list[Exception] = []
        self.may_start = asyncio.Event()
        self.may_start.set()
        self.closed = False

    async def start(self) -> None:
        self.starts += 1
        await self.may_start.wait()
        if self.failures:
            raise self.failures.pop(0)

    async def close(self) -> None:
        self.closed = True

    def status(self) -> ProviderStatus:
        return ProviderStatus(True)

    def create(self, context: CallContext) -> ScriptedProvider:
        self.providers.append(ScriptedProvider(self.script, context))
        return self.providers[-1]


async def ready(_: ScriptedProvider, sink: ProviderSink) -> None:
    """Is there, and says nothing of its own accord."""
    sink.event(Ready())
    await asyncio.Event().wait()


async def lost(_: ScriptedProvider, sink: ProviderSink) -> None:
    raise ProviderError("connection_lost", "gone")


class Line:
    """A switchboard with everything that it needs."""

    def __init__(self, script: Script | None = None, *, max_calls: int = 10, **settings: Any) -> None:
        self.settings = replace(SETTINGS, **settings)
        self.max_calls = max_calls
        self.pbx = Pbx()
        self.transport = FakeTransport()
        self._folder = tempfile.TemporaryDirectory()
        self.files = PlaybackFiles(Path(self._folder.name), prefix=APP)
        self.store = SessionStore()
        self.metrics = EngineMetrics()
        self.metronome = Metronome()
        self.factory = ScriptedFactory(script=script)
        self.other = ScriptedFactory("other")
        self.catalogue = ProviderCatalogue((self.factory, self.other))
        conversation = ConversationServices(self.catalogue, self.metronome, self.metrics, lambda _: CLIPS)
        self.switchboard = Switchboard(
            self.store,
            self.pbx,  # type: ignore[arg-type]
            CallServices(self.pbx, Wires((self.transport,), "wires", "auto"), self.files, conversation),  # type: ignore[arg-type]
            self.metrics,
            app_name=APP,
            admission=lambda: Admission(self.settings, self.max_calls),
        )
        self.pbx.on_event = self.switchboard.on_event
        self.pbx.claim = self.transport.claim

    @property
    def session(self) -> Session:
        (session,) = self.store
        return session

    @property
    def port(self) -> Port:
        return self.transport.ports[-1]

    @property
    def provider(self) -> ScriptedProvider:
        return self.factory.providers[-1]

    @property
    def conversation(self) -> Any:
        return self.session.call._conversation

    async def connected(self) -> None:
        """A caller arrives, and waits until sound flows and the provider is there."""
        self.pbx.caller_arrives()
        await self.until(lambda: self.session.call.state == "talking" and bool(self.factory.providers))
        await self.until(lambda: self.provider.running)

    async def until(self, condition: Callable[[], bool], what: str = "condition") -> None:
        await wait_until(condition, 5, what)

    async def over(self) -> None:
        """Waits until nothing is left of any call."""
        await self.until(lambda: not len(self.store) and not self.switchboard._tasks, "the end of every call")
        assert self.pbx.ours == []
        assert list(Path(self._folder.name).iterdir()) == []
        assert all(port.closed for port in self.transport.ports)
        assert not any(provider.running for provider in self.factory.providers)
        assert not any(phase.members or phase._timer for phase in self.metronome._phases)

    def ended(self, reason: str) -> float:
        value = self.metrics.registry.get_sample_value("ai_agent_calls_ended_total", {"reason": reason})
        assert value is not None
        return value

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@asynccontextmanager
async def line(script: Script | None = None, **settings: Any) -> AsyncIterator[Line]:
    """A line whose calls are over when the test is, and with them every task."""
    before = asyncio.all_tasks()
    made = Line(script, **settings)
    try:
        yield made
    finally:
        async with asyncio.timeout(10):
            await made.switchboard.drain(0)
            await made.catalogue.close()
        await asyncio.sleep(0)
        left = asyncio.all_tasks() - before
        assert not left, f"tasks left behind: {left}"
