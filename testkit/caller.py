"""A telephone for tests: one SIP call over UDP on loopback, with all of its sound."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self, cast

from testkit import rtp, sdp, sip
from testkit.codecs import CODECS, PCMU, Codec, codec_of, decoded
from testkit.rtp import in_sequence
from testkit.rtp_stream import LOOPBACK, CallOverError, RtpStream, Utterance
from testkit.sip_transaction import Transaction
from testkit.waiting import Moment

__all__ = ["CallRejected", "CallTimeout", "SipCaller", "in_sequence"]

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


class SipCaller(asyncio.DatagramProtocol):
    """Makes one call. ``async with SipCaller(server=…, extension=…) as call: await call.dial()``."""

    def __init__(
        self,
        *,
        server: tuple[str, int],
        extension: str,
        headers: Mapping[str, str] | None = None,
        user: str = "5550100",
        codec: str = PCMU.name,
        codecs: Sequence[str] = (),
        sends: bool = True,
    ) -> None:
        """``headers`` go into the INVITE; ``user`` is the caller's number.

        Offers ``codec`` (PCMU, PCMA, G722, L16 or OPUS), or ``codecs``, the dearest first; speaks the first that is
        accepted. Without ``sends`` no sound leaves until ``resume_sending``.
        """
        offered = [CODECS[name] for name in codecs or (codec,)]
        self.answered_at: float | None = None
        """When 200 OK arrived, in ``time.monotonic()`` seconds."""
        self.ended_at: float | None = None
        self.ended_by: Literal["caller", "callee"] | None = None
        self._server = server
        self._extension = extension
        self._extra = tuple((headers or {}).items())
        self._user = user
        self._stream = RtpStream(offered[0])
        self._sends = sends
        self._formats = _formats(offered)
        self._call_id = secrets.token_hex(12)
        self._tag = sip.new_tag()
        self._to = f"<sip:{extension}@{server[0]}>"
        self._target = f"sip:{extension}@{server[0]}:{server[1]}"
        self._cseq = 0
        self._offer: sdp.SessionDescription
        self._transport: asyncio.DatagramTransport
        self._contact = ""
        self._ended = Moment()
        self._transactions: dict[tuple[str, str], Transaction] = {}
        """By branch and method: a CANCEL has the branch of its INVITE."""
        self._invite: Transaction | None = None
        self._bye: Transaction | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, (LOOPBACK, 0), self._server)
        host, port = self._transport.get_extra_info("sockname")[:2]
        self._contact = f"<sip:{self._user}@{host}:{port}>"
        self._offer = sdp.SessionDescription(
            address=LOOPBACK,
            port=await self._stream.open(),
            formats=self._formats,
        )
        self._stream.sends = self._sends
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
                final = await self._invite.conclude()
        except TimeoutError:
            raise CallTimeout(f"no answer within {timeout_s} s") from None
        if final.status >= 300:
            self._over("callee")
            raise CallRejected(final.status, final.reason)

    def speak(self, sound: bytes, after_s: float = 0.0) -> Utterance:
        """Says sound in the codec's own bytes, after all that is being said already; silence is sent otherwise.

        Raises ValueError for Opus, whose packets vary in size.
        """
        return self._stream.say(sound, after_s)

    def speak_pcm(self, sound: bytes, after_s: float = 0.0) -> Utterance:
        """Says 16-bit little-endian samples at the codec's rate, as ``speak`` does."""
        return self._stream.say(sound, after_s, is_pcm=True)

    def stop_sending(self) -> None:
        """No packet leaves from now on; what is being said waits, and time passes."""
        self._sends = False
        self._follow_direction()

    def resume_sending(self) -> None:
        """Goes on with what is being said."""
        self._sends = True
        self._follow_direction()

    def dtmf(self, digits: str) -> None:
        """Presses keys (RFC 4733), after all that is being said already."""
        self._stream.press(digits)

    async def hold(self) -> None:
        """Puts the other side on hold. Raises as ``reinvite`` does."""
        await self.reinvite(direction="sendonly")

    async def unhold(self) -> None:
        """Takes it back off hold."""
        await self.reinvite(direction="sendrecv")

    async def reinvite(
        self,
        *,
        codec: str | None = None,
        direction: sdp.Direction | None = None,
        move: bool = False,
    ) -> None:
        """Offers another codec, direction or port (``move``); with none of them, the same once more.

        Sends no sound while its own direction does not allow it. Raises CallRejected, or CallOverError outside a call;
        either leaves everything as it was.
        """
        if self.answered_at is None or self.ended_by is not None:
            raise CallOverError("only a call that stands can be changed")
        before = self._offer
        moving = await self._stream.move() if move else None
        self._offer = replace(
            sdp.next_version(before, direction or before.direction),
            port=moving.port if moving else before.port,
            formats=_formats([CODECS[codec]]) if codec else before.formats,
        )
        request = self._begin(self._request("INVITE", (), sdp.serialize(self._offer)))
        accepted = False
        try:
            response = await request.conclude_within(REQUEST_LIMIT_S)
            accepted = response is not None and response.status == 200
        finally:
            if not accepted:
                self._offer = replace(before, version=self._offer.version)
            if moving is not None:
                (moving.keep if accepted else moving.take_back)()
        if not accepted:
            raise CallRejected(response.status if response else 408, "re-INVITE")
        self._follow_direction()

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
            await self._bye.conclude_within(REQUEST_LIMIT_S)

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
        """Time and payload of every packet that was sent."""
        return self._stream.sent

    @property
    def codec(self) -> Codec:
        """What is spoken: the first that was offered until the other side has chosen."""
        return self._stream.codec

    def heard(self) -> bytes:
        """The payloads of all packets but those of keys, in the order of their sequence numbers."""
        return b"".join(packet.payload for packet in in_sequence(self.received) if packet.is_sound)

    def heard_pcm(self) -> bytes:
        """What came in the codec that is spoken now, as 16-bit little-endian samples at its rate."""
        packets = [packet for packet in in_sequence(self.received) if codec_of(packet) is self.codec]
        return b"".join(pcm for _, pcm in decoded(packets))

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
            self._send(ack)
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
        self._send(ack)
        if response.body:
            self._send_as(sdp.parse(response.body))
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
            self._send_as(offered)
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
        self._send(sip.SipResponse(tuple(headers), body, status, reason))

    def _send_as(self, remote: sdp.SessionDescription) -> None:
        """Speaks as the other side wants it. Without a codec in common, goes on in the one spoken so far."""
        # Answered after all, though the caller has hung up already: then nothing is said any more.
        if self.ended_by is not None:
            return
        chosen = (each for each in remote.formats if self._offer.find(each.encoding))
        spoken = next((each for each in chosen if each.encoding.upper() in CODECS), None)
        codec = CODECS[spoken.encoding.upper()] if spoken else self.codec
        events = remote.find(sdp.TELEPHONE_EVENT)
        self._stream.start(
            (remote.address, remote.port),
            codec,
            (spoken or codec.media).payload_type,
            events.payload_type if events else rtp.KEYS,
        )

    def _follow_direction(self) -> None:
        self._stream.sends = self._sends and self._offer.direction in ("sendrecv", "sendonly")

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

    def _send(self, message: sip.SipMessage) -> None:
        self._transport.sendto(sip.serialize(message))

    def _begin(self, request: sip.SipRequest) -> Transaction:
        transaction = Transaction(request, self._send)
        self._transactions[request.branch, request.method] = transaction
        return transaction

    async def _cancel(self, invite: Transaction) -> None:
        """Takes the INVITE back, unless it is answered or refused meanwhile."""
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                await invite.progressed.wait()  # no CANCEL before the first response (RFC 3261, 9.1)
                if invite.final is None:
                    to = invite.request.require("To")
                    await self._begin(self._companion(invite.request, "CANCEL", to)).conclude()
                    await invite.finished.wait()
        except TimeoutError:
            return


def _formats(codecs: Sequence[Codec]) -> tuple[sdp.MediaFormat, ...]:
    keys = sdp.MediaFormat(rtp.KEYS, sdp.TELEPHONE_EVENT, fmtp="0-16")
    return (*(codec.media for codec in codecs), keys)
