"""The RTP port on a bad network, in real calls: nothing is missing but what the network took, and no lag is left."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bench.impaired_sound import Clip, Outcome
from bench.impairment import Cell, Direction, measure
from testkit.asterisk import AsteriskInstance
from testkit.impairment import CLEAN, Bursts, Impairment

pytestmark = pytest.mark.asterisk

TEXT = "The opening hours are nine to six from Monday to Friday. Your parcel has left our warehouse this morning."
# What a cell must still sound like. Where nothing is lost it is 4.55, and 4.0 to 4.5 when the machine stands still for
# a moment; at 3 % of losses 3.6 to 4.1, in bursts 3.0 to 4.0.
FLOORS = {
    Cell("clean", CLEAN): 4.35,
    Cell("loss", Impairment(loss=0.03)): 3.2,
    Cell("bursts", Impairment(bursts=Bursts(0.03, 3))): 2.2,
    Cell("jitter", Impairment(jitter_ms=60)): 4.0,
    Cell("reorder and duplicates", Impairment(reorder=0.05, duplicates=0.05)): 4.0,
    Cell("clock", Impairment(delay_ms=50, drift_ppm=3000)): 4.0,
}
LAG_MS = 20
SPARE = 0.01
"""Of the frames: one may be on the way when the path gets worse or better, one or two wait too long for a stalled
machine. A buffer that does not wait for what was overtaken misses 6 %."""


@pytest.fixture(scope="module")
def outcomes(asterisk: AsteriskInstance) -> Iterator[dict[tuple[Cell, Direction], Outcome]]:
    """All cells, played at once."""
    rows = asyncio.run(measure(asterisk, list(FLOORS), clip=Clip(TEXT)))
    yield {(row.cell, row.direction): row.outcome for row in rows}


@pytest.mark.parametrize("direction", ["caller → engine", "engine → caller"])
@pytest.mark.parametrize(("cell", "floor"), FLOORS.items(), ids=[cell.name for cell in FLOORS])
def test_a_bad_path(
    outcomes: dict[tuple[Cell, Direction], Outcome], cell: Cell, direction: Direction, floor: float
) -> None:
    it = outcomes[cell, direction]
    assert it.missing <= it.lost + SPARE, "nothing is missing but what was lost"
    assert it.pesq >= floor
    calm = outcomes[next(iter(FLOORS)), direction]
    assert it.aftermath_p50_ms <= calm.delay_p50_ms + LAG_MS, "trouble leaves no delay behind"
    assert it.pesq <= calm.pesq + 0.01
