"""What the caller says to a server that loses, repeats and crosses messages, as a real one on loopback seldom does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from testkit import rtp, sdp, sip
from testkit.caller import CallRejected, CallTimeout, SipCaller
from testkit.rtp_stream import CallOverError
from testkit.sip import SipMessage, SipRequest, SipResponse

LIMIT_S = 10
Address = tuple[str, int]


class ScriptedServer(asyncio.DatagramProtocol):
    """The other side: hands out what arrives, in order, and sends what the test says."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[SipMessage] = asyncio.Queue()
        self.address: Address = ("", 0)
        self._caller: Address | None = None
        self._transport: asyncio.DatagramTransport

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, ("127.0.0.1", 0))
        self.address = self._transport.get_extra_info("sockname")

    def close(self) -> None:
        self._transport.close()

    def datagram_received(self, datagram: bytes, source: Address) -> None:
        self._caller = source
        self.inbox.put_nowait(sip.parse(datagram))

    async def request(self, method: str) -> SipRequest:
        """The next request, which must be this one."""
        async with asyncio.timeout(LIMIT_S):
            message = await self.inbox.get()
        assert isinstance(message, SipRequest)
        assert message.method == method
        return message

    async def response(self, method: str) -> SipResponse:
        """The next response, which must be to this method."""
        async with asyncio.timeout(LIMIT_S):
            message = await self.inbox.get()
        assert isinstance(message, SipResponse)
        assert message.cseq[1] == method
        return message

    def respond(self, request: SipRequest, status: int, reason: str = "Because", body: bytes = b"") -> None:
        headers: list[tuple[str, str]] = []
        for name in ("Via", "From", "To", "Call-ID", "CSeq"):
            headers.extend(request.all(name))
        to = request.require("To")
        if status > 100 and sip.parameter(to, "tag") is None:
            headers[headers.index(("To", to))] = ("To", f"{to};tag=server")
        host, port = self.address
        headers.append(("Contact", f"<sip:answered@{host}:{port}>"))
        self._send(SipResponse(tuple(headers), body, status, reason))

    def ask(self, method: str, invite: SipRequest, body: bytes = b"", number: int = 1) -> SipRequest:
        """Sends a request within the call that ``invite`` began."""
        headers = (
            ("Via", f"SIP/2.0/UDP {self.address[0]}:{self.address[1]};branch={sip.new_branch()}"),
            ("From", f"{invite.require('To')};tag=server"),
            ("To", invite.require("From")),
            ("Call-ID", invite.require("Call-ID")),
            ("CSeq", f"{number} {method}"),
        )
        request = SipRequest(headers, body, method, "sip:caller@127.0.0.1")
        self._send(request)
        return request

    def send_raw(self, datagram: bytes) -> None:
        self._transport.sendto(datagram, self._caller)

    def _send(self, message: SipMessage) -> None:
        self.send_raw(sip.serialize(message))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    instance = ScriptedServer()
    await instance.open()
    yield instance
    instance.close()


@pytest.fixture
async def media() -> AsyncIterator[socket.socket]:
    """Where the server listens for sound."""
    with _media_socket() as bound:
        yield bound


def _media_socket() -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bound.bind(("127.0.0.1", 0))
    bound.setblocking(False)
    return bound


def description(bound: socket.socket, direction: sdp.Direction = "sendrecv") -> bytes:
    formats = (sdp.MediaFormat(0, "PCMU"), sdp.MediaFormat(97, sdp.TELEPHONE_EVENT))
    host, port = bound.getsockname()
    return sdp.serialize(sdp.SessionDescription(host, port, formats, direction))


async def hear(bound: socket.socket) -> rtp.RtpPacket:
    async with asyncio.timeout(LIMIT_S):
        return rtp.parse(await asyncio.get_running_loop().sock_recv(bound, 2000))


def caller_of(server: ScriptedServer) -> SipCaller:
    return SipCaller(server=server.address, extension="600", headers={"X-AI-Provider": "local"})


@asynccontextmanager
async def standing_call(server: ScriptedServer, media: socket.socket) -> AsyncIterator[tuple[SipCaller, SipRequest]]:
    """An answered call; the test or the caller ends it."""
    async with caller_of(server) as call:
        dialling = asyncio.create_task(call.dial())
        invite = await server.request("INVITE")
        server.respond(invite, 200, "OK", description(media))
        await dialling
        await server.request("ACK")
        yield call, invite
        if call.ended_by is None:
            hanging_up = asyncio.create_task(call.hangup())
            server.respond(await server.request("BYE"), 200)
            await hanging_up


async def test_an_invite_that_was_lost_is_repeated(server: ScriptedServer, media: socket.socket) -> None:
    async with caller_of(server) as call:
        dialling = asyncio.create_task(call.dial())
        first = await server.request("INVITE")
        assert first.header("X-AI-Provider") == "local"
        second = await server.request("INVITE")
        assert second == first
        server.respond(second, 200, "OK", description(media))
        await dialling
        ack = await server.request("ACK")
        assert ack.branch != first.branch
        assert ack.cseq == (first.cseq[0], "ACK")
        assert ack.uri == f"sip:answered@{server.address[0]}:{server.address[1]}", "the Contact of the answer"
        await _answer_bye(server, call)


