#!/usr/bin/env python3
"""Switches the provider that answers calls: changes the file, reloads the engine, waits until it is ready.

    .venv/bin/python scripts/switch_provider.py --list
    .venv/bin/python scripts/switch_provider.py openai_realtime

Exit codes: 0 switched, or the engine does not run and will start with the new provider; 1 the engine refused
or the provider did not become ready, and the file is as it was; 2 nothing was tried: the provider is unknown,
its credential is missing, or the configuration is broken.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import http.client
import json
import os
import stat
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import PROVIDERS, Config, ConfigError, load_config, parse_config, unknown_provider
from engine.config_edit import KEY, with_default_provider
from engine.config_file import parse, read_text
from engine.credentials import Credentials, missing_for_provider, read_environment

SWITCHED, NOT_SWITCHED, REFUSED = 0, 1, 2

POLL_INTERVAL_S = 0.2
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class SwitchError(Exception):
    """The engine is not with the new provider. The text is for people."""


class EngineNotRunningError(Exception):
    """Nobody answers at the engine's address."""


@dataclass(frozen=True)
class Engine:
    """The engine's HTTP side."""

    host: str
    port: int
    timeout_s: float
    """For each request, and for the provider to become ready."""

    @classmethod
    def of(cls, config: Config, timeout_s: float) -> Engine:
        return cls(LOOPBACK.get(config.http.host, config.http.host), config.http.port, timeout_s)

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    def reload(self) -> None:
        """Raises EngineNotRunningError, or SwitchError when it keeps its old configuration."""
        status, answer = self._ask("POST", "/reload")
        if status != 200 or not answer.get("reloaded"):
            raise SwitchError(f"the engine refused: {answer.get('error') or f'HTTP status {status}'}")

    def wait_for(self, provider: str) -> None:
        """Returns once new calls are given to ``provider`` and it is ready. Raises SwitchError."""
        deadline = time.monotonic() + self.timeout_s
        while True:
            trouble = self._trouble_with(provider)
            if trouble is None:
                return
            if time.monotonic() > deadline:
                raise SwitchError(f"{trouble} (waited {self.timeout_s:g} s)")
            time.sleep(POLL_INTERVAL_S)

    def _trouble_with(self, provider: str) -> str | None:
        try:
            _, health = self._ask("GET", "/health")
        except EngineNotRunningError:
            return "the engine stopped answering after it was told to reload"
        except SwitchError as error:
            return str(error)
        current = health.get("provider")
        if not isinstance(current, dict) or current.get("name") != provider:
            name = current.get("name") if isinstance(current, dict) else "an unknown provider"
            return f"the engine stays with {name}; does it run with another file?"
        if current.get("ready") is not True:
            return f"{provider} is not ready: {current.get('detail') or 'no reason given'}"
        return None

    def _ask(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """The status and the JSON object of the answer, empty where it is none."""
        request = urllib.request.Request(self.url + path, method=method)
        # Without proxies: those of the environment are for the world outside.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            try:
                with opener.open(request, timeout=self.timeout_s) as response:
                    status, body = response.status, response.read()
            except urllib.error.HTTPError as error:
                status, body = error.code, error.read()
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, ConnectionRefusedError):
                raise EngineNotRunningError from None
            raise SwitchError(f"no proper answer from the engine at {self.url}{path}: {reason}") from None
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        return status, answer if isinstance(answer, dict) else {}


@contextlib.contextmanager
def lock(folder: Path, timeout_s: float) -> Iterator[None]:
    """Holds the folder against other switches; the file itself will not do, since it is replaced."""
    descriptor = os.open(folder, os.O_RDONLY)
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SwitchError(f"another switch has been under way for {timeout_s:g} s") from None
                time.sleep(POLL_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)


def replace(path: Path, old: bytes, new: bytes) -> None:
    """Puts ``new`` in place of ``old`` in one step, with the owner and mode that the file has.

    Raises SwitchError if the file says something else than ``old`` by now, or cannot be replaced.
    """
    try:
        was = path.stat()
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(new)
                made = os.fstat(descriptor)
                if (was.st_uid, was.st_gid) != (made.st_uid, made.st_gid):
                    os.fchown(descriptor, was.st_uid, was.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(was.st_mode))
                file.flush()
                os.fsync(descriptor)
            if path.read_bytes() != old:
                raise SwitchError(f"{path} was changed by somebody else in the meantime")
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise SwitchError(f"{path} cannot be replaced: {error.strerror or error}") from None


