"""Playing files to a caller of a real Asterisk, who is heard all the while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest
from ari_support import PrivateAsterisk, Recorder

from audio.convert import converter
from audio.formats import SLIN_8K, ULAW_8K
from testkit.caller import SipCaller
from testkit.hearing import find_clip
from testkit.waiting import wait_until
from transport.ari import AriError, AriNotFound
from transport.audiosocket import AudioSocketTransport
from transport.media import Connected, PortEvent

pytestmark = pytest.mark.asterisk


@dataclass
class Line:
    """A caller in the application, answered, in no bridge."""

    engine: Recorder
    caller: SipCaller
    channel: str
    folder: Path

    def sound_file(self, sound: bytes) -> str:
        name = self.folder / uuid4().hex
        name.with_suffix(".ulaw").write_bytes(sound)
        return f"sound:{name}"

    async def play(self, sound: bytes) -> str:
        playback_id = str(uuid4())
        await self.engine.client.play(self.channel, playback_id, self.sound_file(sound))
        return playback_id

    def states(self, playback_id: str) -> list[tuple[str, str]]:
        """The events of one playback, and what they say of it."""
        events = [entry for entry in self.engine.log if isinstance(entry, dict) and "playback" in entry]
        return [(e["type"], e["playback"]["state"]) for e in events if e["playback"]["id"] == playback_id]

    async def over(self, playback_id: str) -> list[tuple[str, str]]:
        await wait_until(lambda: [s for t, s in self.states(playback_id) if t == "PlaybackFinished"] or None)
        return self.states(playback_id)

    def voiced(self) -> bytes:
        packets = [packet.payload for packet in self.caller.received if packet.is_sound]
        return b"".join(payload for payload in packets if payload.strip(b"\xff\x7f"))


def noise(milliseconds: int, seed: int = 1) -> bytes:
    """μ-law in which no frame is like another, and no sample is silent."""
    codes = [code for code in range(256) if code not in (0x7F, 0xFF)]
    return bytes(random.Random(seed).choices(codes, k=8 * milliseconds))


STARTED, FINISHED = ("PlaybackStarted", "playing"), ("PlaybackFinished", "done")
FAILED = ("PlaybackFinished", "failed")


@pytest.fixture
async def line(engine: Recorder, private_asterisk: PrivateAsterisk, tmp_path: Path) -> AsyncIterator[Line]:
    async with SipCaller(server=("127.0.0.1", private_asterisk.sip_port), extension="100") as caller:
        dialling = asyncio.create_task(caller.dial())
        channel = (await engine.event("StasisStart"))["channel"]["id"]
        await engine.client.answer(channel)
        await dialling
        yield Line(engine, caller, channel, tmp_path)


async def test_queued_files_are_heard_as_one(line: Line) -> None:
    first, second = noise(700, seed=1), noise(500, seed=2)
    ids = [await line.play(first), await line.play(second)]
    for playback_id in ids:
        assert await line.over(playback_id) == [STARTED, FINISHED]
    assert find_clip(line.caller.heard(), first + second) is not None
    (event,) = [e for e in line.engine.events("PlaybackStarted") if e["playback"]["id"] == ids[0]]
    assert event["playback"]["target_uri"] == f"channel:{line.channel}"


async def test_stopping_ends_what_plays_and_what_waits(line: Line) -> None:
    playing, waiting = await line.play(noise(5000)), await line.play(noise(500, seed=2))
    await wait_until(lambda: len(line.caller.received) >= 10)
    await line.engine.client.stop_playback(waiting)
    await line.engine.client.stop_playback(playing)
    # What was sent before the answer has arrived; nothing follows.
    await asyncio.sleep(0.02)
    heard = len(line.caller.received)
    assert await line.over(playing) == [STARTED, FINISHED]
    assert await line.over(waiting) == [FINISHED]
    await asyncio.sleep(0.2)
    assert len(line.caller.received) == heard < 100
    with pytest.raises(AriNotFound):
        await line.engine.client.stop_playback(playing)
    with pytest.raises(AriNotFound):
        await line.engine.client.pause_playback(playing)


async def test_after_a_pause_the_first_frame_and_then_the_next_sample(line: Line) -> None:
    sound = noise(600)
    playing, waiting = await line.play(sound), await line.play(noise(20, seed=2))
    await wait_until(lambda: len(line.caller.received) >= 10)
    with pytest.raises(AriError, match="409"):
        await line.engine.client.pause_playback(waiting)
    await line.engine.client.pause_playback(playing)
    await asyncio.sleep(0.1)
    held = len(line.caller.heard())
    await asyncio.sleep(0.1)
    assert len(line.caller.heard()) == held
    await line.engine.client.resume_playback(playing)
    await line.over(waiting)
    expected = sound[:held] + sound[: ULAW_8K.frame_bytes] + sound[held:]
    assert find_clip(line.caller.heard(), expected + noise(20, seed=2)) is not None


async def test_silence_flows_until_something_is_played(line: Line) -> None:
    sound = noise(200)
    await line.engine.client.start_silence(line.channel)
    await line.engine.client.start_silence(line.channel)
    await wait_until(lambda: len(line.caller.received) >= 10)
    assert line.voiced() == b""
    await line.over(await line.play(sound))
    assert line.voiced() == sound
    heard = len(line.caller.received)
    await asyncio.sleep(0.1)
    assert len(line.caller.received) == heard
    await line.engine.client.start_silence(line.channel)
    await wait_until(lambda: len(line.caller.received) > heard + 5)
    assert line.voiced() == sound


async def test_a_file_that_is_not_there_fails(line: Line) -> None:
    await line.engine.client.play(line.channel, "nothing", "sound:/nowhere/nothing")
    assert await line.over("nothing") == [STARTED, FAILED]


async def test_a_hang_up_fails_what_plays_and_what_waits(line: Line) -> None:
    playing, waiting = await line.play(noise(5000)), await line.play(noise(5000))
    await wait_until(lambda: len(line.caller.received) >= 5)
    await line.caller.hangup()
    assert await line.over(playing) == [STARTED, FAILED]
    assert await line.over(waiting) == [STARTED, FAILED]
    await line.engine.event("StasisEnd", line.channel)
    with pytest.raises(AriNotFound):
        await line.play(noise(20))


async def test_the_caller_is_heard_through_a_snoop_while_a_file_plays(line: Line) -> None:
    media = AudioSocketTransport()
    media_id = uuid4()
    port = media.open_port(media_id, SLIN_8K)
    heard: list[bytes] = []
    happened: list[PortEvent] = []
    port.on_audio, port.on_event = heard.append, happened.append
    await media.start()
    client = line.engine.client
    try:
        await asyncio.gather(
            client.create_bridge("uplink", "uplink"),
            client.external_media(f"media-{media_id}", port.external_media()),
            client.snoop(line.channel, f"snoop-{media_id}"),
        )
        await line.engine.event("StasisStart", f"media-{media_id}")
        await line.engine.event("StasisStart", f"snoop-{media_id}")
        await wait_until(lambda: happened == [Connected()])
        await client.add_to_bridge("uplink", f"media-{media_id}", f"snoop-{media_id}")

        said, played = noise(1500, seed=3), noise(1000, seed=4)
        await wait_until(lambda: len(heard) >= 5)
        line.caller.speak(said)
        playback_id = await line.play(played)
        line.caller.dtmf("7")
        assert await line.over(playback_id) == [STARTED, FINISHED]
        key = await line.engine.event("ChannelDtmfReceived", line.channel)
        assert key["digit"] == "7"
        assert find_clip(line.caller.heard(), played) is not None
        # Where the caller's packet is late for the snoop's beat, there is a frame of silence more.
        expected, silence = converter(ULAW_8K, SLIN_8K)(said), SLIN_8K.silent_frame
        await wait_until(
            lambda: b"".join(frame for frame in heard if frame != silence) == expected, what="the caller's sound"
        )

        await line.caller.hangup()
        # The snoop ends with the caller; the rest is ours to remove.
        await line.engine.event("StasisEnd", f"snoop-{media_id}")
        await client.hang_up(f"media-{media_id}")
        await client.destroy_bridge("uplink")
    finally:
        await media.close()
