"""How sockets that carry sound are set up, and what addresses mean."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

PEER_TIMEOUT_MS = 10_000
"""How long the peer may leave what we sent unacknowledged before the kernel gives the connection up."""
STALL_LIMIT_S = 10.0
"""How long a peer may not read before we give it up: the kernel's limit is set back by whatever the peer sends."""

# What the kernel holds on top of our own backlog; left alone it grows to minutes of sound.
_SEND_BUFFER_BYTES = 16_384
# asyncio allocates this much for each read, 256 KiB by default: half the cost of a frame.
_READ_BYTES = 8192


def tune_stream(transport: asyncio.Transport) -> None:
    """Makes a TCP connection fit for frames of 20 ms: no waiting, little held by the kernel, a dead peer noticed."""
    # An implementation detail of asyncio's selector transports; uvloop has no such cost.
    if hasattr(transport, "max_size"):
        transport.max_size = _READ_BYTES
    endpoint = transport.get_extra_info("socket")
    endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_TIMEOUT_MS)


def is_wildcard(host: str) -> bool:
    """Whether it stands for every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
