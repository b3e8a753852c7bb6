"""A telephone for tests: one SIP call over UDP on loopback, with all of its sound."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Literal, Self, cast

from testkit import rtp, sdp, sip
from testkit.rtp_stream import RtpStream, Utterance
from testkit.waiting import Moment

T1_S = 0.5
"""First interval of retransmission (RFC 3261, 17.1.1.1); doubles each time."""
LOOPBACK = "127.0.0.1"


class CallRejected(Exception):  # noqa: N818 - reads as what it is
    """The call was answered by a final response other than 200."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


class CallTimeout(Exception):  # noqa: N818
    """No final response came in time."""


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
        self._transactions: dict[str, asyncio.Queue[sip.SipResponse]] = {}
        """Responses by the branch of the request that they answer."""
        self._invite: sip.SipRequest | None = None

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
        self._invite = self._request("INVITE", self._extra, sdp.serialize(self._offer))
        responses = self._begin(self._invite)
        try:
            async with asyncio.timeout(timeout_s):
                final = await self._final(self._invite, responses)
        except TimeoutError:
            raise CallTimeout(f"no answer within {timeout_s} s") from None
        if final.status >= 300:
            self._transport.sendto(sip.serialize(self._acknowledge(self._invite, final)))
            self._over("callee")
            raise CallRejected(final.status, final.reason)

    def speak(self, sound: bytes, after_s: float = 0.0) -> Utterance:
        """Says μ-law sound, after all that is being said already; silence is sent otherwise."""
        return self._stream.say(sound, after_s)

    def dtmf(self, digits: str) -> None:
        """Presses keys (RFC 4733), after all that is being said already."""
        self._stream.press(digits)

    async def hold(self) -> None:
        """Puts the other side on hold by a re-INVITE."""
        await self._reinvite("sendonly")

    async def unhold(self) -> None:
        await self._reinvite("sendrecv")

    async def hangup(self) -> None:
        """Ends the call: BYE once answered, CANCEL before; nothing when it is over or was never made."""
        if self.ended_by is not None or self._invite is None:
            return
        if self.answered_at is None:
            await self._cancel()
        # Answered all the same, or all along.
        if self.answered_at is not None:
            self._over("caller")
            await self._transact(self._request("BYE"))
        else:
            self._over("caller")

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
        """The sound of all packets, in the order of their sequence numbers."""
        return b"".join(packet.payload for packet in in_sequence(self.received))

    # --- signalling

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, datagram: bytes, _: object) -> None:
        now = time.monotonic()
        try:
            message = sip.parse(datagram)
        except sip.SipError:
            return
        if isinstance(message, sip.SipRequest):
            self._answer(message)
            return
        if message.cseq[1] == "INVITE" and message.status == 200:
            self._established(message, now)
        queue = self._transactions.get(message.branch)
        if queue is not None:
            queue.put_nowait(message)

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
            address = (self._remote.address, self._remote.port)
            self._stream.start(address, events.payload_type if events else 101)
        if self.answered_at is None:
            self.answered_at = now

    def _answer(self, request: sip.SipRequest) -> None:
        """Asterisk asks something within the call."""
        if request.method == "ACK":
            return
        body = b""
        if request.method == "INVITE" and request.body:
            offered = sdp.parse(request.body)
            self._stream.start((offered.address, offered.port), 101)
            self._offer = sdp.next_version(self._offer, sdp.answer_direction(offered.direction))
            body = sdp.serialize(self._offer)
        headers = [pair for name in ("Via", "From", "To", "Call-ID", "CSeq") for pair in request.all(name)]
        headers.append(("Contact", self._contact))
        if body:
            headers.append(("Content-Type", "application/sdp"))
        self._transport.sendto(sip.serialize(sip.SipResponse(tuple(headers), body, 200, "OK")))
        if request.method == "BYE":
            self._over("callee")

    def _over(self, by: Literal["caller", "callee"]) -> None:
        if self.ended_by is None:
            self.ended_by = by
            self.ended_at = time.monotonic()
            self._ended.come(self.ended_at)

    def _request(
        self,
        method: str,
        extra: sip.Headers = (),
        body: bytes = b"",
        *,
        cseq: int | None = None,
        branch: str | None = None,
        target: str | None = None,
    ) -> sip.SipRequest:
        if cseq is None:
            self._cseq += 1
            cseq = self._cseq
        host, port = self._transport.get_extra_info("sockname")[:2]
        headers = (
            ("Via", f"SIP/2.0/UDP {host}:{port};branch={branch or sip.new_branch()};rport"),
            ("Max-Forwards", "70"),
            ("From", f"<sip:{self._user}@{host}>;tag={self._tag}"),
            ("To", self._to),
            ("Call-ID", self._call_id),
            ("CSeq", f"{cseq} {method}"),
            ("Contact", self._contact),
            *extra,
            *((("Content-Type", "application/sdp"),) if body else ()),
        )
        return sip.SipRequest(headers, body, method, target or self._target)

    def _begin(self, request: sip.SipRequest) -> asyncio.Queue[sip.SipResponse]:
        queue: asyncio.Queue[sip.SipResponse] = asyncio.Queue()
        self._transactions[request.branch] = queue
        self._transport.sendto(sip.serialize(request))
        return queue

    async def _final(self, request: sip.SipRequest, responses: asyncio.Queue[sip.SipResponse]) -> sip.SipResponse:
        """Waits for the final response, repeating the request until anything comes."""
        interval_s, answered = T1_S, False
        while True:
            try:
                async with asyncio.timeout(None if answered else interval_s):
                    response = await responses.get()
            except TimeoutError:
                self._transport.sendto(sip.serialize(request))
                interval_s *= 2
                continue
            answered = True
            if response.status >= 200:
                return response

    async def _transact(self, request: sip.SipRequest, timeout_s: float = 5) -> sip.SipResponse | None:
        """Sends a request and waits for its end; None when none came."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._final(request, self._begin(request))
        except TimeoutError:
            return None

    async def _cancel(self) -> None:
        """Takes the INVITE back; Asterisk may have answered it meanwhile."""
        invite = self._invite
        assert invite is not None
        cancel = self._request("CANCEL", cseq=invite.cseq[0], branch=invite.branch, target=invite.uri)
        # The CANCEL shares its INVITE's branch: both responses arrive in one queue, told apart by CSeq.
        queue = self._transactions[invite.branch]
        self._transport.sendto(sip.serialize(cancel))
        try:
            async with asyncio.timeout(5):
                while self.answered_at is None:
                    response = await queue.get()
                    if response.cseq[1] == "INVITE" and response.status >= 300:
                        self._transport.sendto(sip.serialize(self._acknowledge(invite, response)))
                        return
        except TimeoutError:
            return

    def _acknowledge(self, invite: sip.SipRequest, final: sip.SipResponse) -> sip.SipRequest:
        """The ACK of a final response other than 200 belongs to the INVITE's own transaction."""
        self._to = final.require("To")
        return self._request("ACK", cseq=invite.cseq[0], branch=invite.branch, target=invite.uri)

    async def _reinvite(self, direction: sdp.Direction) -> None:
        self._offer = sdp.next_version(self._offer, direction)
        response = await self._transact(self._request("INVITE", (), sdp.serialize(self._offer)))
        if response is None or response.status != 200:
            raise CallRejected(response.status if response else 408, "re-INVITE")


def in_sequence(packets: list[rtp.RtpPacket]) -> list[rtp.RtpPacket]:
    """The packets as they were sent, though they came out of order and the 16-bit counter went round."""
    placed: list[tuple[int, rtp.RtpPacket]] = []
    last = 0
    for packet in packets:
        # The signed distance to the last one, which is never half a turn.
        last += ((packet.sequence - last + 0x8000) & 0xFFFF) - 0x8000
        placed.append((last, packet))
    placed.sort(key=lambda entry: entry[0])
    return [packet for _, packet in placed]
