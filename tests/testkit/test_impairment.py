"""The bad network does what its plan says, no more and no less, and the same each time."""

from __future__ import annotations

import asyncio
import socket
from itertools import groupby, pairwise

import pytest

from testkit.impairment import REORDER_MS, Bursts, Course, ImpairedPath, Impairment, Plan
from testkit.waiting import wait_until

PACKETS = 20_000
PACKET_S = 0.02


def dues(impairment: Impairment, seed: str = "a", packets: int = PACKETS) -> tuple[Course, list[list[float]]]:
    """When each packet leaves that arrives on time, one every 20 ms from 0 on."""
    course = Course(impairment, seed)
    return course, [course.take(PACKET_S * number) for number in range(packets)]


def lost(impairment: Impairment, seed: str = "a") -> set[int]:
    return {number for number, each in enumerate(dues(impairment, seed)[1]) if not each}


def delays_ms(impairment: Impairment, packets: int = PACKETS) -> list[float]:
    return [1000 * (each[0] - PACKET_S * number) for number, each in enumerate(dues(impairment, packets=packets)[1])]


def test_a_clean_path_delays_nothing() -> None:
    course, left = dues(Impairment())
    assert left == [[PACKET_S * number] for number in range(PACKETS)]
    assert (course.counts.arrived, course.counts.lost, course.counts.duplicated) == (PACKETS, 0, 0)


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
def test_losses_are_as_many_as_planned_and_the_same_each_time(share: float) -> None:
    gone = lost(Impairment(loss=share))
    assert len(gone) / PACKETS == pytest.approx(share, rel=0.15)
    assert lost(Impairment(loss=share)) == gone
    assert lost(Impairment(loss=share), "b") != gone
    assert gone < lost(Impairment(loss=2 * share)), "a worse path loses the same ones and more"


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
def test_bursts_lose_as_much_in_runs(share: float) -> None:
    course, left = dues(Impairment(bursts=Bursts(share, mean_length=4)))
    runs = [len(list(run)) for is_lost, run in groupby(left, key=lambda each: not each) if is_lost]
    assert sum(runs) / PACKETS == pytest.approx(share, rel=0.25)
    assert sum(runs) / len(runs) == pytest.approx(4, rel=0.25)
    assert course.counts.lost == sum(runs)
    assert course.counts.longest_loss == max(runs)


def test_jitter_spreads_and_keeps_the_order() -> None:
    course, left = dues(Impairment(jitter_ms=60))
    delays = delays_ms(Impairment(jitter_ms=60))
    assert min(delays) >= 0
    assert max(delays) == pytest.approx(120, abs=1)
    assert max(delays) - min(delays) > 100
    assert all(earlier <= later for (earlier,), (later,) in pairwise(left))
    assert course.counts.lost == 0


def test_a_spike_holds_up_what_comes_behind_it() -> None:
    course, left = dues(Impairment(spikes=0.01, spike_ms=200))
    assert course.counts.delayed / PACKETS == pytest.approx(0.01, rel=0.25)
    assert sum(each > 1 for each in delays_ms(Impairment(spikes=0.01, spike_ms=200))) > 5 * course.counts.delayed
    assert all(earlier <= later for (earlier,), (later,) in pairwise(left))


def test_reordered_ones_are_overtaken_by_the_next() -> None:
    course, left = dues(Impairment(reorder=0.05))
    overtaken = sum(earlier > later for (earlier,), (later,) in pairwise(left))
    assert course.counts.reordered / PACKETS == pytest.approx(0.05, rel=0.15)
    # Of two in a row that are both held back, the first is not overtaken by the second.
    assert 0.9 * course.counts.reordered < overtaken <= course.counts.reordered
    assert {round(each) for each in delays_ms(Impairment(reorder=0.05))} == {0, REORDER_MS}


def test_duplicates_leave_twice() -> None:
    course, left = dues(Impairment(duplicates=0.05))
    assert sum(len(each) == 2 for each in left) == course.counts.duplicated
    assert course.counts.duplicated / PACKETS == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("drift_ppm", [100, -100, 3000, -3000])
def test_a_clock_that_is_off_moves_away_steadily(drift_ppm: float) -> None:
    packets = 1500
    delays = delays_ms(Impairment(delay_ms=100, drift_ppm=drift_ppm), packets)
    moved = delays[-1] - delays[0]
    assert moved == pytest.approx(-drift_ppm / 1000 * PACKET_S * (packets - 1))
    assert min(delays) >= 0


