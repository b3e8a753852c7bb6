"""One response at a time: what the agent is to say next waits here until it may be asked for."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class ReplyRequest:
    """A reply to ask for."""

    instructions: str | None = None
    """What to say; None: carry the conversation on."""
    tells_results: bool = False
    """Asked for because results of tools have come in."""


class ReplyRequests:
    """The API refuses ``response.create`` while a response is active, and a server's voice detector starts
    responses of its own: what was refused for that reason is asked for again."""

    def __init__(self) -> None:
        self._waiting: deque[ReplyRequest] = deque()
        self._asked: tuple[str, ReplyRequest] | None = None
        self._unanswered = False
        self.active: str | None = None
        """The response that is being generated."""
        self.active_is_cancelled = False
        """By us, or by the server that heard the caller speak."""
        self.caller_is_speaking = False

    def add(self, request: ReplyRequest) -> None:
        self._waiting.append(request)

    def next(self) -> ReplyRequest | None:
        """What may be asked for now; the caller of this does so and tells ``asked``."""
        if self.active is not None or self._unanswered or self.caller_is_speaking or not self._waiting:
            return None
        return self._waiting.popleft()

    def asked(self, event_id: str, request: ReplyRequest) -> None:
        self._asked = (event_id, request)
        self._unanswered = True

    def created(self, response_id: str, knows_all: bool) -> None:
        """A response began, asked for or not.

        One that ``knows_all`` results of tools tells them too: nobody needs to ask for that any more.
        """
        self._unanswered = False
        self.caller_is_speaking = False
        self.active = response_id
        self.active_is_cancelled = False
        if knows_all:
            self._waiting = deque(request for request in self._waiting if not request.tells_results)

    def done(self, response_id: str) -> None:
        if self.active == response_id:
            self.active = None

    def refused(self, event_id: str, again: bool) -> None:
        """The API answered the request ``event_id`` with an error; ``again``: keep it."""
        if self._asked is None or self._asked[0] != event_id:
            return
        if again:
            self._waiting.appendleft(self._asked[1])
        self._asked = None
        self._unanswered = False
