"""Requests to Asterisk about a call's files: in order, one at a time, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import pytest

from audio.formats import ULAW_8K
from engine.file_player import (
    MOST_WAITING,
    AriFilePlayer,
    FileEvent,
    FileFinished,
    FilePaused,
    FileStarted,
    play_once,
)
from engine.playback_files import PlaybackFiles
from testkit.waiting import wait_until
from transport.ari import AriClient, AriError, AriNotFound, AriUnavailable


class Ari:
    """Takes the player's requests; answers when it is let to."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, ...]] = []
        self.answers: dict[str, AriError] = {}
        """What the requests of a name are refused with."""
        self.open = asyncio.Event()
        self.open.set()
        self.at_once = 0

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, None]]:
        async def request(*arguments: str) -> None:
            self.requests.append((name, *arguments))
            self.at_once += 1
            assert self.at_once == 1
            try:
                await self.open.wait()
                await asyncio.sleep(0)
            finally:
                self.at_once -= 1
            if name in self.answers:
                raise self.answers[name]

        return request


class Desk:
    def __init__(self) -> None:
        self.ari = Ari()
        self.events: list[FileEvent] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.over = False
        """As a call that is over, it takes no more work."""
        self.player = AriFilePlayer(cast(AriClient, self.ari), "caller", spawn=self.spawn)
        self.player.on_event = self.events.append

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self.over:
            work.close()
        else:
            self.tasks.append(asyncio.create_task(work))

    async def idle(self) -> None:
        await asyncio.gather(*self.tasks)

    def tell(self, kind: str, playback_id: str, state: str) -> None:
        playback = {"id": playback_id, "state": state, "target_uri": "channel:caller"}
        self.player.on_ari({"type": kind, "playback": playback})


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    found = Desk()
    yield found
    for task in found.tasks:
        task.cancel()
    await asyncio.gather(*found.tasks, return_exceptions=True)


async def test_requests_are_made_one_after_the_other_in_order(desk: Desk) -> None:
    player = desk.player
    player.keep_silence()
    player.play("a", "sound:/a")
    player.play("b", "sound:/b")
    player.pause("a")
    player.resume("a")
    player.stop("b")
    player.stop("a")
    await desk.idle()
    assert desk.ari.requests == [
        ("start_silence", "caller"),
        ("play", "caller", "a", "sound:/a"),
        ("play", "caller", "b", "sound:/b"),
        ("pause_playback", "a"),
        ("resume_playback", "a"),
        ("stop_playback", "b"),
        ("stop_playback", "a"),
    ]
    assert desk.events == [FilePaused("a")]
    assert len(desk.tasks) == 1
    player.play("c", "sound:/c")
    await desk.idle()
    assert desk.ari.requests[-1] == ("play", "caller", "c", "sound:/c")


async def test_events_of_asterisk_become_those_of_files(desk: Desk) -> None:
    desk.tell("PlaybackStarted", "a", "playing")
    desk.tell("PlaybackFinished", "a", "done")
    desk.tell("PlaybackFinished", "b", "failed")
    desk.player.on_ari({"type": "StasisEnd", "channel": {"id": "caller"}})
    await desk.idle()
    assert desk.events[:2] == [FileStarted("a"), FileFinished("a")]
    assert isinstance(desk.events[2], FileFinished)
    assert desk.events[2].fault
    desk.tell("PlaybackFinished", "c", "failed")
    desk.player.close()
    desk.tell("PlaybackStarted", "d", "playing")
    await desk.idle()
    assert len(desk.events) == 3


async def test_what_fails_with_a_hang_up_is_not_told(desk: Desk) -> None:
    desk.ari.answers["play"] = AriNotFound(404, "Channel not found")
    desk.player.play("a", "sound:/a")
    await desk.idle()
    desk.over = True
    desk.tell("PlaybackFinished", "b", "failed")
    desk.player.close()
    await desk.idle()
    assert desk.events == []


