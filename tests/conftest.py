"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testkit.asterisk import AsteriskInstance


@pytest.fixture(scope="session")
def asterisk() -> Iterator[AsteriskInstance]:
    """One real Asterisk for the whole run."""
    with AsteriskInstance() as instance:
        yield instance
