"""Playback by files as a caller of a real Asterisk hears it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from audio.convert import converter
from audio.formats import ULAW_8K, AudioFormat, Encoding
from engine.cushion import Cushioning
from engine.file_playback import FilePlaybackManager
from engine.file_player import AriFilePlayer, play_once
from engine.metronome import Metronome
from engine.playback_files import EXTENSIONS, PlaybackFiles
from engine.playout import (
    AgentSilenced,
    PlaybackState,
    PlayoutDrained,
    PlayoutEvent,
    PlayoutFinished,
    PlayoutStalled,
    PlayoutStarted,
)
from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller
from testkit.hearing import find_clip
from testkit.rtp import RtpPacket
from testkit.waiting import wait_until
from transport.ari import AriClient, Event

pytestmark = pytest.mark.asterisk


@dataclass
class Line:
    """A caller whose channel files are played on, and the playback of one call."""

    caller: SipCaller
    client: AriClient
    player: AriFilePlayer
    files: PlaybackFiles
    folder: Path
    seen_as: Path
    """The folder in Asterisk's eyes."""
    playback: FilePlaybackManager
    events: list[PlayoutEvent] = field(default_factory=list)

    def voiced(self) -> list[RtpPacket]:
        return [packet for packet in self.caller.received if packet.is_sound and packet.payload.strip(b"\xff\x7f")]

    async def happened(self, kind: type[PlayoutEvent], timeout_s: float = 15) -> PlayoutEvent:
        def found() -> PlayoutEvent | None:
            return next((event for event in self.events if isinstance(event, kind)), None)

        return await wait_until(found, timeout_s, kind.__name__)

    def left_on_disk(self) -> list[str]:
        return [path.name for path in self.folder.iterdir()]


def noise(milliseconds: int, seed: int = 1) -> bytes:
    """μ-law in which no frame is like another, and no sample is silent."""
    codes = [code for code in range(256) if code not in (0x7F, 0xFF)]
    return bytes(random.Random(seed).choices(codes, k=8 * milliseconds))


@pytest.fixture
async def line(asterisk: AsteriskInstance, tmp_path: Path) -> AsyncIterator[Line]:
    client = AriClient("127.0.0.1", asterisk.ari_port, asterisk.app_name, asterisk.username, asterisk.password)
    connected = asyncio.Event()
    arrived: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    players: list[AriFilePlayer] = []

    def on_event(event: Event) -> None:
        if event["type"] == "StasisStart":
            arrived.set_result(event["channel"]["id"])
        for player in players:
            player.on_ari(event)

    client.on_event = on_event
    client.on_connected = lambda _: connected.set()
    tasks: set[asyncio.Task[None]] = {asyncio.create_task(client.run())}
    await connected.wait()
    async with SipCaller(server=("127.0.0.1", asterisk.sip_port), extension="100") as caller:
        dialling = asyncio.create_task(caller.dial())
        channel = await arrived
        await client.answer(channel)
        await dialling
        player = AriFilePlayer(client, channel, spawn=lambda work: tasks.add(asyncio.create_task(work)))
        players.append(player)
        folder = tmp_path / "sounds"
        seen_as = tmp_path / "seen by Asterisk"
        files = PlaybackFiles(folder, prefix="test", seen_as=seen_as)
        files.prepare()
        seen_as.symlink_to(folder)
        events: list[PlayoutEvent] = []
        playback = FilePlaybackManager(ULAW_8K, player, files.for_call(), events.append, cushioning=Cushioning())
        leave = Metronome().join(playback.tick)
        playback.start()
        yield Line(caller, client, player, files, folder, seen_as, playback, events)
        leave()
        playback.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    assert not list(folder.iterdir())


async def test_a_reply_that_streams_is_heard_bit_for_bit_without_a_gap(line: Line) -> None:
    sound = noise(5000)
    for offset in range(0, len(sound), 1600):
        line.playback.enqueue("a", sound[offset : offset + 1600])
        await asyncio.sleep(0.1)
    line.playback.complete("a")
    await line.happened(PlayoutDrained)
    heard = line.voiced()
    assert b"".join(packet.payload for packet in heard) == sound
    # Asterisk marks what it sends after a gap, and makes its time jump.
    assert all(later.timestamp - earlier.timestamp == 160 for earlier, later in pairwise(heard))
    assert not any(packet.marker for packet in heard[1:])
    assert [type(event) for event in line.events] == [PlayoutStarted, PlayoutFinished, PlayoutDrained]
    assert line.playback.ledger.heard_ms("a") == 5000
    assert line.playback.stats.underruns == 0
    assert line.left_on_disk() == []
    silent = len(line.caller.received)
    await wait_until(lambda: len(line.caller.received) > silent + 3, what="silence after the reply")


