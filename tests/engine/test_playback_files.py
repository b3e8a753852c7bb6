"""Files for Asterisk on a real disk."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from audio.formats import SLIN_8K, SLIN_16K, ULAW_8K
from engine.playback_files import LEFTOVER_S, PlaybackFiles

SOUND = bytes(range(200)) * 4


@pytest.fixture
def files(tmp_path: Path) -> PlaybackFiles:
    found = PlaybackFiles(tmp_path / "a" / "sounds", prefix="engine")
    found.prepare()
    return found


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_everybody_may_read_what_is_written_whatever_the_umask(tmp_path: Path) -> None:
    with umask(0o077):
        files = PlaybackFiles(tmp_path / "sounds", prefix="engine")
        files.prepare()
        file = files.for_call().write(SOUND, ULAW_8K)
    assert (tmp_path / "sounds").stat().st_mode & 0o777 == 0o755
    assert file.path.stat().st_mode & 0o777 == 0o644
    assert file.path.read_bytes() == SOUND


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir(mode=0o750)
    PlaybackFiles(tmp_path / "sounds", prefix="engine").prepare()
    assert (tmp_path / "sounds").stat().st_mode & 0o777 == 0o750


def test_the_uri_is_the_absolute_path_without_its_extension(
    files: PlaybackFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = files.for_call().write(SOUND, SLIN_16K)
    assert file.uri == f"sound:{tmp_path}/a/sounds/{file.name}"
    assert file.path == tmp_path / "a" / "sounds" / f"{file.name}.sln16"
    monkeypatch.chdir(tmp_path)
    relative = PlaybackFiles(Path("here"), prefix="engine")
    relative.prepare()
    assert relative.for_call().write(SOUND, SLIN_8K).uri.startswith(f"sound:{tmp_path}/here/engine-playback-")


def test_asterisk_may_see_the_folder_elsewhere(tmp_path: Path) -> None:
    file = PlaybackFiles(tmp_path, prefix="engine", seen_as=Path("/sounds")).for_call().write(SOUND, ULAW_8K)
    assert file.uri == f"sound:/sounds/{file.name}"
    assert file.path.parent == tmp_path


@pytest.mark.parametrize("name", ["a,b", 'a"b'])
def test_a_path_that_asterisk_cannot_play_from_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot play from"):
        PlaybackFiles(tmp_path / name, prefix="engine")


def test_no_two_calls_and_no_two_files_have_a_name_in_common(files: PlaybackFiles) -> None:
    calls = [files.for_call() for _ in range(20)]
    names = {call.write(SOUND, ULAW_8K).name for call in calls for _ in range(5)}
    assert len(names) == 100
    secrets = {name.removeprefix("engine-playback-").partition("-")[0] for name in names}
    assert len(secrets) == 20
    assert all(len(secret) == 32 for secret in secrets)


def test_removing_and_closing_leave_nothing_and_may_be_repeated(files: PlaybackFiles) -> None:
    call, other = files.for_call(), files.for_call()
    kept = other.write(SOUND, ULAW_8K)
    first, second = call.write(SOUND, ULAW_8K), call.write(SOUND, ULAW_8K)
    call.remove(first)
    call.remove(first)
    assert not first.path.exists()
    second.path.unlink()
    call.write(SOUND, ULAW_8K)
    call.close()
    call.close()
    assert list(kept.path.parent.iterdir()) == [kept.path]


@pytest.mark.parametrize("wire", [ULAW_8K, SLIN_16K])
def test_the_first_frame_becomes_silence_and_the_rest_stays(files: PlaybackFiles, wire: object) -> None:
    assert wire in (ULAW_8K, SLIN_16K)
    audio_format = ULAW_8K if wire is ULAW_8K else SLIN_16K
    sound = b"\x55" * 3 * audio_format.frame_bytes
    call = files.for_call()
    file = call.write(sound, audio_format)
    call.silence_start(file, audio_format)
    assert file.path.read_bytes() == audio_format.silent_frame + sound[audio_format.frame_bytes :]


def test_a_write_that_fails_in_the_middle_leaves_no_file(files: PlaybackFiles, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            files.for_call().write(bytes(100_000), ULAW_8K)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "a" / "sounds").iterdir()) == []


def test_a_folder_that_cannot_be_made_or_is_gone_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        PlaybackFiles(tmp_path / "file" / "sounds", prefix="engine").prepare()
    with pytest.raises(FileNotFoundError):
        PlaybackFiles(tmp_path / "gone", prefix="engine").for_call().write(SOUND, ULAW_8K)


def test_leftovers_of_dead_engines_are_swept_and_nothing_else(files: PlaybackFiles, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "sounds"
    old = time.time() - LEFTOVER_S - 60
    for name, at in (
        ("engine-playback-dead-1.ulaw", old),
        ("engine-playback-alive-1.ulaw", time.time()),
        ("other-playback-dead-1.ulaw", old),
        ("engine.ulaw", old),
    ):
        (folder / name).write_bytes(SOUND)
        os.utime(folder / name, (at, at))
    PlaybackFiles(folder, prefix="engine").prepare()
    assert {path.name for path in folder.iterdir()} == {
        "engine-playback-alive-1.ulaw",
        "other-playback-dead-1.ulaw",
        "engine.ulaw",
    }
    assert files.sweep() == 0
