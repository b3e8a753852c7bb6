"""The providers that this process offers, by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from providers.base import ProviderError, ProviderFactory, ProviderStatus


class ProviderCatalogue:
    """Starts a kind of provider when it is first wanted, and closes what it started."""

    def __init__(self, factories: Iterable[ProviderFactory]) -> None:
        self._factories = {factory.name: factory for factory in factories}
        self._starts: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._factories

    def __iter__(self) -> Iterator[str]:
        return iter(self._factories)

    async def started(self, name: str) -> ProviderFactory:
        """The factory of that name, ready to create providers. Raises ProviderError."""
        factory = self._factories.get(name)
        if factory is None:
            raise ProviderError("unknown_provider", f"there is no provider called {name!r}")
        start = self._starts.get(name)
        if start is None or (start.done() and (start.cancelled() or start.exception() is not None)):
            start = self._starts[name] = asyncio.create_task(factory.start(), name=f"start {name}")
        # Shielded: the start is everybody's, also when the call that wanted it first is over.
        await asyncio.shield(start)
        return factory

    def status(self, name: str) -> ProviderStatus:
        factory = self._factories.get(name)
        if factory is None:
            return ProviderStatus(False, f"there is no provider called {name!r}")
        return factory.status()

    async def close(self) -> None:
        for start in self._starts.values():
            start.cancel()
        await asyncio.gather(*self._starts.values(), return_exceptions=True)
        for name in self._starts:
            await self._factories[name].close()
