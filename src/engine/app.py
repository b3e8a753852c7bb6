"""The composition root: the one place where concrete classes are named and put together."""

from __future__ import annotations

import asyncio
import gc
import signal
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
import uvloop

from audio import resample
from engine import logs
from engine.call import CallServices
from engine.catalogue import ProviderCatalogue
from engine.clips import load_clips
from engine.config import Config, ConfigError, load_config
from engine.conversation import ConversationServices, ConversationSettings
from engine.coordinator import ConversationRules
from engine.credentials import Credentials, missing_for_provider
from engine.cushion import Cushioning
from engine.metrics import EngineMetrics, LiveCollector, LoopLagProbe
from engine.metronome import Metronome
from engine.playback_files import PlaybackFiles
from engine.sessions import SessionStore
from engine.switchboard import Admission, Switchboard
from engine.web import Json, ReloadRefusedError, WebHooks, WebServer
from engine.wires import Wires
from providers.base import ProviderError
from providers.local.factory import LocalAgentFactory
from providers.openai_realtime import OpenAIRealtimeFactory
from transport.ari import AriClient, AriState, Snapshot
from transport.audiosocket import AudioSocketTransport
from transport.media import MediaTransport
from transport.rtp import RtpTransport
from transport.websocket_client import WebSocketClientTransport
from transport.websocket_server import WebSocketServerTransport

log = structlog.get_logger(__name__)

RESTART_ONLY = (
    "asterisk",
    "audio_transport",
    "audio_format",
    "audiosocket",
    "externalmedia",
    "websocket",
    "playback_dir",
    "http",
    "providers",
)
"""Sections that a reload does not apply: what they describe lives as long as the process."""


class StartupError(Exception):
    """The engine cannot start; the text is for the operator."""


