"""``make soak``: what shows after minutes, among a hundred calls, or after hundreds of them; writes docs/soak.md.

Each part writes its own section, so that one can be made anew by itself. ``--quick`` makes everything small, to see
whether it runs, and leaves the page alone: out/soak.md.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import gc
import os
import platform
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench import soak_churn, soak_crowd, soak_endurance
from bench.pages import write_section

PAGE, QUICK_PAGE = Path("docs/soak.md"), Path("out/soak.md")


@dataclass(slots=True, frozen=True)
class Plan:
    minutes: float
    """Of the long calls."""
    calls: int
    """At once."""
    crowd_minutes: float
    churn_calls: int


QUICK = Plan(minutes=0.5, calls=10, crowd_minutes=0.5, churn_calls=40)

PARTS: dict[str, Callable[[Plan], Awaitable[str]]] = {
    "endurance": lambda plan: soak_endurance.section(plan.minutes),
    "crowd": lambda plan: soak_crowd.section(plan.calls, plan.crowd_minutes),
    "churn": lambda plan: soak_churn.section(plan.churn_calls),
}

_INTRODUCTION = """\
# Soak

Made by `make soak`: whole calls of SIP phones that keep every packet, through a private Asterisk to the engine as a
process and on to the double of OpenAI Realtime, over every way that sound can go. All of them share one machine,
{machine}, so that what the test itself was late with is given beside what the engine was late with.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="length of the long calls")
    parser.add_argument("--calls", type=int, default=100, help="calls at once")
    parser.add_argument("--crowd-minutes", type=float, default=3, help="how long they talk")
    parser.add_argument("--churn", type=int, default=500, help="short calls")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, and in which order")
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    options = parser.parse_args()
    plan = QUICK if options.quick else Plan(options.minutes, options.calls, options.crowd_minutes, options.churn)
    page = QUICK_PAGE if options.quick else PAGE
    parts = options.parts.split(",")
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(unknown)} (known: {', '.join(PARTS)})")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # A million kept packets take a second to look through, in which no caller speaks.
    gc.disable()
    page.parent.mkdir(exist_ok=True)
    if not page.exists():
        page.write_text(_INTRODUCTION.format(machine=_machine()), encoding="utf-8")
    for part in parts:
        print(f"{part} …", file=sys.stderr, flush=True)
        text = uvloop.run(_measured(part, plan))
        print(text, file=sys.stderr, flush=True)
        write_section(page, f"bench.soak {part}", text)


async def _measured(part: str, plan: Plan) -> str:
    started = asyncio.get_running_loop().time()
    text = await PARTS[part](plan)
    minutes = (asyncio.get_running_loop().time() - started) / 60
    return f"{text}\nMeasured {datetime.date.today().isoformat()}, in {minutes:.0f} minutes.\n"


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"


if __name__ == "__main__":
    main()
