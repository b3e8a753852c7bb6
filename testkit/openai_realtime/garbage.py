"""Messages that no client should have to read, and every client must survive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from picows import WSMsgType

from testkit.openai_realtime.script import Garbage

if TYPE_CHECKING:
    from testkit.openai_realtime.session import Session

MESSAGES: dict[Garbage, tuple[bytes, ...]] = {
    "invalid_json": (b"", b"{", b'{"type": "response.output_audio.delta", "delta": "', b"\xff\xfe", b"nan"),
    "wrong_types": (
        b"[]",
        b'"error"',
        b"null",
        b"{}",
        b'{"type": 7}',
        b'{"type": "response.output_audio.delta"}',
        b'{"type": "response.output_audio.delta", "item_id": 5, "delta": []}',
        b'{"type": "response.output_audio.delta", "item_id": "x", "delta": "*"}',
        b'{"type": "response.created", "response": "x"}',
        b'{"type": "response.done", "response": {"output": 3}}',
        b'{"type": "conversation.item.added", "item": null}',
        b'{"type": "error", "error": "boom"}',
    ),
    "unknown_events": (b'{"type": "response.telepathy.delta", "delta": "AAAA"}',),
    "binary": (b"\x00\x01\x02\x03",),
    "huge": (b'{"type": "response.output_audio.delta", "delta": "' + bytes(5 * 1024 * 1024) + b'"}',),
}


def send_garbage(session: Session, kinds: Iterable[Garbage]) -> None:
    for kind in kinds:
        frame_type = WSMsgType.BINARY if kind == "binary" else WSMsgType.TEXT
        for message in MESSAGES[kind]:
            session.send_raw(message, frame_type)
