"""The ARI client against a real Asterisk that this module starts, restarts and cuts off."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import UUID, uuid4

import psutil
import pytest
from structlog.testing import capture_logs

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from testkit.waiting import wait_until
from transport import ari, ari_events
from transport.ari import (
    AriClient,
    AriError,
    AriNotFound,
    AriState,
    AriUnavailable,
    Event,
    HangupCause,
    Snapshot,
)
from transport.audiosocket import AudioSocketTransport
from transport.media import Closed, Connected, ExternalMedia, PortEvent

pytestmark = pytest.mark.asterisk

REPOSITORY = Path(__file__).parents[2]
APP = "voice-engine"
USERNAME = "engine"
PASSWORD = 'p&a#s%2 +=?/\\"ü'
"""Every character that would break a URL it is pasted into."""


@dataclass
class PrivateAsterisk:
    home: Path
    ari_port: int
    sip_port: int

    def run(self, *command: str) -> str:
        """Runs ``scripts/asterisk`` for this instance."""
        environment = os.environ | {
            "ASTERISK_HOME": str(self.home),
            "ASTERISK_ARI_USERNAME": USERNAME,
            "ASTERISK_ARI_PASSWORD": PASSWORD,
            "ARI_APP": APP,
            "ARI_PORT": str(self.ari_port),
            "SIP_PORT": str(self.sip_port),
        }
        done = subprocess.run(
            [REPOSITORY / "scripts" / "asterisk", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(type=kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def private_asterisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateAsterisk]:
    asterisk = PrivateAsterisk(
        tmp_path_factory.mktemp("asterisk"),
        free_port(socket.SOCK_STREAM),
        free_port(socket.SOCK_DGRAM),
    )
    asterisk.run("start")
    yield asterisk
    asterisk.run("stop")


@dataclass
class Recorder:
    """A client, and all that it said, in order."""

    client: AriClient
    log: list[Any] = field(default_factory=list)
    runner: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        self.client.on_event = self.log.append
        self.client.on_connected = self.log.append
        self.client.on_disconnected = self.log.append
        self.client.on_replaced = lambda: self.log.append("replaced")

    @property
    def snapshots(self) -> list[Snapshot]:
        return [entry for entry in self.log if isinstance(entry, Snapshot)]

    def events(self, event_type: str, channel_id: str | None = None) -> list[Event]:
        return [
            entry
            for entry in self.log
            if isinstance(entry, dict)
            and entry["type"] == event_type
            and channel_id in (None, entry.get("channel", {}).get("id"))
        ]

    async def event(self, event_type: str, channel_id: str | None = None) -> Event:
        found = await wait_until(lambda: self.events(event_type, channel_id) or None, what=event_type)
        return found[0]

    async def connected(self, times: int = 1) -> Snapshot:
        await wait_until(lambda: len(self.snapshots) >= times, timeout_s=15, what="connected")
        return self.snapshots[-1]

    async def state(self, state: AriState) -> None:
        await wait_until(lambda: self.client.state is state, what=f"state {state}")

    async def originate(self, endpoint: str = "Local/600@from-sip", **parameters: object) -> str:
        """A channel in the application, the other end of which is the echo of extension 600."""
        channel_id = f"test-{uuid4()}"
        await self.client._rest.call(
            "channels",
            "originateWithId",
            channelId=channel_id,
            endpoint=endpoint,
            app=self.client.app,
            **parameters,
        )
        await self.event("StasisStart", channel_id)
        return channel_id


Connect = Callable[..., Awaitable[Recorder]]


@pytest.fixture
async def start(private_asterisk: PrivateAsterisk) -> AsyncIterator[Connect]:
    """Starts clients, and ends them when the test is over."""
    recorders: list[Recorder] = []

    async def start_client(
        *, app: str = APP, password: str = PASSWORD, port: int = private_asterisk.ari_port, **options: Any
    ) -> Recorder:
        recorder = Recorder(AriClient("127.0.0.1", port, app, USERNAME, password, **options))
        recorder.runner = asyncio.create_task(recorder.client.run())
        recorders.append(recorder)
        return recorder

    yield start_client
    for recorder in recorders:
        assert recorder.runner is not None
        recorder.runner.cancel()
        await asyncio.gather(recorder.runner, return_exceptions=True)
        await recorder.client.close()
    private_asterisk.run("cli", "channel request hangup all")


@pytest.fixture
async def engine(start: Connect) -> Recorder:
    recorder = await start()
    await recorder.connected()
    return recorder


class Wire:
    """A TCP relay to Asterisk that can be frozen and cut, and keeps what the client sent."""

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.sent = b""
        self._target_port = target_port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._relays: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Ends all connections and takes no new ones."""
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        for relay in self._relays:
            relay.cancel()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers += [writer, back]
        for source, target, client in ((reader, back, True), (there, writer, False)):
            task = asyncio.create_task(self._pump(source, target, client))
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, client: bool) -> None:
        try:
            while chunk := await source.read(65536):
                await self._flowing.wait()
                if client:
                    self.sent += chunk
                target.write(chunk)
        except OSError:
            pass
        finally:
            target.close()