async def test_a_cut_is_heard_at_once_and_tells_what_was_heard(line: Line) -> None:
    line.playback.enqueue("a", noise(4000))
    line.playback.complete("a")
    line.playback.enqueue("b", noise(4000, seed=2))
    await wait_until(lambda: len(line.voiced()) >= 60)
    first, second = line.playback.cut()
    cut_at = time.monotonic()
    await line.happened(AgentSilenced)
    await wait_until(lambda: line.left_on_disk() == [])
    await asyncio.sleep(0.1)
    heard = line.voiced()
    assert sum(packet.arrived_at > cut_at for packet in heard) <= 3
    assert abs(first.heard_ms - 20 * len(heard)) <= 100
    assert second.heard_ms == 0
    sound = noise(300, seed=3)
    line.playback.enqueue("c", sound)
    line.playback.complete("c")
    await line.happened(PlayoutDrained)
    assert b"".join(packet.payload for packet in line.voiced()[len(heard) :]) == sound


async def test_pauses_lose_and_repeat_nothing(line: Line) -> None:
    sound = noise(2000)
    line.playback.enqueue("a", sound)
    line.playback.complete("a")
    await wait_until(lambda: len(line.voiced()) >= 10)
    for packets in (20, 35, 50):
        line.playback.pause()
        await asyncio.sleep(0.05)
        held = len(line.voiced())
        heard_ms = line.playback.ledger.heard_ms("a")
        assert abs(heard_ms - 20 * held) <= 100
        await asyncio.sleep(0.06)
        assert len(line.voiced()) == held
        assert line.playback.state is PlaybackState.PAUSED
        line.playback.resume()
        await wait_until(lambda packets=packets: len(line.voiced()) >= packets)
    await line.happened(PlayoutDrained)
    assert b"".join(packet.payload for packet in line.voiced()) == sound
    assert line.playback.ledger.heard_ms("a") == 2000


async def test_a_hang_up_in_the_middle_is_told_and_leaves_nothing(line: Line) -> None:
    line.playback.enqueue("a", noise(4000))
    await wait_until(lambda: len(line.voiced()) >= 5)
    await line.caller.hangup()
    assert await line.happened(PlayoutStalled) == PlayoutStalled("a")
    await line.happened(PlayoutDrained)
    assert line.playback.ledger.heard_ms("a") <= 20 * len(line.voiced()) + 100
    assert line.player.requests_failed == 0


async def test_files_that_asterisk_does_not_find_end_the_item_only(line: Line) -> None:
    line.seen_as.unlink()
    line.playback.enqueue("a", noise(500))
    await line.happened(PlayoutDrained)
    assert line.events[-2] == PlayoutStalled("a")
    assert line.voiced() == []
    line.seen_as.symlink_to(line.folder)
    line.playback.enqueue("b", noise(500))
    line.playback.complete("b")
    await wait_until(lambda: PlayoutFinished("b") in line.events)
    assert find_clip(line.caller.heard(), noise(500)) is not None


async def test_one_clip_is_played_to_a_caller_without_any_playback(line: Line) -> None:
    files = line.files.for_call()
    assert await play_once(line.player, files, noise(400), ULAW_8K)
    assert b"".join(packet.payload for packet in line.voiced()) == noise(400)
    assert line.left_on_disk() == []
    playing = asyncio.create_task(play_once(line.player, files, noise(4000), ULAW_8K))
    await wait_until(lambda: len(line.voiced()) >= 30)
    await line.caller.hangup()
    assert not await playing
    assert not await play_once(line.player, files, noise(400), ULAW_8K)
    assert line.left_on_disk() == []


@pytest.mark.parametrize("carried", EXTENSIONS, ids=str)
async def test_asterisk_plays_every_format(line: Line, carried: AudioFormat) -> None:
    loud = b"\x00\x20" * (carried.rate_hz // 5)
    sound = converter(AudioFormat(Encoding.SLIN, carried.rate_hz), carried)(loud)
    assert await play_once(line.player, line.files.for_call(), sound, carried)
    assert len(line.voiced()) in (10, 11)
