"""The store of live calls."""

from __future__ import annotations

from uuid import UUID

from engine.sessions import Caller, CallIds, Session, SessionStore


def session(caller: str = "17.1") -> Session:
    return Session(CallIds.choose(caller, "voice-engine"), Caller())


def test_a_call_is_found_by_any_of_its_ids_until_it_leaves() -> None:
    store, call = SessionStore(), session()
    store.add(call)
    ids = call.ids
    assert [store.find(key) for key in (ids.caller_channel, ids.media_channel, ids.bridge)] == [call] * 3
    assert list(store) == [call] and len(store) == 1
    store.remove(call)
    assert store.find(ids.media_channel) is None
    assert len(store) == 0


def test_ids_carry_the_engines_name_and_never_repeat() -> None:
    first, second = session("17.1").ids, session("17.1").ids
    assert first.media_channel.startswith("voice-engine-media-")
    assert first.bridge.startswith("voice-engine-bridge-")
    assert first.media != second.media
    assert isinstance(first.media, UUID)


def test_a_call_may_leave_while_the_store_is_walked() -> None:
    store = SessionStore()
    for number in range(3):
        store.add(session(f"17.{number}"))
    for call in store:
        store.remove(call)
    assert len(store) == 0
