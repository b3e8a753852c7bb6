"""A private Asterisk for tests, on ports and in a folder of its own, through ``scripts/asterisk``."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "asterisk"
SERVER_PORTS = (11_000, 19_000)
RTP_PORTS = 1000
START_LIMIT_S = 600
"""Generous: the first start may have to download Asterisk."""
KILL_LIMIT_S = 10


class AsteriskFailedError(Exception):
    """``scripts/asterisk`` failed; the text is what it printed."""


class AsteriskInstance:
    """``with AsteriskInstance() as asterisk``: started, and stopped in any case.

    With a ``certificate`` (a PEM file with its key, for localhost) it also speaks HTTPS, and has a client
    "voice-engine-tls" that trusts in it.
    """

    def __init__(
        self,
        *,
        app_name: str = "voice-engine",
        password: str = "a-password-of-tests",
        certificate: Path | None = None,
    ) -> None:
        self.app_name = app_name
        self.username = "tests"
        self.password = password
        self.home = Path(tempfile.mkdtemp(prefix="asterisk-"))
        self.ari_port = _free_port(socket.SOCK_STREAM)
        self.media_username = "asterisk"
        self.media_password = "another-password; of tests"
        self.media_ws_port = _free_port(socket.SOCK_STREAM)
        """Where its websocket client "voice-engine" connects to."""
        self.media_wss_port = _free_port(socket.SOCK_STREAM)
        """Where "voice-engine-tls" does."""
        self.https_port = _free_port(socket.SOCK_STREAM)
        self.sip_port = _free_port(socket.SOCK_DGRAM)
        self.rtp_ports = _free_range()
        if certificate is not None:
            self._add_tls(certificate)

    def start(self) -> None:
        self._run("start", timeout_s=START_LIMIT_S)

    def stop(self) -> None:
        self._run("stop")

    @property
    def pid(self) -> int:
        state = (self.home / "instance.env").read_text()
        return int(state.partition("PID=")[2].split()[0])

    def kill(self) -> None:
        """Ends the process at once, as a crash would; ``start`` brings it back on the same ports."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + KILL_LIMIT_S
        while _is_running(pid):
            if time.monotonic() > deadline:
                raise AsteriskFailedError(f"process {pid} outlived SIGKILL")
            time.sleep(0.01)

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
        try:
            self.stop()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)

    def _add_tls(self, certificate: Path) -> None:
        local = self.home / "local"
        local.mkdir()
        (local / "http.conf").write_text(
            f"tlsenable = yes\ntlsbindaddr = 127.0.0.1:{self.https_port}\n"
            f"tlscertfile = {certificate}\ntlsprivatekey = {certificate}\n"
        )
        password = self.media_password.replace(";", "\\;")
        (local / "websocket_client.conf").write_text(
            f"[voice-engine-tls]\ntype = websocket_client\nuri = wss://localhost:{self.media_wss_port}/media\n"
            f"protocols = media\nconnection_type = per_call_config\n"
            f"username = {self.media_username}\npassword = {password}\n"
            f"tls_enabled = yes\nca_list_file = {certificate}\n"
        )

    def _run(self, *arguments: str, timeout_s: float = 60) -> str:
        environment = {
            "ASTERISK_HOME": str(self.home),
            "ARI_APP": self.app_name,
            "ARI_PORT": str(self.ari_port),
            "MEDIA_WS_PORT": str(self.media_ws_port),
            "SIP_PORT": str(self.sip_port),
            "RTP_PORT_START": str(self.rtp_ports[0]),
            "RTP_PORT_END": str(self.rtp_ports[1]),
            "ASTERISK_ARI_USERNAME": self.username,
            "ASTERISK_ARI_PASSWORD": self.password,
            "ASTERISK_MEDIA_USERNAME": self.media_username,
            "ASTERISK_MEDIA_PASSWORD": self.media_password,
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


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"  # a zombie is over, but not yet reaped


def _free_port(kind: socket.SocketKind) -> int:
    """A free port, drawn at random, so that two suites hardly ever meet; below those that the kernel hands out
    (32768 and up), one of which a socket of the suite could be given before Asterisk starts or restarts."""
    while True:
        port = random.randrange(*SERVER_PORTS)
        if _is_free(port, kind):
            return port


def _free_range() -> tuple[int, int]:
    """A range whose first and last ports are free; Asterisk passes over ports between them that are not."""
    while True:
        first = 2 * random.randrange(10_000, 15_000)
        last = first + RTP_PORTS - 1
        if _is_free(first, socket.SOCK_DGRAM) and _is_free(last, socket.SOCK_DGRAM):
            return first, last


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
