"""Makes the local agent: what its calls share, and one provider for each call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from providers.base import CallContext, ProviderError, ProviderStatus
from providers.local.brain import FaqBrain
from providers.local.config import LocalAgentConfig
from providers.local.faq import Faq, FaqError, load_faq
from providers.local.intents import IntentClassifier
from providers.local.script import HEARD, SENTENCES, can_be_asked
from providers.pipeline.clauses import split_clauses
from providers.pipeline.options import PipelineOptions
from providers.pipeline.provider import PipelineProvider
from providers.pipeline.turn import TurnRules

if TYPE_CHECKING:
    from providers.local.speech.pool import SpeechPool

log = structlog.get_logger(__name__)

"""Where the configuration file is unless somebody says otherwise."""


@dataclass(slots=True, frozen=True)
class _Shared:
    """What all calls of a started agent share."""

    faq: Faq
    classifier: IntentClassifier
    pool: SpeechPool


class LocalAgentFactory:
    """Implements ``ProviderFactory``. Nothing heavy is imported before ``start``."""

    name = "local"

    def __init__(self, config: LocalAgentConfig) -> None:
        self._config = config
        self._options = PipelineOptions(
            turn=TurnRules(
                min_silence_ms=config.min_silence_ms,
            )
        )
        self._shared: _Shared | None = None
        self._detail = "the local agent has not been started"

    async def start(self) -> None:
        """Learns the FAQ and starts the speech processes. Raises ProviderError that says what is missing."""
        if self._shared is not None:
            return
        began_s = time.monotonic()
        try:
            self._shared = await self._start()
        except ProviderError as error:
            self._detail = str(error)
            raise
        took_s = round(time.monotonic() - began_s, 1)
        log.info("local_agent_started", intents=len(self._shared.faq.intents), took_s=took_s)

    async def close(self) -> None:
        shared, self._shared = self._shared, None
        self._detail = "the local agent has been stopped"
        if shared is not None:
            await shared.pool.close()

    def status(self) -> ProviderStatus:
        if self._shared is None:
            return ProviderStatus(ready=False, detail=self._detail)
        speech = self._shared.pool.status()
        facts = {**speech.facts, "intents": len(self._shared.faq.intents)}
        return ProviderStatus(speech.ready, speech.detail, facts)

    def create(self, context: CallContext) -> PipelineProvider:
        if self._shared is None:
            raise ProviderError("unavailable", self._detail)
        shared = self._shared
        return PipelineProvider(
            context,
            stt=shared.pool.recognizer(),
            llm=FaqBrain(shared.faq, shared.classifier, context),
            tts=shared.pool.voice(),
            options=self._options,
        )

    async def _start(self) -> _Shared:
        try:
            from providers.local.speech.pool import SpeechPool

            faq, classifier = await asyncio.to_thread(_learn, self._config.faq_file)
        except ImportError as error:
            missing = error.name or "a package"
            raise ProviderError(
                "unavailable",
                f"the local agent needs {missing}: install it with pip install 'voice-engine[local]'",
            ) from error
        except FaqError as error:
            raise ProviderError("unavailable", str(error)) from error
        pool = SpeechPool((*faq.phrases, *HEARD), voice=self._config.voice, workers=self._config.workers)
        pool.prewarm(_fixed_clauses(faq))
        await pool.start()
        return _Shared(faq, classifier, pool)


def _learn(path: Path) -> tuple[Faq, IntentClassifier]:
    faq = load_faq(path)
    return faq, IntentClassifier({intent.name: intent.examples for intent in faq.intents.values()})


def _fixed_clauses(faq: Faq) -> Iterator[str]:
    """What the agent is sure to say sooner or later, as the voice will be given it."""
    answers = (intent.answer for intent in faq.intents.values())
    for text in (*answers, can_be_asked(faq.topics), *SENTENCES):
        yield from split_clauses(text)
