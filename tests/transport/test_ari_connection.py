"""The ARI client's connection to a real Asterisk that is restarted and cut off."""

from __future__ import annotations

import asyncio
import base64
import logging
from typing import Any
from urllib.parse import quote, quote_plus
from uuid import uuid4

import pytest
from ari_support import (
    APP,
    PASSWORD,
    USERNAME,
    Connect,
    PrivateAsterisk,
    Recorder,
    Wire,
    dialplan_application,
)
from structlog.testing import capture_logs

from testkit.waiting import wait_until
from transport import ari, ari_events
from transport.ari import (
    AriNotFound,
    AriState,
    AriUnavailable,
    Event,
    Snapshot,
)

pytestmark = pytest.mark.asterisk


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
    assert [bridge["channels"] for bridge in snapshot.bridges if bridge["name"] == "name before"] == [[channel_id]]
    await engine.client.destroy_bridge("bridge-before")


async def test_what_happens_while_connecting_is_told_after_the_snapshot(engine: Recorder, start: Connect) -> None:
    late = await start(app="late")
    take_stock, born = late.client._take_stock, uuid4().hex

    async def take_stock_slowly() -> Snapshot:
        snapshot = await take_stock()
        await engine.client._rest.call(
            "channels", "originateWithId", channelId=born, endpoint="Local/600@from-sip", app="late"
        )
        # Once the channel is in the application its event is on its way.
        async with asyncio.timeout(5):
            while await dialplan_application(engine, born) != "Stasis":
                await asyncio.sleep(0.01)
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
    refusal = "ARI refused the credentials in ASTERISK_ARI_USERNAME/ASTERISK_ARI_PASSWORD: 401 Unauthorized"
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
    assert [(entry["event"], entry["event_type"]) for entry in logs] == [("ari_handler_failed", "StasisStart")]
    assert engine.client.state is AriState.CONNECTED
