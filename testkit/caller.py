"""A telephone for tests: one SIP call over UDP on loopback, with all of its sound."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Self, cast

from testkit import rtp, sdp, sip
from testkit.rtp_stream import LOOPBACK, CallOverError, RtpStream, Utterance
from testkit.waiting import Moment

T1_S = 0.5
"""First interval of retransmission (RFC 3261, 17.1.1.1); doubles each time."""
REQUEST_LIMIT_S = 5
"""How long a request within the call, or taking an unanswered one back, may go without its final response."""


class CallRejected(Exception):  # noqa: N818 - reads as what it is
    """The call was answered by a final response other than 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


class CallTimeout(Exception):  # noqa: N818
    """No final response came in time."""


class _Transaction:
    """A request of ours and what came of it; any number of tasks may wait for that."""

    __slots__ = ("final", "finished", "progressed", "request")

    def __init__(self, request: sip.SipRequest) -> None:
        self.request = request
        self.progressed = asyncio.Event()
        """Set by the first response of any kind."""
        self.finished = asyncio.Event()
        self.final: sip.SipResponse | None = None

    def take(self, response: sip.SipResponse) -> None:
        self.progressed.set()
        if response.status >= 200 and self.final is None:
            self.final = response
            self.finished.set()


class SipCaller(asyncio.DatagramProtocol):
    """Makes one call. ``async with SipCaller(server=…, extension=…) as call: await call.dial()``."""

    def __init__(
        self,
        *,
        server: tuple[str, int],
        extension: str,
        headers: Mapping[str, str] | None = None,
        user: str = "5550100",
    ) -> None:
        """``headers`` go into the INVITE; ``user`` is the caller's number."""
        self.answered_at: float | None = None
        """When 200 OK arrived, in ``time.monotonic()`` seconds."""
        self.ended_at: float | None = None
        self.ended_by: Literal["caller", "callee"] | None = None
        self._server = server
        self._extension = extension
        self._extra = tuple((headers or {}).items())
        self._user = user
        self._stream = RtpStream()
        self._call_id = secrets.token_hex(12)
        self._tag = sip.new_tag()
        self._to = f"<sip:{extension}@{server[0]}>"
        self._target = f"sip:{extension}@{server[0]}:{server[1]}"
        self._cseq = 0
        self._offer: sdp.SessionDescription
        self._remote: sdp.SessionDescription | None = None
        self._transport: asyncio.DatagramTransport
        self._contact = ""
        self._ended = Moment()
        self._transactions: dict[tuple[str, str], _Transaction] = {}
        """By branch and method: a CANCEL has the branch of its INVITE."""
        self._invite: _Transaction | None = None
        self._bye: _Transaction | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, (LOOPBACK, 0), self._server)
        host, port = self._transport.get_extra_info("sockname")[:2]
        self._contact = f"<sip:{self._user}@{host}:{port}>"
        self._offer = sdp.SessionDescription(
            address=LOOPBACK,
            port=await self._stream.open(),
            formats=(
                sdp.MediaFormat(0, "PCMU"),
                sdp.MediaFormat(101, sdp.TELEPHONE_EVENT, fmtp="0-16"),
            ),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.hangup()
        finally:
            self._stream.close()
            self._transport.close()

    # --- what the caller does

    async def dial(self, timeout_s: float = 10) -> None:
        """Calls; returns when answered. Raises CallRejected or CallTimeout."""
        self._invite = self._begin(self._request("INVITE", self._extra, sdp.serialize(self._offer)))
        try:
            async with asyncio.timeout(timeout_s):
                final = await self._final(self._invite)
        except TimeoutError:
            raise CallTimeout(f"no answer within {timeout_s} s") from None
        if final.status >= 300:
            self._over("callee")
            raise CallRejected(final.status, final.reason)

    def speak(self, sound: bytes, after_s: float = 0.0) -> Utterance:
        """Says μ-law sound, after all that is being said already; silence is sent otherwise."""
        return self._stream.say(sound, after_s)

    def dtmf(self, digits: str) -> None:
        """Presses keys (RFC 4733), after all that is being said already."""
        self._stream.press(digits)

    async def hold(self) -> None:
        """Puts the other side on hold by a re-INVITE. Raises CallRejected, or CallOverError outside a call."""
        await self._reinvite("sendonly")

    async def unhold(self) -> None:
        """Takes it back off hold."""
        await self._reinvite("sendrecv")

    async def hangup(self) -> None:
        """Ends the call: BYE once answered, CANCEL before; nothing when it was never made or the other side ended it.

        Returns when the other side has confirmed, or has not within ``REQUEST_LIMIT_S``.
        """
        if self._invite is None or self.ended_by == "callee":
            return
        self._over("caller")
        if self.answered_at is None:
            await self._cancel(self._invite)
        # Answered all the same, or all along.
        if self.answered_at is not None:
            self._bye = self._bye or self._begin(self._request("BYE"))
            await self._limited(self._bye)

    async def wait_ended(self, timeout_s: float = 10) -> None:
        """Waits until somebody has hung up. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            await self._ended

    # --- what the caller hears

    @property
    def received(self) -> list[rtp.RtpPacket]:
        """Every packet that arrived, in order of arrival."""
        return self._stream.received

    @property
    def sent(self) -> list[tuple[float, bytes]]:
        """Time and sound of every packet that was sent."""
        return self._stream.sent

    def heard(self) -> bytes:
        """The sound of all packets but those of keys, in the order of their sequence numbers."""
        return b"".join(packet.payload for packet in in_sequence(self.received) if packet.is_sound)

    # --- signalling

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, datagram: bytes, _: object) -> None:
        now = time.monotonic()
        try:
            message = sip.parse(datagram)
            if isinstance(message, sip.SipRequest):
                self._answer(message)
            else:
                self._take(message, now)
        except sip.SipError:
            return

    def _take(self, response: sip.SipResponse, now: float) -> None:
        method = response.cseq[1]
        transaction = self._transactions.get((response.branch, method))
        if transaction is None:
            return
        if method == "INVITE" and response.status >= 300:
            # Acknowledged each time it comes, with the branch of the INVITE, to which this ACK belongs.
            ack = self._companion(transaction.request, "ACK", to=response.require("To"))
            self._transport.sendto(sip.serialize(ack))
        elif method == "INVITE" and response.status >= 200:
            self._established(response, now)
        transaction.take(response)

    def _established(self, response: sip.SipResponse, now: float) -> None:
        """200 to an INVITE: acknowledged each time it comes, acted upon the first time."""
        number = response.cseq[0]
        self._to = response.require("To")
        contact = response.header("Contact")
        if contact is not None:
            self._target = sip.uri_of(contact)
        ack = self._request("ACK", cseq=number)
        self._transport.sendto(sip.serialize(ack))
        if response.body:
            self._remote = sdp.parse(response.body)
            events = self._remote.find(sdp.TELEPHONE_EVENT)
            self._send_to(self._remote.address, self._remote.port, events.payload_type if events else 101)
        if self.answered_at is None:
            self.answered_at = now

    def _answer(self, request: sip.SipRequest) -> None:
        """Asterisk asks something within the call."""
        if request.method == "ACK":
            return
        if request.require("Call-ID") != self._call_id:
            # A repetition for the call that had our port before, say: its BYE must not end this one.
            self._respond(request, 481, "Call/Transaction Does Not Exist")
            return
        body = b""
        if request.method == "INVITE" and request.body:
            offered = sdp.parse(request.body)
            self._send_to(offered.address, offered.port, 101)
            self._offer = sdp.next_version(self._offer, sdp.answer_direction(offered.direction))
            body = sdp.serialize(self._offer)
        self._respond(request, 200, "OK", body)
        if request.method == "BYE":
            self._over("callee")

    def _respond(self, request: sip.SipRequest, status: int, reason: str, body: bytes = b"") -> None:
        headers = [pair for name in ("Via", "From", "To", "Call-ID", "CSeq") for pair in request.all(name)]
        headers.append(("Contact", self._contact))
        if body:
            headers.append(("Content-Type", "application/sdp"))
        self._transport.sendto(sip.serialize(sip.SipResponse(tuple(headers), body, status, reason)))

    def _send_to(self, address: str, port: int, event_type: int) -> None:
        # Answered after all, though the caller has hung up already: then nothing is said any more.
        if self.ended_by is None:
            self._stream.start((address, port), event_type)

    def _over(self, by: Literal["caller", "callee"]) -> None:
        if self.ended_by is None:
            self.ended_by = by
            self.ended_at = time.monotonic()
            # Asterisk gives the port to its next call: whatever is sent there from now on would disturb that one.
            self._stream.stop()
            self._ended.come(self.ended_at)

    def _request(
        self,
        method: str,
        extra: sip.Headers = (),
        body: bytes = b"",
        *,
        cseq: int | None = None,
    ) -> sip.SipRequest:
        if cseq is None:
            self._cseq += 1
            cseq = self._cseq
        host, port = self._transport.get_extra_info("sockname")[:2]
        headers = (
            ("Via", f"SIP/2.0/UDP {host}:{port};branch={sip.new_branch()};rport"),
            ("Max-Forwards", "70"),
            ("From", f"<sip:{self._user}@{host}>;tag={self._tag}"),
            ("To", self._to),
            ("Call-ID", self._call_id),
            ("CSeq", f"{cseq} {method}"),
            ("Contact", self._contact),
            *extra,
            *((("Content-Type", "application/sdp"),) if body else ()),
        )
        return sip.SipRequest(headers, body, method, self._target)

    def _companion(self, invite: sip.SipRequest, method: str, to: str) -> sip.SipRequest:
        """CANCEL, or the ACK of a refusal: same Via, target and number as the INVITE to which it belongs."""
        headers = (
            *invite.all("Via"),
            ("Max-Forwards", "70"),
            *invite.all("From"),
            ("To", to),
            ("Call-ID", self._call_id),
            ("CSeq", f"{invite.cseq[0]} {method}"),
        )
        return sip.SipRequest(headers, b"", method, invite.uri)

    def _begin(self, request: sip.SipRequest) -> _Transaction:
        transaction = _Transaction(request)
        self._transactions[request.branch, request.method] = transaction
        self._transport.sendto(sip.serialize(request))
        return transaction

    async def _final(self, transaction: _Transaction) -> sip.SipResponse:
        """Waits for the final response, repeating the request until anything comes."""
        interval_s = T1_S
        while not transaction.progressed.is_set():
            try:
                async with asyncio.timeout(interval_s):
                    await transaction.progressed.wait()
            except TimeoutError:
                self._transport.sendto(sip.serialize(transaction.request))
                interval_s *= 2
        await transaction.finished.wait()
        assert transaction.final is not None
        return transaction.final

    async def _limited(self, transaction: _Transaction) -> sip.SipResponse | None:
        """The final response; None when none came in time."""
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                return await self._final(transaction)
        except TimeoutError:
            return None

    async def _cancel(self, invite: _Transaction) -> None:
        """Takes the INVITE back, unless it is answered or refused meanwhile."""
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                await invite.progressed.wait()  # no CANCEL before the first response (RFC 3261, 9.1)
                if invite.final is None:
                    to = invite.request.require("To")
                    await self._final(self._begin(self._companion(invite.request, "CANCEL", to)))
                    await invite.finished.wait()
        except TimeoutError:
            return

    async def _reinvite(self, direction: sdp.Direction) -> None:
        if self.answered_at is None or self.ended_by is not None:
            raise CallOverError("only a call that stands can be held")
        self._offer = sdp.next_version(self._offer, direction)
        response = await self._limited(self._begin(self._request("INVITE", (), sdp.serialize(self._offer))))
        if response is None or response.status != 200:
            raise CallRejected(response.status if response else 408, "re-INVITE")


def in_sequence(packets: Sequence[rtp.RtpPacket]) -> list[rtp.RtpPacket]:
    """The packets in the order in which they were sent, keys (telephone events) included, each once."""
    placed: dict[int, rtp.RtpPacket] = {}
    for number, packet in zip(rtp.sequence_numbers(packets), packets, strict=True):
        placed.setdefault(number, packet)
    return [placed[number] for number in sorted(placed)]