@pytest.fixture
async def wire(private_asterisk: PrivateAsterisk) -> AsyncIterator[Wire]:
    relay = Wire(private_asterisk.ari_port)
    await relay.open()
    yield relay
    relay.cut()


# --- connecting


async def test_connecting_gives_a_snapshot(start: Connect) -> None:
    recorder = await start()
    assert recorder.client.state in (AriState.CLOSED, AriState.CONNECTING)
    snapshot = await recorder.connected()
    assert int(snapshot.asterisk_version.partition(".")[0]) >= 22
    assert recorder.client.state is AriState.CONNECTED
    assert recorder.client.last_error is None
    await recorder.client.ping()


async def test_the_snapshot_shows_what_was_there_before(engine: Recorder, start: Connect) -> None:
    channel_id = await engine.originate()
    await engine.client.create_bridge("bridge-before", "name before")
    await engine.client.add_to_bridge("bridge-before", channel_id)
    snapshot = await (await start(app="another")).connected()
    assert channel_id in [channel["id"] for channel in snapshot.channels]
    assert [bridge["channels"] for bridge in snapshot.bridges if bridge["name"] == "name before"] == [
        [channel_id]
    ]
    await engine.client.destroy_bridge("bridge-before")


async def test_what_happens_while_connecting_is_told_after_the_snapshot(
    engine: Recorder, start: Connect
) -> None:
    late = await start(app="late")
    take_stock, born = late.client._take_stock, uuid4().hex

    async def take_stock_slowly() -> Snapshot:
        snapshot = await take_stock()
        await engine.client._rest.call(
            "channels", "originateWithId", channelId=born, endpoint="Local/600@from-sip", app="late"
        )
        # In the application by now, so its event is on its way.
        await wait_until(lambda: engine.client.state is AriState.CONNECTED)
        for _ in range(100):
            channels = {channel["id"]: channel for channel in await engine.client.channels()}
            if channels[born]["dialplan"]["app_name"] == "Stasis":
                break
        return snapshot

    late.client._take_stock = take_stock_slowly  # type: ignore[method-assign]
    await late.event("StasisStart", born)
    assert isinstance(late.log[0], Snapshot)