def test_a_fast_clock_ends_when_the_delay_is_used_up() -> None:
    course, left = dues(Impairment(delay_ms=100, drift_ppm=1000), packets=6000)
    lasts = round(100 / (0.001 * 1000 * PACKET_S))
    assert course.counts.drift_ended == 6000 - (lasts + 1)
    assert left[lasts + 1 :] == [[PACKET_S * number] for number in range(lasts + 1, 6000)]


def test_a_calm_path_keeps_nothing_but_its_delay() -> None:
    assert Impairment(loss=0.1, delay_ms=30, jitter_ms=20, drift_ppm=100).calm == Impairment(delay_ms=30)
    assert Impairment(delay_ms=10, jitter_ms=20).calm == Impairment(delay_ms=20)


def test_another_plan_is_for_those_that_come_after_it() -> None:
    course = Course(Impairment(delay_ms=100), "a")
    assert course.take(0.0) == [0.1]
    course.apply(Impairment(loss=1))
    assert course.take(0.02) == []
    course.apply(Impairment())
    assert course.take(0.04) == [0.1], "it does not overtake what is on the way"
    assert course.take(0.2) == [0.2]


class Party(asyncio.DatagramProtocol):
    """Keeps what arrives, with where it came from."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.sources: set[object] = set()

    def datagram_received(self, datagram: bytes, source: object) -> None:
        self.received.append(datagram)
        self.sources.add(source)


async def party() -> tuple[asyncio.DatagramTransport, Party, tuple[str, int]]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Party, ("127.0.0.1", 0))
    return transport, protocol, transport.get_extra_info("sockname")


async def test_a_path_leads_there_and_back() -> None:
    near, near_ears, near_address = await party()
    far, far_ears, far_address = await party()
    try:
        async with ImpairedPath(far_address) as path:
            far.sendto(b"too early", path.far)
            await wait_until(lambda: path.to_near.undirected == 1)
            path.lead_to_near(near_address)
            far.sendto(b"first", path.far)
            await wait_until(lambda: near_ears.received == [b"first"])
            near.sendto(b"there", path.near)
            await wait_until(lambda: far_ears.received == [b"there"])
            far.sendto(b"back", path.far)
            await wait_until(lambda: near_ears.received == [b"first", b"back"])
            assert near_ears.sources == {path.near}
            assert far_ears.sources == {path.far}
    finally:
        near.close()
        far.close()


async def test_each_way_has_a_plan_of_its_own_and_what_is_on_the_way_arrives() -> None:
    near, near_ears, _ = await party()
    far, far_ears, far_address = await party()
    sent = [b"%d" % number for number in range(200)]
    plan = Plan(to_far=Impairment(loss=0.2, duplicates=0.2, jitter_ms=20), to_near=Impairment(delay_ms=200))
    try:
        async with ImpairedPath(far_address, plan, seed=3) as path:
            for each in sent:
                near.sendto(each, path.near)
            await wait_until(lambda: path.to_far.arrived == len(sent))
            for each in sent:
                far.sendto(each, path.far)
            await wait_until(lambda: path.to_near.arrived == len(sent))
            path.apply(Plan())
            far.sendto(b"last", path.far)
            await wait_until(lambda: near_ears.received == [*sent, b"last"], what="those delayed, then the last")
            counts = path.to_far
            assert 0 < counts.lost < 100
            assert 0 < counts.duplicated < 100
            await wait_until(lambda: len(far_ears.received) == len(sent) - counts.lost + counts.duplicated)
            assert far_ears.received == sorted(far_ears.received, key=int)
    finally:
        near.close()
        far.close()


async def test_nobody_at_the_far_side_does_not_end_the_path() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = probe.getsockname()
    near, near_ears, _ = await party()
    try:
        async with ImpairedPath(nobody) as path:
            for number in range(1, 4):
                near.sendto(b"?", path.near)
                await wait_until(lambda number=number: path.to_far.sent == number)
            far, _ = await asyncio.get_running_loop().create_datagram_endpoint(Party, nobody)
            far.sendto(b"here", path.far)
            await wait_until(lambda: near_ears.received == [b"here"])
            far.close()
    finally:
        near.close()
