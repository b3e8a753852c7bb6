"""A voice that remembers what it has said: an agent repeats itself, and a remembered clause costs nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing

from audio.formats import ULAW_8K
from providers.local.speech.spoken import speakable
from providers.wyoming import WyomingTextToSpeech

ClauseKey = tuple[str, str]
"""Voice and text."""


class ClauseCache:
    """Sound of clauses, the least recently used forgotten first when ``limit_bytes`` is exceeded."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._sounds: OrderedDict[ClauseKey, bytes] = OrderedDict()
        self.size_bytes = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._sounds)

    def find(self, key: ClauseKey) -> bytes | None:
        sound = self._sounds.get(key)
        if sound is None:
            self.misses += 1
            return None
        self.hits += 1
        self._sounds.move_to_end(key)
        return sound

    def keep(self, key: ClauseKey, sound: bytes) -> None:
        self.size_bytes += len(sound) - len(self._sounds.pop(key, b""))
        self._sounds[key] = sound
        while self.size_bytes > self._limit_bytes:
            _, forgotten = self._sounds.popitem(last=False)
            self.size_bytes -= len(forgotten)


class CachedVoice:
    """A TextToSpeech in front of another: printed text in, and clauses of the cache at once."""

    format = ULAW_8K

    def __init__(self, voice: WyomingTextToSpeech, name: str, cache: ClauseCache) -> None:
        self._voice = voice
        self._name = name
        self._cache = cache

    async def synthesize(self, text: str) -> AsyncGenerator[bytes, None]:
        said = speakable(text)
        if not said:
            return
        sound = self._cache.find((self._name, said))
        if sound is not None:
            yield sound
            return
        made = bytearray()
        async with aclosing(self._voice.synthesize(said)) as chunks:
            async for chunk in chunks:
                made += chunk
                yield chunk
        self._cache.keep((self._name, said), bytes(made))