async def test_wrong_credentials_are_reported_once_and_tried_again(
    start: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ari, "LONGEST_DELAY_S", 0.02)
    attempts = 0

    def counting(*arguments: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return ari_events.open_events(*arguments)

    monkeypatch.setattr(ari, "open_events", counting)
    with capture_logs() as logs:
        recorder = await start(password="wrong")
        await wait_until(lambda: attempts >= 4)
    assert recorder.client.state is AriState.UNAUTHORIZED
    refusal = "ARI refused the credentials in ASTERISK_ARI_USERNAME/ASTERISK_ARI_PASSWORD"
    assert recorder.client.last_error == refusal
    assert [(entry["log_level"], entry["reason"]) for entry in logs] == [("error", refusal)]
    assert recorder.log == []


async def test_the_password_is_in_no_url_and_no_log(
    start: Connect, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        recorder = await start(port=wire.port)
        await recorder.connected()
        await recorder.client.create_bridge("some-bridge", "some name")
        await recorder.client.destroy_bridge("some-bridge")
        with pytest.raises(AriNotFound):
            await recorder.client.answer("nobody")
        wire.cut()
        await recorder.state(AriState.CONNECTING)
        with pytest.raises(AriUnavailable) as caught:
            await recorder.client.ping()
    told = caplog.text + str(logs) + repr(caught.value) + str(recorder.client.last_error)
    assert "some-bridge" in told, "debug logs were not captured"
    urls = [line.decode() for line in wire.sent.split(b"\r\n") if b" HTTP/1.1" in line]
    assert len(urls) > 10
    encoded = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
    for secret in (PASSWORD, quote(PASSWORD), quote_plus(PASSWORD), encoded, "api_key"):
        assert secret not in told
        assert not [url for url in urls if secret in url]
    assert encoded.encode() in wire.sent


async def test_only_the_events_that_are_used_are_asked_for(engine: Recorder, start: Connect) -> None:
    application = await engine.client._rest.call("applications", "get", applicationName=APP)
    allowed = {entry["type"] for entry in application["events_allowed"]}
    assert allowed == ari.EVENT_TYPES | {"ApplicationReplaced"}
    channel_id = await engine.originate(variables={"NOISE": "1"})
    await engine.client.hang_up(channel_id)
    await engine.event("ChannelDestroyed", channel_id)
    assert {entry["type"] for entry in engine.log if isinstance(entry, dict)} <= ari.EVENT_TYPES
    noisy = await start(event_types=ari.EVENT_TYPES | {"ChannelVarset"})
    await noisy.connected()
    await noisy.originate(variables={"NOISE": "1"})
    await noisy.event("ChannelVarset")


# --- losing the connection


async def test_a_restart_of_asterisk_is_survived(engine: Recorder, private_asterisk: PrivateAsterisk) -> None:
    before = await engine.originate()
    await asyncio.to_thread(private_asterisk.run, "stop")
    await wait_until(lambda: engine.client.state is AriState.CONNECTING)
    assert engine.client.last_error
    with pytest.raises(AriUnavailable):
        await engine.client.answer(before)
    await asyncio.to_thread(private_asterisk.run, "start")
    snapshot = await engine.connected(times=2)
    assert engine.client.reconnects == 1
    assert engine.client.last_error is None
    assert before not in [channel["id"] for channel in snapshot.channels]
    after = await engine.originate()
    application = await engine.client._rest.call("applications", "get", applicationName=APP)
    assert application["events_allowed"]
    order = [type(entry) for entry in engine.log]
    assert order.index(str) < len(order) - 1 - order[::-1].index(Snapshot)
    with pytest.raises(AriNotFound):
        await engine.client.hang_up(before)
    await engine.client.hang_up(after)


async def test_a_lost_connection_is_reported_once_and_calls_live_on(
    start: Connect, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ari, "LONGEST_DELAY_S", 0.05)
    with capture_logs() as logs:
        recorder = await start(port=wire.port)
        await recorder.connected()
        channel_id = await recorder.originate()
        wire.cut()
        await wait_until(lambda: any(isinstance(entry, str) for entry in recorder.log))
        await asyncio.sleep(0.3)
        await wire.open()
        snapshot = await recorder.connected(times=2)
    assert channel_id in [channel["id"] for channel in snapshot.channels]
    assert len([entry for entry in recorder.log if isinstance(entry, str)]) == 1
    told = [entry["event"] for entry in logs]
    assert told[0] == told[-1] == "ari_connected"
    assert told[1] == "ari_disconnected"
    assert told.count("ari_not_connected") <= 2


async def test_a_silent_network_is_noticed_by_pings(
    start: Connect, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ari_events, "PING_INTERVAL_S", 0.05)
    monkeypatch.setattr(ari_events, "PING_TIMEOUT_S", 0.1)
    monkeypatch.setattr(ari_events, "OPEN_TIMEOUT_S", 0.1)
    recorder = await start(port=wire.port)
    await recorder.connected()
    wire.freeze()
    await wait_until(lambda: recorder.client.state is AriState.CONNECTING)
    assert "the event socket was lost" in next(entry for entry in recorder.log if isinstance(entry, str))
    wire.thaw()
    await recorder.connected(times=2)


async def test_an_operation_gives_up_on_an_asterisk_that_does_not_answer(start: Connect, wire: Wire) -> None:
    recorder = await start(port=wire.port, request_timeout_s=0.2)
    await recorder.connected()
    wire.freeze()
    with pytest.raises(AriUnavailable, match="no answer"):
        await recorder.client.ping()
    wire.thaw()
    await recorder.client.ping()


async def test_another_client_takes_the_name_and_keeps_it(start: Connect) -> None:
    first = await start()
    await first.connected()
    second = await start()
    await second.connected()
    assert first.runner is not None
    await asyncio.wait_for(first.runner, 5)
    assert first.client.state is AriState.REPLACED
    assert first.log[1:] == ["replaced"]
    assert APP in str(first.client.last_error)
    await second.originate()
    assert len(first.log) == 2
    assert second.client.state is AriState.CONNECTED
    # Whoever lost the name can still take its calls down.
    await first.client.ping()


async def test_cancelling_ends_the_connection_without_a_report(engine: Recorder) -> None:
    assert engine.runner is not None
    engine.runner.cancel()
    with pytest.raises(asyncio.CancelledError):
        await engine.runner
    assert engine.client.state is AriState.CLOSED
    assert len(engine.log) == 1
    await engine.client.ping()
    await engine.client.close()
    with pytest.raises(AriUnavailable):
        await engine.client.ping()


async def test_a_handler_that_raises_does_not_stop_events(engine: Recorder) -> None:
    keep = engine.client.on_event

    def raise_once(event: Event) -> None:
        engine.client.on_event = keep
        raise ZeroDivisionError

    engine.client.on_event = raise_once
    with capture_logs() as logs:
        ends = [
            engine.client._rest.call(
                "channels", "originateWithId", channelId=uuid4().hex, endpoint="Local/600@from-sip", app=APP
            )
            for _ in range(2)
        ]
        for end in ends:
            await end
        await engine.event("StasisStart")
    assert [(entry["event"], entry["event_type"]) for entry in logs] == [
        ("ari_handler_failed", "StasisStart")
    ]
    assert engine.client.state is AriState.CONNECTED


# --- operations


async def test_answer_hang_up_and_the_cause(engine: Recorder) -> None:
    channel_id = await engine.originate()
    await engine.client.answer(channel_id)
    await engine.client.hang_up(channel_id, cause=HangupCause.USER_BUSY)
    destroyed = await engine.event("ChannelDestroyed", channel_id)
    assert destroyed["cause"] == 17
    with pytest.raises(AriNotFound) as caught:
        await engine.client.hang_up(channel_id)
    assert (caught.value.status, caught.value.reason) == (404, "Channel not found")


async def test_a_channel_goes_on_in_the_dialplan(engine: Recorder) -> None:
    channel_id = await engine.originate()
    await engine.client.continue_in_dialplan(channel_id, "from-sip", "600", 1)
    await engine.event("StasisEnd", channel_id)
    for _ in range(200):
        place = next(c["dialplan"] for c in await engine.client.channels() if c["id"] == channel_id)
        if place["app_name"] == "Echo":
            break
        await asyncio.sleep(0.01)
    assert place["app_name"] == "Echo"


async def test_bridges_and_odd_ids(engine: Recorder) -> None:
    bridge_id, name = 'a b/c%+ü&=?#;"', "name & more + ü"
    await engine.client.create_bridge(bridge_id, name)
    with pytest.raises(AriError, match="409"):
        await engine.client.create_bridge(bridge_id, name)
    first, second = await engine.originate(), await engine.originate()
    await engine.client.add_to_bridge(bridge_id, first, second)
    (bridge,) = [bridge for bridge in await engine.client.bridges() if bridge["id"] == bridge_id]
    assert (bridge["name"], bridge["bridge_type"]) == (name, "mixing")
    assert set(bridge["channels"]) == {first, second}
    await engine.client.destroy_bridge(bridge_id)
    with pytest.raises(AriNotFound, match="Bridge not found"):
        await engine.client.destroy_bridge(bridge_id)
    with pytest.raises(AriNotFound, match="Bridge not found"):
        await engine.client.add_to_bridge(bridge_id, first)


ODD_VALUE = 'a,b ${OTHER} $[1+1] "q" \\n) ( ü'


@pytest.mark.parametrize("bulk", [True, False])
async def test_variables_in_one_request_set_or_not(
    engine: Recorder, bulk: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel_id = await engine.originate(
        variables={"AI_PROVIDER": "local", "AI_GREETING": ODD_VALUE, "OTHER": "x", "EMPTY": ""}
    )
    requests: list[object] = []
    call = engine.client._rest.call

    async def counting(*arguments: Any, **parameters: Any) -> Any:
        requests.append(arguments)
        return await call(*arguments, **parameters)

    monkeypatch.setattr(engine.client._rest, "call", counting)
    if not bulk:
        monkeypatch.setattr(engine.client._rest, "knows", lambda *_: False)
    names = ["AI_PROVIDER", "AI_GREETING", "NOT_SET", "EMPTY"]
    assert await engine.client.get_variables(channel_id, names) == {
        "AI_PROVIDER": "local",
        "AI_GREETING": ODD_VALUE,
        "NOT_SET": "",
        "EMPTY": "",
    }
    assert len(requests) == (1 if bulk else len(names))
    assert await engine.client.get_variables(channel_id, []) == {}
    with pytest.raises(AriNotFound):
        await engine.client.get_variables("nobody", names)


async def test_operations_before_the_first_connection_are_unavailable() -> None:
    client = AriClient("127.0.0.1", 1, APP, USERNAME, PASSWORD)
    with pytest.raises(AriUnavailable):
        await client.answer("x")
    await client.close()


async def test_thousands_of_operations_leave_nothing_behind(engine: Recorder) -> None:
    async def create_and_destroy(number: int) -> None:
        await engine.client.create_bridge(f"churn-{number}", "churn")
        await engine.client.destroy_bridge(f"churn-{number}")

    async def churn() -> tuple[int, int, int]:
        await asyncio.gather(*(create_and_destroy(number) for number in range(100)))
        for number in range(400):
            await create_and_destroy(number)
        engine.log.clear()
        gc.collect()
        process = psutil.Process()
        return len(gc.get_objects()), process.num_fds(), len(asyncio.all_tasks())

    before = await churn()
    after = await churn()
    # 1000 operations in between; one object kept by each would be a thousand.
    assert after[0] - before[0] < 200
    assert after[1:] <= before[1:]


# --- sound


async def test_sound_goes_through_a_bridge_and_back(engine: Recorder) -> None:
    media = AudioSocketTransport()
    media_id, port = uuid4(), media.open_port()
    waiting: dict[UUID, Any] = {media_id: port}
    heard: list[bytes] = []
    happened: list[PortEvent] = []
    port.on_audio, port.on_event = heard.append, happened.append
    await media.start(lambda wanted: waiting.pop(wanted, None))
    try:
        caller = await engine.originate(formats="ulaw")
        await engine.client.create_bridge("call-bridge", "call")
        await engine.client.add_to_bridge("call-bridge", caller)
        channel_id = f"media-{media_id}"
        await engine.client.external_media(channel_id, media.external_media(media_id), {"OUR": "variable"})
        await engine.event("StasisStart", channel_id)
        await wait_until(lambda: happened == [Connected()])
        assert await engine.client.get_variables(channel_id, ["OUR"]) == {"OUR": "variable"}
        await engine.client.add_to_bridge("call-bridge", channel_id)

        expand = converter(ULAW_8K, SLIN_8K)
        frames = [expand(bytes([number, 0x80 | number]) * 80) for number in range(1, 51)]
        for frame in frames:
            port.send(frame)
            await asyncio.sleep(0.02)
        await wait_until(lambda: b"".join(heard).count(frames[-1]) or None)
        assert b"".join(frames) in b"".join(heard)
        assert port.frames_dropped == 0

        await engine.client.hang_up(channel_id)
        await wait_until(lambda: any(isinstance(event, Closed) for event in happened))
        assert len(happened) == 2
        await engine.client.destroy_bridge("call-bridge")
    finally:
        await media.close()


async def test_external_media_that_nobody_expects_or_answers(engine: Recorder) -> None:
    media = AudioSocketTransport()
    await media.start(lambda _: None)
    # Asterisk connects before it is refused, so the channel exists for a moment.
    await engine.client.external_media("refused", media.external_media(uuid4()))
    await engine.event("ChannelDestroyed", "refused")
    assert media.counters.refused == 1
    nobody = media.external_media(uuid4()).external_host
    await media.close()
    with pytest.raises(AriError) as caught:
        await engine.client.external_media(
            "nobody", ExternalMedia(nobody, "slin", "audiosocket", "tcp", str(uuid4()))
        )
    assert caught.value.status == 500