def edited(text: str, path: Path, provider: str) -> tuple[str, Config]:
    """The file's text with the new provider, and what it means. Raises ConfigError."""
    before = parse(text, str(path)).data
    new_text = with_default_provider(text, provider)
    try:
        config = parse_config(new_text, path)
    except ConfigError:
        parse_config(text, path)  # if this fails too, its lines are those of the file that is there
        raise
    if parse(new_text, str(path)).data != {**before, KEY: provider}:
        raise ConfigError(f"{path}: {KEY} is tied to other keys; change it by hand")
    return new_text, config


def switch(path: Path, provider: str, *, reload: bool, timeout_s: float) -> str:
    """Changes the file and brings the engine along, or leaves both as they were. Returns what was done."""
    text = read_text(path)
    new_text, config = edited(text, path, provider)
    old, new = text.encode(), new_text.encode()
    if new != old:
        replace(path, old, new)
    done = f"{KEY} is {'already ' if new == old else ''}{provider} in {path}"
    if not reload:
        return done
    if config.http.port == 0:
        return f"{done}; where the engine listens is not known (http.port is 0), so restart it"
    engine = Engine.of(config, timeout_s)
    try:
        engine.reload()
        engine.wait_for(provider)
    except EngineNotRunningError:
        return f"{done}; no engine runs at {engine.url}: it will start with {provider}"
    except (SwitchError, KeyboardInterrupt) as error:
        reason = str(error) or "interrupted"
        if new != old:
            reason = f"{reason}; {undone(path, engine, old, new)}"
        raise SwitchError(reason) from None
    return f"{done}; the engine at {engine.url} is ready with it"


def undone(path: Path, engine: Engine, old: bytes, new: bytes) -> str:
    """Restores the file and has the engine read it again. Returns how that went."""
    try:
        replace(path, new, old)
    except SwitchError as error:
        return f"the file was not restored: {error}"
    try:
        engine.reload()
    except (SwitchError, EngineNotRunningError):
        return f"{path} is restored, but the engine has not read it again"
    return f"{path} is restored"


def listing(config: Config, credentials: Credentials) -> Iterator[str]:
    for provider in PROVIDERS:
        mark = "*" if provider == config.default_provider else " "
        missing = missing_for_provider(provider, credentials)
        yield f"{mark} {provider}" + (f"   ({missing})" if missing else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provider", nargs="?", help="who is to answer calls")
    parser.add_argument("--list", action="store_true", help="show the providers; * marks the one in the file")
    parser.add_argument("--config", type=Path, default=Path("config/ai-agent.yaml"), metavar="FILE")
    parser.add_argument("--env", type=Path, default=Path(".env"), metavar="FILE", help="where credentials are")
    parser.add_argument("--no-reload", action="store_true", help="only change the file")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="for becoming ready")
    options = parser.parse_args(arguments)
    if not options.list and not options.provider:
        parser.error("name a provider, or use --list")
    try:
        credentials = Credentials.from_environment(read_environment(options.env, os.environ))
        if options.list:
            print(*listing(load_config(options.config), credentials), sep="\n")
            return SWITCHED
        if options.provider not in PROVIDERS:
            raise ConfigError(unknown_provider(options.provider))
        missing = missing_for_provider(options.provider, credentials)
        if missing:
            raise ConfigError(missing)
        read_text(options.config)
        path = options.config.resolve()  # a link stays one: what it points to is replaced
        with lock(path.parent, timeout_s=2 * options.timeout):
            print(switch(path, options.provider, reload=not options.no_reload, timeout_s=options.timeout))
    except ConfigError as error:
        print(*error.problems, sep="\n", file=sys.stderr)
        return REFUSED
    except SwitchError as error:
        print(f"not switched: {error}", file=sys.stderr)
        return NOT_SWITCHED
    return SWITCHED


if __name__ == "__main__":
    sys.exit(main())
