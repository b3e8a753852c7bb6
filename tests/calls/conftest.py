"""Calls: a real Asterisk, the engine as a process, a double of the provider, and a caller with a SIP phone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from testkit.asterisk import AsteriskInstance
from testkit.caller import SipCaller
from testkit.engine import EngineProcess
from testkit.openai_realtime import OpenAIRealtimeDouble, Script


@dataclass
class Line:
    """Everything that a call goes through."""

    asterisk: AsteriskInstance
    double: OpenAIRealtimeDouble
    engine: EngineProcess

    def caller(self, **options: Any) -> SipCaller:
        return SipCaller(server=("127.0.0.1", self.asterisk.sip_port), extension="100", **options)

    async def nothing_left(self) -> None:
        """Within five seconds no call, channel, bridge or provider session is left; nothing leaks a metric."""
        await self.engine.idle(5)
        assert self.asterisk.channels() == []
        assert self.asterisk.bridges() == []
        assert await self.engine.metric("ai_agent_tts_gating_active") == 0
        assert not any(session.is_open for session in self.double.sessions)


LineFactory = Callable[..., Any]


@asynccontextmanager
async def line_at(
    asterisk: AsteriskInstance,
    script: Script | None = None,
    *,
    settings: dict[str, Any] | None = None,
    **double_options: Any,
) -> AsyncIterator[Line]:
    """Engine and double around an Asterisk. ``settings`` are laid over the engine's own."""
    async with AsyncExitStack() as stack:
        double = await stack.enter_async_context(OpenAIRealtimeDouble(script, **double_options))
        engine = EngineProcess(
            ari_port=asterisk.ari_port,
            username=asterisk.username,
            password=asterisk.password,
            app_name=asterisk.app_name,
            settings={
                "default_provider": "openai_realtime",
                "providers": {"openai_realtime": {"base_url": double.url}},
                **(settings or {}),
            },
        )
        await stack.enter_async_context(engine)
        yield Line(asterisk, double, engine)
        assert double.violations == []


@pytest.fixture
def open_line(asterisk: AsteriskInstance) -> LineFactory:
    """``async with open_line(Script(…), settings={…}) as line``, at the Asterisk that all tests share."""
    return partial(line_at, asterisk)


@pytest.fixture
def open_line_at() -> LineFactory:
    """The same at an Asterisk of the test's own."""
    return line_at


@pytest.fixture
def own_asterisk() -> Iterator[AsteriskInstance]:
    """An Asterisk that the test may restart."""
    with AsteriskInstance() as instance:
        yield instance
