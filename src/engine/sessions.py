"""The live calls: the only place that knows them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

if TYPE_CHECKING:
    from engine.call import Call


OURS = ("media", "snoop", "bridge")
"""The kinds of things that are made in Asterisk for a call."""


@dataclass(slots=True, frozen=True)
class CallIds:
    """Every id of a call in Asterisk, chosen before Asterisk hears of it.

    ``prefix`` marks what belongs to this engine, so that another engine on the same Asterisk is left alone.
    """

    caller_channel: str
    media_channel: str
    snoop_channel: str
    """What the caller says, apart from what the caller hears; only of calls whose replies are played as files."""
    bridge: str
    media: UUID

    @classmethod
    def choose(cls, caller_channel: str, prefix: str) -> CallIds:
        media = uuid4()
        media_channel, snoop_channel, bridge = (f"{prefix}-{kind}-{media}" for kind in OURS)
        return cls(caller_channel, media_channel, snoop_channel, bridge, media)


@dataclass(slots=True, frozen=True)
class Caller:
    """Who calls, and what the dialplan asks for."""

    number: str = ""
    dialled: str = ""
    variables: Mapping[str, str] | None = None
    """Those that the call is to know, where Asterisk is set up to tell them with the call's arrival."""


@dataclass(slots=True)
class Session:
    """One live call."""

    ids: CallIds
    caller: Caller
    call: Call = field(init=False)
    started_at: float = field(default_factory=time.monotonic)

    @property
    def call_id(self) -> str:
        """The caller's channel id: what Asterisk's own logs and records call this call."""
        return self.ids.caller_channel


class SessionStore:
    """All live calls of this process, found by any of their ids."""

    def __init__(self) -> None:
        self._by_id: dict[str, Session] = {}
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._sessions.values()))

    def add(self, session: Session) -> None:
        self._sessions[session.call_id] = session
        for key in self._keys(session):
            self._by_id[key] = session

    def remove(self, session: Session) -> None:
        del self._sessions[session.call_id]
        for key in self._keys(session):
            del self._by_id[key]

    def find(self, asterisk_id: str) -> Session | None:
        """The call that a channel (the caller's or the media's) or a bridge belongs to."""
        return self._by_id.get(asterisk_id)

    @staticmethod
    def _keys(session: Session) -> tuple[str, ...]:
        ids = session.ids
        return (ids.caller_channel, ids.media_channel, ids.snoop_channel, ids.bridge)
