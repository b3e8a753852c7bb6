"""A private Asterisk for tests, on ports and in a folder of its own, through ``scripts/asterisk``."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "asterisk"
RTP_PORTS = 1000
START_LIMIT_S = 600
"""Generous: the first start may have to download Asterisk."""


class AsteriskFailedError(Exception):
    """``scripts/asterisk`` failed; the text is what it printed."""


class AsteriskInstance:
    """``with AsteriskInstance() as asterisk``: started, and stopped in any case."""

    def __init__(self, *, app_name: str = "voice-engine", password: str = "a-password-of-tests") -> None:
        self.app_name = app_name
        self.username = "tests"
        self.password = password
        self.home = Path(tempfile.mkdtemp(prefix="asterisk-"))
        self.ari_port = _free_port(socket.SOCK_STREAM)
        self.sip_port = _free_port(socket.SOCK_DGRAM)
        self.rtp_ports = _free_range()

    def start(self) -> None:
        self._run("start", timeout_s=START_LIMIT_S)

    def stop(self) -> None:
        self._run("stop")

    def restart(self) -> None:
        self.stop()
        self.start()

    def cli(self, command: str) -> str:
        """What Asterisk's console says to a command."""
        return self._run("cli", command)

    def channels(self) -> list[str]:
        """Names of the channels that there are."""
        return [line.split("!")[0] for line in self.cli("core show channels concise").splitlines() if "!" in line]

    def bridges(self) -> list[str]:
        """Ids of the bridges that there are."""
        lines = self.cli("bridge show all").splitlines()[1:]
        return [line.split()[0] for line in lines if line.strip()]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def _run(self, *arguments: str, timeout_s: float = 60) -> str:
        environment = {
            "ASTERISK_HOME": str(self.home),
            "ARI_APP": self.app_name,
            "ARI_PORT": str(self.ari_port),
            "SIP_PORT": str(self.sip_port),
            "RTP_PORT_START": str(self.rtp_ports[0]),
            "RTP_PORT_END": str(self.rtp_ports[1]),
            "ASTERISK_ARI_USERNAME": self.username,
            "ASTERISK_ARI_PASSWORD": self.password,
        }
        result = subprocess.run(
            [SCRIPT, *arguments],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if result.returncode:
            raise AsteriskFailedError(f"{' '.join(arguments)}: {result.stdout}{result.stderr}")
        return result.stdout


def _free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _free_range() -> tuple[int, int]:
    """A range whose first and last ports are free; drawn at random, so that two suites hardly ever meet."""
    while True:
        first = 2 * random.randrange(10_000, 15_000)
        try:
            for port in (first, first + RTP_PORTS - 1):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first, first + RTP_PORTS - 1
