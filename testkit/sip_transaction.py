"""A SIP request and what comes of it (RFC 3261, 17.1): repeated until anything comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from testkit import sip

T1_S = 0.5
"""First interval of retransmission (RFC 3261, 17.1.1.1); doubles each time."""


class Transaction:
    """A request of ours; any number of tasks may wait for what comes of it."""

    __slots__ = ("_send", "final", "finished", "progressed", "request")

    def __init__(self, request: sip.SipRequest, send: Callable[[sip.SipMessage], None]) -> None:
        """Sends the request."""
        self.request = request
        self.progressed = asyncio.Event()
        """Set by the first response of any kind."""
        self.finished = asyncio.Event()
        self.final: sip.SipResponse | None = None
        self._send = send
        send(request)

    def take(self, response: sip.SipResponse) -> None:
        self.progressed.set()
        if response.status >= 200 and self.final is None:
            self.final = response
            self.finished.set()

    async def conclude(self) -> sip.SipResponse:
        """Waits for the final response, repeating the request until anything comes."""
        interval_s = T1_S
        while not self.progressed.is_set():
            try:
                async with asyncio.timeout(interval_s):
                    await self.progressed.wait()
            except TimeoutError:
                self._send(self.request)
                interval_s *= 2
        await self.finished.wait()
        assert self.final is not None
        return self.final

    async def conclude_within(self, limit_s: float) -> sip.SipResponse | None:
        """The final response; None when none came in time."""
        try:
            async with asyncio.timeout(limit_s):
                return await self.conclude()
        except TimeoutError:
            return None