async def _answer_bye(server: ScriptedServer, call: SipCaller) -> None:
    hanging_up = asyncio.create_task(call.hangup())
    bye = await server.request("BYE")
    assert sip.parameter(bye.require("To"), "tag") == "server"
    server.respond(bye, 200)
    await hanging_up
    assert call.ended_by == "caller"


async def test_a_repeated_answer_is_acknowledged_again(server: ScriptedServer, media: socket.socket) -> None:
    async with standing_call(server, media) as (call, invite):
        answered_at = call.answered_at
        server.respond(invite, 200, "OK", description(media))
        await server.request("ACK")
        assert call.answered_at == answered_at


async def test_a_repeated_refusal_is_acknowledged_again(server: ScriptedServer) -> None:
    async with caller_of(server) as call:
        dialling = asyncio.create_task(call.dial())
        invite = await server.request("INVITE")
        for _ in range(2):
            server.respond(invite, 486, "Busy Here")
            ack = await server.request("ACK")
            assert ack.branch == invite.branch, "the ACK of a refusal belongs to its INVITE"
            assert ack.uri == invite.uri
        with pytest.raises(CallRejected, match="486 Busy Here"):
            await dialling
        assert call.ended_by == "callee"


async def test_no_answer_in_time_is_said_and_taken_back(server: ScriptedServer) -> None:
    async with caller_of(server) as call:
        dialling = asyncio.create_task(call.dial(timeout_s=0.3))
        invite = await server.request("INVITE")
        server.respond(invite, 180, "Ringing")
        with pytest.raises(CallTimeout):
            await dialling
        hanging_up = asyncio.create_task(call.hangup())
        await _be_cancelled(server, invite)
        await hanging_up


async def _be_cancelled(server: ScriptedServer, invite: SipRequest) -> None:
    cancel = await server.request("CANCEL")
    assert (cancel.branch, cancel.uri, cancel.cseq[0]) == (invite.branch, invite.uri, invite.cseq[0])
    assert cancel.require("To") == invite.require("To")
    server.respond(cancel, 200)
    server.respond(invite, 487, "Request Terminated")
    await server.request("ACK")


async def test_a_cancel_waits_for_the_first_response(server: ScriptedServer) -> None:
    async with caller_of(server) as call:
        dialling = asyncio.create_task(call.dial())
        invite = await server.request("INVITE")
        hanging_up = asyncio.create_task(call.hangup())
        assert await server.request("INVITE") == invite, "still repeated, as nothing came"
        server.respond(invite, 100, "Trying")
        await _be_cancelled(server, invite)
        async with asyncio.timeout(2):  # less than the limit that a lost response would run into
            await hanging_up
        with pytest.raises(CallRejected, match="487"):
            await dialling
        assert call.ended_by == "caller"
        assert call.answered_at is None


async def test_an_answer_that_crosses_the_cancel_is_hung_up(server: ScriptedServer, media: socket.socket) -> None:
    async with caller_of(server) as call:
        dialling = asyncio.create_task(call.dial())
        invite = await server.request("INVITE")
        server.respond(invite, 180, "Ringing")
        hanging_up = asyncio.create_task(call.hangup())
        cancel = await server.request("CANCEL")
        server.respond(invite, 200, "OK", description(media))
        server.respond(cancel, 481, "Call/Transaction Does Not Exist")
        await server.request("ACK")
        server.respond(await server.request("BYE"), 200)
        await asyncio.gather(hanging_up, dialling)
        assert call.ended_by == "caller"
        assert call.sent == [], "nothing is said on a call that was given up"


async def test_hanging_up_twice_sends_one_bye(server: ScriptedServer, media: socket.socket) -> None:
    async with standing_call(server, media) as (call, _):
        both = asyncio.gather(call.hangup(), call.hangup())
        server.respond(await server.request("BYE"), 200)
        await both
        await call.hangup()
        assert server.inbox.empty()


async def test_hanging_up_what_was_never_dialled_does_nothing(server: ScriptedServer) -> None:
    async with caller_of(server) as call:
        await call.hangup()
        assert call.ended_by is None
    assert server.inbox.empty()


async def test_the_other_sides_bye_ends_the_call_and_its_sound(server: ScriptedServer, media: socket.socket) -> None:
    async with standing_call(server, media) as (call, invite):
        speaking = call.speak(bytes(160 * 1000))
        await speaking.started
        bye = server.ask("BYE", invite)
        assert (await server.response("BYE")).status == 200
        await call.wait_ended(LIMIT_S)
        assert call.ended_by == "callee"
        with pytest.raises(CallOverError):
            await speaking.done
        with pytest.raises(CallOverError):
            await call.speak(bytes(160)).started
        with pytest.raises(CallOverError):
            await call.hold()
        sent = len(call.sent)
        server.send_raw(sip.serialize(bye))
        assert (await server.response("BYE")).status == 200, "the repetition of a BYE is answered, too"
        assert len(call.sent) == sent
    assert server.inbox.empty(), "no BYE of ours"


