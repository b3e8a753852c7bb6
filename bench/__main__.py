"""``make bench``: the engine over every wire beside that wire's floor, in one run.

A whole run writes docs/benchmarks.md and out/bench.json; one of pieces leaves the former alone and writes
out/bench-pieces.md instead.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson
import uvloop

from bench.churn import ChurnResult, churn
from bench.load import ENGINE, FLOOR, Load, Row, measure_load
from bench.report import Found, report
from bench.systems import FLOORS
from testkit.asterisk import AsteriskInstance

OUT = Path("out")
PAGE = Path("docs/benchmarks.md")
LOADS = (1, 20, 60, 120)
FEWEST_CALLS = 3
"""Loads of fewer calls at once are repeated until so many were made."""
CYCLES = 3
CHURN_CALLS = 500


@dataclass(slots=True, frozen=True)
class Plan:
    transports: tuple[str, ...]
    calls: tuple[int, ...]
    cycles: int
    fewest_calls: int
    churn_calls: int

    @property
    def is_whole(self) -> bool:
        return self == WHOLE

    def loads(self) -> list[Load]:
        return [
            Load(transport, calls, rounds=-(-self.fewest_calls // calls), cycles=self.cycles)
            for calls in self.calls
            for transport in self.transports
        ]


WHOLE = Plan(tuple(FLOORS), LOADS, CYCLES, FEWEST_CALLS, CHURN_CALLS)


async def run(plan: Plan) -> Found:
    rows: list[Row] = []
    churned: ChurnResult | None = None
    with AsteriskInstance() as asterisk:
        version = asterisk.cli("core show version").split(" built")[0].strip()
        for load in plan.loads():
            for system in (FLOOR, ENGINE):
                _say(f"{system}, {load.transport}, {load.calls} calls …")
                rows.append(await measure_load(system, load, asterisk))
                _say(f"  {_brief(rows[-1])}")
        if plan.churn_calls:
            _say(f"churn, {plan.churn_calls} calls …")
            churned = await churn(asterisk, plan.churn_calls)
            _say(f"  {asdict(churned)}")
    return Found(rows, churned, machine=f"{_machine()}; {version}", date=datetime.date.today().isoformat())


def _brief(row: Row) -> str:
    return ", ".join(
        f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in asdict(row).items()
        if name not in ("system", "transport", "calls")
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _machine() -> str:
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return (
        f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _plan() -> Plan:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--transports", default=",".join(WHOLE.transports), help="which wires")
    parser.add_argument("--calls", default=",".join(map(str, LOADS)), help="how many at once, one load after the other")
    parser.add_argument("--cycles", type=int, default=CYCLES, help="questions and interruptions per call")
    parser.add_argument("--churn", type=int, default=CHURN_CALLS, help="short calls, ten per second, at the end")
    parser.add_argument("--quick", action="store_true", help="one cycle, nothing repeated, no churn")
    options = parser.parse_args()
    transports = tuple(options.transports.split(","))
    if unknown := [name for name in transports if name not in FLOORS]:
        parser.error(f"no such transport: {', '.join(unknown)} (known: {', '.join(FLOORS)})")
    calls = tuple(int(number) for number in options.calls.split(","))
    if options.quick:
        return Plan(transports, calls, cycles=1, fewest_calls=1, churn_calls=0)
    return Plan(transports, calls, options.cycles, FEWEST_CALLS, options.churn)


def main() -> None:
    plan = _plan()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    found = uvloop.run(run(plan))
    OUT.mkdir(exist_ok=True)
    if plan.is_whole:
        data, page = OUT / "bench.json", PAGE
    else:
        data, page = OUT / "bench-pieces.json", OUT / "bench-pieces.md"
    data.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    page.write_text(report(found), encoding="utf-8")
    _say(f"written: {data}, {page}")


if __name__ == "__main__":
    main()
