"""Moments and conditions."""

from __future__ import annotations

import asyncio

import pytest

from testkit.waiting import Moment, wait_until


async def test_all_who_wait_for_a_moment_get_it_though_one_gave_up() -> None:
    moment = Moment()
    patient = [asyncio.create_task(asyncio.wait_for(moment, 5)) for _ in range(2)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(moment, 0.01)
    moment.come(1.5)
    moment.come(2.5)
    assert await asyncio.gather(*patient) == [1.5, 1.5]
    assert await moment == 1.5


async def test_a_moment_that_will_not_come_says_why() -> None:
    moment = Moment()
    moment.never(ValueError("why"))
    moment.come(1.0)
    with pytest.raises(ValueError, match="why"):
        await moment
    assert moment.at is None


async def test_a_condition_is_waited_for_and_zero_is_a_find() -> None:
    findings = iter([None, False, 0.0])
    assert await wait_until(lambda: next(findings), 5) == 0.0


async def test_a_condition_that_does_not_come_is_named() -> None:
    with pytest.raises(TimeoutError, match="the echo"):
        await wait_until(lambda: None, 0.02, "the echo")