async def test_a_play_that_is_refused_is_over(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    desk.ari.answers["play"] = AriUnavailable("no answer")
    desk.player.play("a", "sound:/a")
    desk.player.play("b", "sound:/b")
    await desk.idle()
    assert desk.events == [FileFinished("a", "no answer"), FileFinished("b", "no answer")]
    assert desk.player.requests_failed == 2
    assert capfd.readouterr().out.count("playback_request_failed") == 1


async def test_what_is_gone_already_is_no_fault(desk: Desk, capfd: pytest.CaptureFixture[str]) -> None:
    gone = AriNotFound(404, "Playback not found")
    desk.ari.answers = {
        "stop_playback": gone,
        "resume_playback": gone,
        "pause_playback": AriError(409, "Can only pause while media is playing"),
        "start_silence": gone,
        "play": gone,
    }
    player = desk.player
    player.keep_silence()
    player.stop("a")
    player.pause("a")
    player.resume("a")
    player.play("a", "sound:/a")
    await desk.idle()
    assert desk.events == []
    await desk.idle()
    assert desk.events == [FileFinished("a", "404 Playback not found")]
    assert player.requests_failed == 0
    assert capfd.readouterr().out == ""


async def test_requests_that_wait_are_bounded(desk: Desk) -> None:
    desk.ari.open.clear()
    for number in range(MOST_WAITING + 20):
        desk.player.play(str(number), "sound:/a")
    refused = [event for event in desk.events if isinstance(event, FileFinished)]
    assert len(refused) == 20
    assert refused[-1].playback_id == str(MOST_WAITING + 19)
    desk.ari.open.set()
    await desk.idle()
    assert len(desk.ari.requests) == MOST_WAITING


async def test_after_close_only_stops_are_made_and_nothing_is_told(desk: Desk) -> None:
    desk.ari.answers["play"] = AriUnavailable("no answer")
    desk.ari.open.clear()
    desk.player.play("a", "sound:/a")
    await wait_until(lambda: desk.ari.requests or None)
    desk.player.play("b", "sound:/b")
    desk.player.stop("b")
    desk.player.stop("a")
    desk.player.close()
    desk.player.play("c", "sound:/c")
    desk.ari.open.set()
    await desk.idle()
    assert [request[-1] for request in desk.ari.requests] == ["sound:/a", "b", "a"]
    assert desk.events == []


async def test_one_clip_is_over_with_its_end(desk: Desk, tmp_path: Path) -> None:
    files = PlaybackFiles(tmp_path, prefix="test").for_call()
    playing = asyncio.create_task(play_once(desk.player, files, bytes(8000), ULAW_8K))
    await wait_until(lambda: desk.ari.requests or None)
    playback_id = desk.ari.requests[0][2]
    assert [path.stem for path in tmp_path.iterdir()] == [playback_id]
    desk.tell("PlaybackStarted", playback_id, "playing")
    desk.tell("PlaybackFinished", "another", "done")
    await asyncio.sleep(0)
    assert not playing.done()
    desk.tell("PlaybackFinished", playback_id, "done")
    assert await playing
    assert list(tmp_path.iterdir()) == []


async def test_one_clip_without_an_end_is_stopped(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.file_player.CLIP_GRACE_S", 0.05)
    files = PlaybackFiles(tmp_path, prefix="test").for_call()
    assert not await play_once(desk.player, files, bytes(160), ULAW_8K)
    await desk.idle()
    assert [name for name, *_ in desk.ari.requests] == ["play", "stop_playback"]
    assert list(tmp_path.iterdir()) == []


async def test_one_clip_that_cannot_be_written_is_not_played(desk: Desk, tmp_path: Path) -> None:
    files = PlaybackFiles(tmp_path / "gone", prefix="test").for_call()
    assert not await play_once(desk.player, files, bytes(160), ULAW_8K)
    assert desk.ari.requests == []
