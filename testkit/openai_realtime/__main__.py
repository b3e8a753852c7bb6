"""The double as a program: ``python -m testkit.openai_realtime --port 9100 --config script.json``.

The first line of output is ``{"url": …}``. SIGTERM or SIGINT ends it; the last line is the statistics.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import orjson

from testkit.openai_realtime.double import OpenAIRealtimeDouble
from testkit.openai_realtime.script import Script


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m testkit.openai_realtime")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 takes a free one")
    parser.add_argument("--config", type=Path, help="the script as JSON (see testkit.openai_realtime.Script)")
    parser.add_argument("--validate", choices=("all", "first_of_kind"), default="first_of_kind")
    parser.add_argument("--events", action="store_true", help="print every event (audio left out) as it comes and goes")
    parser.add_argument(
        "--sound", action="store_true", help="add the caller's sound (base64) and the time of every append"
    )
    return parser.parse_args()


def _print(line: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(line) + b"\n")
    sys.stdout.buffer.flush()


async def _serve(arguments: argparse.Namespace) -> None:
    script = Script.model_validate_json(arguments.config.read_bytes()) if arguments.config else Script()
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    double = OpenAIRealtimeDouble(
        script,
        validate=arguments.validate,
        port=arguments.port,
        trace=_print if arguments.events else None,
    )
    async with double:
        _print({"url": double.url})
        await ended.wait()
        stats = double.stats()
    if arguments.sound:
        for session, entry in zip(double.sessions, stats["sessions"], strict=True):
            entry["received_audio"] = b64encode(session.received_audio).decode()
            entry["append_times"] = [append.at for append in session.appends]
            entry["append_sizes"] = [append.size_bytes for append in session.appends]
    _print(stats)


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(_arguments()))
    else:
        uvloop.run(_serve(_arguments()))