def run(config: Config, credentials: Credentials, config_path: Path) -> None:
    """Answers calls until SIGTERM or SIGINT. Raises StartupError."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Engine(config, credentials, config_path).serve())


class Engine:
    """Everything that one process is made of."""

    def __init__(self, config: Config, credentials: Credentials, config_path: Path) -> None:
        self._config = config
        self._credentials = credentials
        self._config_path = config_path
        self._started_at = time.monotonic()
        self._stopping = asyncio.Event()
        self._store = SessionStore()
        self._metrics = EngineMetrics()
        self._metronome = Metronome()
        self._lag = LoopLagProbe(self._metrics.loop_delay.observe)
        try:
            self._wires = Wires(_transports(config, credentials), config.audio_transport, config.audio_format)
            self._files = PlaybackFiles(config.playback_dir, prefix=config.asterisk.app_name)
        except (ValueError, OSError) as error:
            raise StartupError(str(error)) from error
        self._ari = AriClient(
            config.asterisk.host,
            config.asterisk.port,
            config.asterisk.app_name,
            _secret(credentials.ari_username),
            _secret(credentials.ari_password),
        )
        self._catalogue = ProviderCatalogue(
            (
                OpenAIRealtimeFactory(config.providers.openai_realtime, credentials.openai_api_key),
                LocalAgentFactory(config.providers.local),
            )
        )
        conversation = ConversationServices(
            catalogue=self._catalogue,
            metronome=self._metronome,
            metrics=self._metrics,
            clips=load_clips,
        )
        self._switchboard = Switchboard(
            self._store,
            self._ari,
            CallServices(self._ari, self._wires, self._files, conversation),
            self._metrics,
            app_name=config.asterisk.app_name,
            admission=lambda: Admission(_settings(self._config), self._config.limits.max_calls),
        )
        self._ari.on_event = self._switchboard.on_event
        self._ari.on_connected = self._take_stock
        self._metrics.registry.register(
            LiveCollector(
                self._store,
                self._metrics,
                self._metronome.stats,
                self._lag,
                self._counters,
            )
        )
        self._web = WebServer(
            config.http.host,
            config.http.port,
            WebHooks(self._health, self._readiness, self._metrics.render, self._reload),
        )

    async def serve(self) -> None:
        """Starts everything, waits to be stopped, lets the calls end and takes everything down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            await self._start()
            await self._run_until_stopped()
        finally:
            await self._wires.close()
            await self._catalogue.close()
            await self._web.close()
            await self._ari.close()
            log.info("engine_stopped")

    async def _start(self) -> None:
        try:
            await self._wires.start()
            await self._web.start()
        except OSError as error:
            raise StartupError(f"cannot listen: {error.strerror or error}") from error
        try:
            self._files.prepare()
        except OSError as error:
            raise StartupError(f"playback_dir {self._config.playback_dir}: {error.strerror or error}") from error
        try:
            await self._catalogue.started(self._config.default_provider)
        except ProviderError as error:
            raise StartupError(f"{self._config.default_provider} cannot start: {error}") from error
        # Now rather than in the middle of calls, when the first wideband one comes.
        resample.load()
        # What lives for ever need not be looked at by every garbage collection in the middle of calls.
        gc.collect()
        gc.freeze()
        log.info(
            "engine_started",
            version=version("voice-engine"),
            provider=self._config.default_provider,
            transport=self._config.audio_transport,
            http="{}:{}".format(*self._web.address),
        )

    async def _run_until_stopped(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            background = [
                tasks.create_task(self._ari.run()),
                tasks.create_task(self._switchboard.reap()),
                tasks.create_task(self._lag.run()),
            ]
            await self._stopping.wait()
            await self._switchboard.drain(self._config.limits.drain_s)
            for task in background:
                task.cancel()

    def _take_stock(self, snapshot: Snapshot) -> None:
        self._wires.asterisk_is(snapshot.asterisk_version, snapshot.modules)
        self._switchboard.settle(snapshot)

    def _on_signal(self) -> None:
        """The first signal lets calls go on for a while; the second ends them at once."""
        if self._stopping.is_set():
            log.warning("stopping_at_once")
            self._switchboard.end_all()
        self._stopping.set()

    def _counters(self) -> dict[str, int]:
        """What ARI and each wire as a whole count, under exported names."""
        wires = {f"{wire.name}_{name}": count for wire in self._wires for name, count in wire.counters.items()}
        return {"ari_reconnects": self._ari.reconnects, **wires}

    # What the pages show and do ----------------------------------------------------------------------------

    def _readiness(self) -> tuple[bool, str]:
        """Whether a call that comes now would be answered, and if not, why."""
        provider = self._catalogue.status(self._config.default_provider)
        if not self._switchboard.accepting:
            return False, "stopping"
        if self._ari.state is not AriState.CONNECTED:
            return False, f"Asterisk: {self._ari.state}: {self._ari.last_error}"
        if self._wires.fault:
            return False, self._wires.fault
        if not provider.ready:
            return False, f"{self._config.default_provider}: {provider.detail}"
        return True, ""

    def _health(self) -> Json:
        ready, detail = self._readiness()
        provider = self._catalogue.status(self._config.default_provider)
        calls = [session.call for session in self._store]
        return {
            "status": "ok" if ready else "degraded",
            "detail": detail,
            "version": version("voice-engine"),
            "uptime_s": round(time.monotonic() - self._started_at, 1),
            "active_calls": len(calls),
            "default_provider": self._config.default_provider,
            "provider": {
                "name": self._config.default_provider,
                "ready": provider.ready,
                "detail": provider.detail,
                **provider.facts,
            },
            "ari": {
                "state": self._ari.state,
                "detail": self._ari.last_error or "",
                "reconnects": self._ari.reconnects,
                "app": self._config.asterisk.app_name,
            },
            "audio_transport": self._config.audio_transport,
            "conversation": {
                "gating_active": sum(call.gating for call in calls),
                "turns": dict(Counter(call.turn for call in calls)),
                "playback": dict(Counter(call.playback_state for call in calls)),
                "states": dict(Counter(call.state for call in calls)),
            },
            "event_loop_lag_ms": round(1000 * self._lag.worst_s, 1),
        }

    async def _reload(self) -> Json:
        """Takes the file as it is now for the calls to come. Raises ReloadRefusedError; the old one stays."""
        try:
            fresh = await asyncio.to_thread(load_config, self._config_path)
        except ConfigError as error:
            raise ReloadRefusedError("; ".join(error.problems)) from error
        missing = missing_for_provider(fresh.default_provider, self._credentials)
        if missing is not None:
            raise ReloadRefusedError(missing)
        try:
            await self._catalogue.started(fresh.default_provider)
        except ProviderError as error:
            raise ReloadRefusedError(f"{fresh.default_provider} cannot start: {error}") from error
        waiting = [name for name in RESTART_ONLY if getattr(fresh, name) != getattr(self._config, name)]
        kept = {name: getattr(self._config, name) for name in RESTART_ONLY}
        self._config = fresh.model_copy(update=kept)
        logs.set_level(fresh.logging.level)
        log.info("configuration_reloaded", provider=fresh.default_provider, needs_restart=waiting)
        return {"reloaded": True, "default_provider": fresh.default_provider, "needs_restart": waiting}


def _settings(config: Config) -> ConversationSettings:
    """What the next call is given."""
    talk, barge_in, streaming = config.conversation, config.barge_in, config.streaming
    return ConversationSettings(
        provider=config.default_provider,
        greeting=config.llm.initial_greeting,
        prompt=config.llm.prompt,
        as_files=config.downstream_mode == "file",
        rules=ConversationRules(
            barge_in=barge_in.enabled,
            post_tts_end_protection_ms=barge_in.post_tts_end_protection_ms,
            fallback_timeout_ms=streaming.fallback_timeout_ms,
            stall_timeout_s=config.limits.provider_timeout_s,
            no_input_timeout_s=talk.no_input_timeout_s,
            max_check_ins=talk.max_check_ins,
            check_in=talk.check_in,
            goodbye=talk.goodbye,
            max_call_s=talk.max_call_s,
        ),
        cushioning=Cushioning(
            min_start_ms=streaming.min_start_ms,
            low_watermark_ms=streaming.low_watermark_ms,
            jitter_buffer_ms=streaming.jitter_buffer_ms,
            provider_grace_ms=streaming.provider_grace_ms,
        ),
        provider_start_timeout_s=config.limits.provider_timeout_s,
        messages_dir=config.messages_dir,
    )


def _transports(config: Config, credentials: Credentials) -> Iterator[MediaTransport]:
    """Every kind of wire; a new one is a line here. Raises ValueError or OSError for settings that cannot be used."""
    audiosocket, rtp = config.audiosocket, config.externalmedia
    yield AudioSocketTransport(audiosocket.host, audiosocket.port, advertise_host=audiosocket.advertise_host)
    yield RtpTransport(
        rtp.host,
        rtp.port_range,
        advertise_host=rtp.advertise_host,
        asterisk_host=config.asterisk.host,
        allowed_hosts=rtp.allowed_hosts,
    )
    yield _websocket_transport(config, credentials)


def _websocket_transport(config: Config, credentials: Credentials) -> MediaTransport:
    settings = config.websocket
    if settings.connected_by == "engine":
        trusted = None if settings.ca_file is None else ssl.create_default_context(cafile=settings.ca_file)
        nearby = f"ws://{_in_url(config.asterisk.host)}:{config.asterisk.port}"
        return WebSocketClientTransport(settings.asterisk_url or nearby, tls=trusted)
    tls = None
    if settings.certificate_file is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(settings.certificate_file)
    return WebSocketServerTransport(
        settings.client,
        settings.host,
        settings.port,
        username=_secret(credentials.media_username),
        password=_secret(credentials.media_password),
        tls=tls,
    )


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _secret(value: Any) -> str:
    return "" if value is None else str(value.get_secret_value())
