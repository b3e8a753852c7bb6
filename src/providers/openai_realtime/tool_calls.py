"""Tool calls of a response: results go back after it is done; the agent goes on after the last one."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class _Calls:
    """The calls of one response."""

    pending: set[str] = field(default_factory=set)
    held: list[tuple[str, str]] = field(default_factory=list)
    parent_is_done: bool = False


@dataclass(slots=True, frozen=True)
class Results:
    """Results to be sent now (call id, output), and whether the agent can go on with them."""

    outputs: list[tuple[str, str]]
    complete: bool


class ToolCalls:
    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._responses: dict[str, _Calls] = {}
        self._unconfirmed: set[str] = set()

    @property
    def all_confirmed(self) -> bool:
        """Whether the API has taken in every result that it was sent."""
        return not self._unconfirmed

    def announced(self, call_id: str, name: str) -> None:
        """A call began; older servers name the function only here."""
        self._names[call_id] = name

    def name(self, call_id: str) -> str | None:
        return self._names.get(call_id)

    def called(self, response_id: str, call_id: str) -> bool:
        """Notes a complete call. False when it has been noted before."""
        self._names.pop(call_id, None)
        calls = self._responses.setdefault(response_id, _Calls())
        if call_id in calls.pending or any(call_id == held for held, _ in calls.held):
            return False
        calls.pending.add(call_id)
        return True

    def result(self, call_id: str, output: str) -> Results | None:
        """Takes a result. None for a call that nobody made or that has its result already."""
        for response_id, calls in self._responses.items():
            if call_id in calls.pending:
                calls.pending.remove(call_id)
                calls.held.append((call_id, output))
                return self._release(response_id, calls)
        return None

    def parent_done(self, response_id: str) -> Results:
        calls = self._responses.get(response_id)
        if calls is None:
            return Results([], complete=False)
        calls.parent_is_done = True
        return self._release(response_id, calls)

    def confirmed(self, call_id: str) -> None:
        """The API shows the result in the conversation."""
        self._unconfirmed.discard(call_id)

    def _release(self, response_id: str, calls: _Calls) -> Results:
        if not calls.parent_is_done:
            return Results([], complete=False)
        outputs, calls.held = calls.held, []
        self._unconfirmed.update(call_id for call_id, _ in outputs)
        complete = not calls.pending
        if complete:
            del self._responses[response_id]
        return Results(outputs, complete)