@pytest.mark.parametrize("method", ["OPTIONS", "INFO", "UPDATE", "NOTIFY"])
async def test_questions_within_the_call_are_answered(
    server: ScriptedServer, media: socket.socket, method: str
) -> None:
    async with standing_call(server, media) as (_, invite):
        asked = server.ask(method, invite)
        response = await server.response(method)
        assert response.status == 200
        assert response.branch == asked.branch


async def test_sound_follows_a_reinvite(server: ScriptedServer, media: socket.socket) -> None:
    async with standing_call(server, media) as (_, invite):
        before = await hear(media)
        with _media_socket() as elsewhere:
            server.ask("INVITE", invite, description(elsewhere, "sendonly"))
            response = await server.response("INVITE")
            assert sdp.parse(response.body).direction == "recvonly"
            after = await hear(elsewhere)
            assert after.ssrc == before.ssrc


@pytest.mark.parametrize(("verb", "direction"), [("hold", "sendonly"), ("unhold", "sendrecv")])
async def test_holding_offers_another_direction(
    server: ScriptedServer, media: socket.socket, verb: str, direction: str
) -> None:
    async with standing_call(server, media) as (call, invite):
        asking = asyncio.create_task(getattr(call, verb)())
        offer = await server.request("INVITE")
        assert sdp.parse(offer.body).direction == direction
        assert sdp.parse(offer.body).version > sdp.parse(invite.body).version
        server.respond(offer, 200, "OK", description(media))
        await server.request("ACK")
        await asking


async def test_a_refused_hold_leaves_the_call(server: ScriptedServer, media: socket.socket) -> None:
    async with standing_call(server, media) as (call, _):
        holding = asyncio.create_task(call.hold())
        server.respond(await server.request("INVITE"), 488, "Not Acceptable Here")
        await server.request("ACK")
        with pytest.raises(CallRejected, match="488"):
            await holding
        assert call.ended_by is None


async def test_garbage_is_passed_over(server: ScriptedServer, media: socket.socket) -> None:
    async with standing_call(server, media) as (_, invite):
        for garbage in (b"", b"\r\n\r\n", b"\0" * 4, b"SIP/2.0 200 OK\r\n\r\n", b"BYE sip:x SIP/2.0\r\n\r\n"):
            server.send_raw(garbage)
        server.ask("OPTIONS", invite)
        assert (await server.response("OPTIONS")).status == 200


async def test_a_bye_of_another_call_is_not_for_this_one(server: ScriptedServer, media: socket.socket) -> None:
    async with standing_call(server, media) as (call, invite):
        headers = tuple(
            ("Call-ID", "another") if name == "Call-ID" else (name, value) for name, value in invite.headers
        )
        server.ask("BYE", SipRequest(headers, b"", "INVITE", invite.uri))
        assert (await server.response("BYE")).status == 481
        assert call.ended_by is None


async def test_keys_are_telephone_events_between_whole_packets_of_sound(
    server: ScriptedServer, media: socket.socket
) -> None:
    async with standing_call(server, media) as (call, _):
        call.dtmf("1#")
        clip = bytes(range(160)) * 3
        call.speak(clip)
        packets: list[rtp.RtpPacket] = []
        while not any(packet.payload == clip[:160] for packet in packets):
            packets.append(await hear(media))
        events = [packet for packet in packets if packet.payload_type == 97]
        read = [rtp.parse_event(packet.payload) for packet in events]
        for digit in "1#":
            of_digit = [(p, e) for p, e in zip(events, read, strict=True) if e.digit == digit]
            assert [e.duration_samples for _, e in of_digit] == [160, 320, 480, 640, 800, 800, 800]
            assert [e.end for _, e in of_digit] == [False] * 4 + [True] * 3
            assert [p.marker for p, _ in of_digit] == [True] + [False] * 6
            assert len({p.timestamp for p, _ in of_digit}) == 1
        sequences = [packet.sequence for packet in packets]
        assert sequences == [(sequences[0] + n) & 0xFFFF for n in range(len(sequences))]
        last_key = max(packet.timestamp for packet in events)
        assert packets[-1].timestamp - last_key >= 800, "the clock of sound went on while the key was down"


async def test_reports_to_the_port_above_ours_reach_nobody(server: ScriptedServer) -> None:
    """Asterisk sends RTCP there. Another caller with that port would take it for sound."""
    async with caller_of(server) as call:
        dialling = asyncio.create_task(call.dial())
        port = sdp.parse((invite := await server.request("INVITE")).body).port
        assert port % 2 == 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port + 1))
        server.respond(invite, 486)
        with pytest.raises(CallRejected):
            await dialling
