"""The jitter buffer, at every disorder that a network makes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport.jitter_buffer import (
    GRACE_S,
    LONGEST_WAIT_S,
    MAX_CONCEALED_MS,
    MAX_HOLE,
    PATIENCE_S,
    Gap,
    JitterBuffer,
    Piece,
)
from transport.rtp_codec import RtpPacket

SSRC = 0xABCD
FRAME_S = 0.02


def payload(number: int, ticks: int = 160) -> bytes:
    return (number & 0xFFFFFFFF).to_bytes(4, "big") * (ticks // 4)


def number_of(piece: Piece) -> int | None:
    """The number that a piece carries; None for a gap."""
    return None if isinstance(piece, Gap) else int.from_bytes(piece[:4], "big")


class Line:
    """A buffer at the end of a line. Packet ``n`` belongs at ``n`` · 20 ms, and arrives when the test says."""

    def __init__(self, *, first_sequence: int = 100, first_timestamp: int = 5000, ssrc: int = SSRC) -> None:
        self.buffer = JitterBuffer(0)
        self.now = 0.0
        self.heard: list[tuple[float, int | None]] = []
        """When each piece left, and which it was."""
        self._sequence = first_sequence
        self._timestamp = first_timestamp
        self._ssrc = ssrc

    def packet(self, number: int, *, ssrc: int | None = None, payload_type: int = 0, shift: int = 0) -> RtpPacket:
        """Packet ``number``; ``shift`` sets its timestamp off."""
        return RtpPacket(
            payload_type,
            (self._sequence + number) & 0xFFFF,
            (self._timestamp + 160 * number + shift) & 0xFFFFFFFF,
            self._ssrc if ssrc is None else ssrc,
            payload(number),
        )

    def arrive(self, packet: RtpPacket, at: float) -> list[int | None]:
        """Lets time pass until ``at``, then the packet arrive; returns what could be heard from then on."""
        self.wait(at)
        before = len(self.heard)
        self._hear(self.buffer.push(packet, at))
        return [number for _, number in self.heard[before:]]

    def receive(self, numbers: Iterable[int], *, late_s: float = 0.0) -> None:
        """Packets that arrive in time, or all as late."""
        for number in numbers:
            self.arrive(self.packet(number), number * FRAME_S + late_s)

    def wait(self, until: float) -> None:
        while (due := self.buffer.due) is not None and due <= until:
            self.now = max(self.now, due)
            self._hear(self.buffer.advance(self.now))
        self.now = until

    @property
    def numbers(self) -> list[int | None]:
        return [number for _, number in self.heard]

    def counted(self) -> dict[str, int]:
        """The counters that are not zero."""
        return {name: count for name, count in asdict(self.buffer.counts).items() if count}

    def _hear(self, pieces: Iterable[Piece]) -> None:
        self.heard += [(self.now, number_of(piece)) for piece in pieces]


def test_what_is_in_sequence_leaves_at_once_whenever_it_comes() -> None:
    line = Line()
    late_s = random.Random(1)
    at = 0.0
    for number in range(200):
        at = max(at, number * FRAME_S + late_s.uniform(0, 0.15))
        assert line.arrive(line.packet(number), at) == [number]
        assert line.buffer.due is None
    assert line.counted() == {}


@pytest.mark.parametrize("first_sequence", [0xFFFF, 0xFFFE, 0xFF00, 0])
def test_the_counters_go_round(first_sequence: int) -> None:
    line = Line(first_sequence=first_sequence, first_timestamp=0xFFFFFF00)
    line.receive(number for number in range(300) if number not in (1, 150))
    assert [number for number in line.numbers if number is not None] == [n for n in range(300) if n not in (1, 150)]
    assert line.counted() == {"lost": 2, "concealed": 2}


def test_a_duplicate_a_whole_turn_after_a_loss_is_a_duplicate() -> None:
    line = Line()
    line.receive(number for number in range(65536 + 1001) if number != 1000)
    line.arrive(line.packet(65536 + 1000), (65536 + 1001) * FRAME_S)
    assert line.counted() == {"lost": 1, "concealed": 1, "duplicate": 1}


def test_a_lost_packet_is_concealed_when_its_time_is_up_and_all_goes_on_at_once() -> None:
    line = Line()
    line.receive(range(10))
    line.receive([11, 12, 13, 14, 15, 16])
    due = 10 * FRAME_S + PATIENCE_S
    assert line.heard[10:13] == [(pytest.approx(due), None), (pytest.approx(due), 11), (pytest.approx(due), 12)]
    # No lag remains.
    assert line.heard[-1] == (pytest.approx(16 * FRAME_S), 16)
    assert line.counted() == {"lost": 1, "concealed": 1}


def test_what_was_overtaken_is_put_in_its_place() -> None:
    line = Line()
    line.receive(range(5))
    line.arrive(line.packet(6), 0.12)
    line.arrive(line.packet(7), 0.14)
    assert line.arrive(line.packet(5), 0.145) == [5, 6, 7]
    line.receive([8])
    assert line.numbers == list(range(9))
    assert line.counted() == {"reordered": 1}


def test_several_holes_are_each_given_their_time() -> None:
    line = Line()
    line.receive([0, 1, 2, 3, 5, 7])
    line.arrive(line.packet(4), 0.15)
    assert line.numbers == [0, 1, 2, 3, 4, 5]
    line.wait(0.3)
    assert line.numbers == [0, 1, 2, 3, 4, 5, None, 7]
    # The late one has moved the playout clock a little.
    assert line.heard[-1][0] == pytest.approx(6 * FRAME_S + PATIENCE_S, abs=0.005)
    assert line.counted() == {"lost": 1, "concealed": 1, "reordered": 1}


def test_what_comes_too_late_is_ignored_and_counted_once() -> None:
    line = Line()
    line.receive([0, 1, 2, 4])
    line.wait(0.2)
    assert line.arrive(line.packet(3), 0.2) == []
    assert line.arrive(line.packet(3), 0.2) == []
    assert line.counted() == {"lost": 1, "concealed": 1, "late": 1, "duplicate": 1}


def test_duplicates_are_heard_once_wherever_they_come() -> None:
    line = Line()
    for number in [0, 0, 1, 2, 2, 1, 0, 4, 4, 3, 3, 4, 5]:
        line.arrive(line.packet(number), max(line.now, number * FRAME_S))
    assert line.numbers == [0, 1, 2, 3, 4, 5]
    assert line.counted() == {"duplicate": 7, "reordered": 1}


def test_a_network_that_doubles_everything() -> None:
    line = Line()
    for number in range(50):
        line.receive([number, number])
    assert line.numbers == list(range(50))
    for number in range(50, 60):
        for _ in range(2):
            line.arrive(line.packet(number, ssrc=1, shift=77), number * FRAME_S)
    assert line.numbers == list(range(60))
    # Two of the new source's are doubled while they are not trusted yet.
    assert line.counted() == {"duplicate": 60, "restarts": 1}


def test_a_burst_of_losses_is_overdue_at_once() -> None:
    line = Line()
    line.receive(range(10))
    # Six are missing: the times of four have passed when the next has been there for its moment of grace.
    assert line.arrive(line.packet(16), 16 * FRAME_S) == []
    line.wait(16 * FRAME_S + GRACE_S * 0.9)
    assert line.numbers[10:] == []
    line.wait(16 * FRAME_S + GRACE_S * 1.1)
    assert line.numbers[10:] == [None] * 4
    line.wait(1.0)
    assert line.numbers[10:] == [None] * 6 + [16]
    assert line.heard[-1][0] == pytest.approx(15 * FRAME_S + PATIENCE_S)


def test_concealment_ends() -> None:
    line = Line()
    line.receive(range(10))
    line.receive(range(10 + 30, 60))
    longest = MAX_CONCEALED_MS // 20
    assert line.numbers == [*range(10), *[None] * longest, *range(40, 60)]
    assert line.counted() == {"lost": 30, "concealed": longest}
    # And is there again for the next loss.
    line.receive(range(61, 70))
    assert line.numbers[-10:] == [None, *range(61, 70)]


def test_an_outage_of_seconds_is_not_concealed_but_counted() -> None:
    line = Line()
    line.receive(range(10))
    line.receive(range(210, 220))
    assert line.numbers == [*range(10), *range(210, 220)]
    assert line.counted() == {"lost": 200}
    # What waited for its fellows has not delayed the others.
    assert line.heard[-1][0] == pytest.approx(219 * FRAME_S)


def test_numbers_that_begin_anew() -> None:
    line = Line()
    line.receive(range(10))
    for step in range(5):
        line.arrive(line.packet(10 + step - 3000, shift=3000 * 160), (10 + step) * FRAME_S)
    assert len(line.numbers) == 15
    assert line.counted() == {"restarts": 1}


def test_numbers_that_go_back_a_little_while_time_goes_on() -> None:
    line = Line()
    line.receive(range(10))
    for step in range(5):
        line.arrive(line.packet(10 + step - 6, shift=6 * 160), (10 + step) * FRAME_S)
    assert len(line.numbers) == 15
    assert line.counted() == {"restarts": 1}


# --- pauses


def test_a_pause_that_the_timestamps_tell_of() -> None:
    line = Line()
    line.receive(range(10))
    assert line.arrive(line.packet(10, shift=100 * 160), 110 * FRAME_S) == [10]
    assert line.counted() == {}


def test_a_pause_that_the_timestamps_pass_over() -> None:
    line = Line()
    line.receive(range(10))
    assert line.arrive(line.packet(10), 5.0) == [10]
    line.arrive(line.packet(12), 5.04)
    line.arrive(line.packet(13), 5.06)
    line.wait(6.0)
    # The playout clock has followed.
    assert line.heard[-2] == (pytest.approx(5.02 + PATIENCE_S), 12)
    assert line.counted() == {"lost": 1, "concealed": 1}


@pytest.mark.parametrize("paused_frames", [5, 12, 50])
def test_keys_use_up_numbers_and_are_no_loss(paused_frames: int) -> None:
    """As Asterisk shows them to us: seven packets of a key do not come, and more or less time than theirs passes."""
    line = Line()
    line.receive(range(10))
    at = (10 + paused_frames) * FRAME_S
    line.arrive(line.packet(17, shift=(paused_frames - 7) * 160), at)
    line.wait(at + GRACE_S)
    assert line.numbers == [*range(10), 17]
    assert line.counted() == {"passed_over": 7}
    assert line.arrive(line.packet(18, shift=(paused_frames - 7) * 160), at + 0.02) == [18]


def test_keys_that_come_take_their_place_unheard() -> None:
    line = Line()
    line.receive(range(10))
    for number in range(10, 17):
        key = RtpPacket(101, line.packet(number).sequence, line.packet(10).timestamp, SSRC, b"\x01\x0a\x00\xa0")
        assert line.arrive(key, number * FRAME_S) == []
    line.receive([17])
    assert line.numbers == [*range(10), 17]
    assert line.counted() == {"foreign_type": 7}


def test_an_empty_packet_is_not_heard() -> None:
    line = Line()
    line.receive([0])
    line.arrive(RtpPacket(0, line.packet(1).sequence, line.packet(1).timestamp, SSRC, b""), 0.02)
    line.arrive(line.packet(2, shift=-160), 0.04)
    assert line.numbers == [0, 2]
    assert line.counted() == {"foreign_type": 1}


# --- sources


def test_a_stray_source_is_ignored() -> None:
    line = Line()
    for number in range(50):
        line.receive([number])
        line.arrive(line.packet(number + 7000, ssrc=99), number * FRAME_S)
    assert line.numbers == list(range(50))
    line.receive([50])
    assert line.counted() == {"foreign_ssrc": 50}


def test_a_new_source_takes_over_and_nothing_of_it_is_lost() -> None:
    line = Line()
    line.receive(range(10))
    assert line.arrive(line.packet(7010, ssrc=99), 0.20) == []
    assert line.arrive(line.packet(7011, ssrc=99), 0.22) == []
    assert line.arrive(line.packet(7012, ssrc=99), 0.24) == [7010, 7011, 7012]
    assert line.arrive(line.packet(7013, ssrc=99), 0.26) == [7013]
    # The old one is the stranger now.
    assert line.arrive(line.packet(14), 0.28) == []
    line.arrive(line.packet(7014, ssrc=99), 0.28)
    assert line.counted() == {"restarts": 1, "foreign_ssrc": 1}


def test_a_new_source_must_come_in_sequence() -> None:
    line = Line()
    line.receive([0])
    for number in (7000, 7002, 7004, 7006):
        assert line.arrive(line.packet(number, ssrc=99), 0.1) == []
    assert line.arrive(line.packet(7007, ssrc=99), 0.1) == []
    assert line.arrive(line.packet(7008, ssrc=99), 0.1) == [7006, 7007, 7008]
    assert line.counted() == {"foreign_ssrc": 3, "restarts": 1}


def test_a_change_of_source_lets_go_what_waited() -> None:
    line = Line()
    line.receive([0, 1, 3])
    assert [line.arrive(line.packet(7000 + step, ssrc=99), 0.062) for step in range(3)] == [
        [],
        [],
        [None, 3, 7000, 7001, 7002],
    ]
    assert line.buffer.due is None


def test_a_single_packet_from_far_away_changes_nothing() -> None:
    line = Line()
    line.receive(range(10))
    assert line.arrive(line.packet(9 + MAX_HOLE + 30), 0.19) == []
    line.receive(range(10, 20))
    assert line.numbers == list(range(20))
    assert line.counted() == {"foreign_ssrc": 1}


# --- sizes and clocks


@pytest.mark.parametrize("ticks", [80, 160, 240, 480])
def test_packets_of_any_size(ticks: int) -> None:
    buffer = JitterBuffer(0)
    pieces: list[Piece] = []
    for number in [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]:
        pieces += buffer.push(RtpPacket(0, number, ticks * number, SSRC, payload(number, ticks)), number * ticks / 8000)
    assert Gap(ticks) in pieces
    assert [number_of(piece) for piece in pieces] == [0, 1, 2, None, *range(4, 12)]
    assert all(isinstance(piece, Gap) or len(piece) == ticks for piece in pieces)


def test_two_bytes_a_tick() -> None:
    buffer = JitterBuffer(10, bytes_per_tick=2)
    pieces: list[Piece] = []
    for number in [0, 1, 3, 4, 5, 6, 7]:
        pieces += buffer.push(RtpPacket(10, number, 160 * number, SSRC, payload(number, 320)), number * FRAME_S)
    assert Gap(160) in pieces
    assert buffer.counts.lost == 1


@pytest.mark.parametrize("drift_ppm", [-100, 100])
def test_an_hour_of_clock_drift_does_not_leave_the_playout_clock_behind(drift_ppm: int) -> None:
    line = Line()
    second = 1 + drift_ppm / 1e6
    packets = 3600 * 50
    for number in range(packets):
        line.arrive(line.packet(number), number * FRAME_S * second)
    gone = packets * FRAME_S * second
    line.arrive(line.packet(packets + 1), gone + FRAME_S)
    assert line.buffer.due == pytest.approx(gone + PATIENCE_S, abs=0.001)
    assert line.counted() == {}


def test_after_a_stall_the_rush_may_be_out_of_order() -> None:
    line = Line()
    line.receive(range(10))
    for number in (11, 10, 13, 12, 14):
        line.arrive(line.packet(number), 0.5)
    assert line.numbers == list(range(15))
    assert line.counted() == {"reordered": 2}


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    jitter_ms=st.sampled_from([0, 10, 30, 100, 400]),
    doubled=st.sampled_from([0.0, 0.1]),
    first_sequence=st.integers(0, 0xFFFF),
)
def test_whatever_the_network_does(seed: int, loss: float, jitter_ms: int, doubled: float, first_sequence: int) -> None:
    """In order, nothing twice, nothing held for longer than allowed, and every packet in exactly one counter."""
    chance = random.Random(seed)
    line = Line(first_sequence=first_sequence, first_timestamp=chance.getrandbits(32))
    arrivals = []
    for number in range(200):
        if number == 0 or chance.random() >= loss:
            for _ in range(1 + (chance.random() < doubled)):
                late_s = 0 if number == 0 else chance.uniform(0, jitter_ms / 1000)
                arrivals.append((number * FRAME_S + late_s, number))
    arrivals.sort()
    arrived_at: dict[int, float] = {}
    for at, number in arrivals:
        arrived_at.setdefault(number, at)
        line.arrive(line.packet(number), at)
    line.wait(100.0)

    heard = [number for number in line.numbers if number is not None]
    assert heard == sorted(set(heard))
    for at, number in line.heard:
        assert number is None or at - arrived_at[number] <= LONGEST_WAIT_S + 1e-9
    counts = line.buffer.counts
    assert counts.duplicate == len(arrivals) - len(arrived_at)
    assert len(heard) + counts.late == len(arrived_at)
    assert counts.lost == heard[-1] + 1 - len(heard)
    assert counts.concealed == line.numbers.count(None) <= counts.lost
    assert counts.passed_over == counts.restarts == counts.foreign_type == counts.foreign_ssrc == 0


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([0, 1, 2, 60, 0x7FFF, 0x8000, 0xFFFF]) | st.integers(0, 0xFFFF),
            st.sampled_from([0, 160, 320, 0x7FFFFFFF, 0x80000000]) | st.integers(0, 0xFFFFFFFF),
            st.sampled_from([0, 0, 0, 101]),
            st.sampled_from([0, 1, 160, 480]),
            st.floats(0, 0.3),
        ),
        max_size=60,
    )
)
def test_no_stream_of_nonsense_breaks_it(stream: list[tuple[int, int, int, int, int, float]]) -> None:
    buffer = JitterBuffer(0)
    now, heard = 0.0, 0
    for ssrc, sequence, timestamp, payload_type, size, later_s in stream:
        now += later_s
        heard += sum(not isinstance(piece, Gap) for piece in buffer.advance(now))
        pieces = buffer.push(RtpPacket(payload_type, sequence, timestamp, ssrc, bytes(size)), now)
        heard += sum(not isinstance(piece, Gap) for piece in pieces)
        assert buffer.due is None or buffer.due <= now + LONGEST_WAIT_S
    heard += sum(not isinstance(piece, Gap) for piece in buffer.advance(now + 1))
    counts = buffer.counts
    assert buffer.due is None
    # Two may still be suspected.
    accounted = heard + counts.late + counts.duplicate + counts.foreign_type + counts.foreign_ssrc
    assert len(stream) - 2 <= accounted <= len(stream)
