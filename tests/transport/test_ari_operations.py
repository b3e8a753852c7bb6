"""What the ARI client does with the channels and bridges of a real Asterisk."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from uuid import uuid4

import psutil
import pytest
from ari_support import (
    APP,
    PASSWORD,
    USERNAME,
    Recorder,
    dialplan_application,
)

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from testkit.waiting import wait_until
from transport.ari import (
    AriClient,
    AriError,
    AriNotFound,
    AriUnavailable,
    HangupCause,
)
from transport.audiosocket import AudioSocketTransport
from transport.media import Closed, Connected, PortEvent

pytestmark = pytest.mark.asterisk


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
    async with asyncio.timeout(5):
        while await dialplan_application(engine, channel_id) != "Echo":
            await asyncio.sleep(0.01)


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
    with pytest.raises(AriError, match="Bridge not"):
        await engine.client.add_to_bridge(bridge_id, first)


async def test_a_bridge_that_is_gone_is_not_found_however_fresh_its_end(engine: Recorder) -> None:
    for number in range(100):
        await engine.client.create_bridge(f"short-lived-{number}", "short-lived")
        await engine.client.destroy_bridge(f"short-lived-{number}")
        with pytest.raises(AriNotFound):
            await engine.client.destroy_bridge(f"short-lived-{number}")


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
    media_id = uuid4()
    port = media.open_port(media_id, SLIN_8K)
    heard: list[bytes] = []
    happened: list[PortEvent] = []
    port.on_audio, port.on_event = heard.append, happened.append
    await media.start()
    try:
        caller = await engine.originate(formats="ulaw")
        await engine.client.create_bridge("call-bridge", "call")
        await engine.client.add_to_bridge("call-bridge", caller)
        channel_id = f"media-{media_id}"
        await engine.client.external_media(channel_id, port.external_media(), {"OUR": "variable"})
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
    await media.start()
    port = media.open_port(uuid4(), SLIN_8K)
    external = port.external_media()
    port.close()
    # Asterisk connects before it is refused, so the channel exists for a moment.
    await engine.client.external_media("refused", external)
    await engine.event("ChannelDestroyed", "refused")
    assert media.counters["refused"] == 1
    await media.close()
    with pytest.raises(AriError) as caught:
        await engine.client.external_media("nobody", external)
    assert caught.value.status == 500
