"""What an operator can set, and what it is when the file does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from engine.config_file import ConfigError, KeyPath, nearest, parse, read_text, validate
from engine.credentials import VARIABLES
from providers.local.config import LocalAgentConfig
from providers.openai_realtime.config import OpenAIRealtimeConfig

__all__ = [
    "PROVIDERS",
    "Config",
    "ConfigError",
    "load_config",
    "parse_config",
    "unknown_provider",
]

SHIPPED_CONFIG = Path("config")
"""Where the files of the project lie, from its own folder."""
ANY_ADDRESS = ("0.0.0.0", "::")

Host = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
Milliseconds = Annotated[int, Field(ge=0, le=60_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("host", "advertise_host", check_fields=False)
    @classmethod
    def _is_bare_host(cls, host: str | None) -> str | None:
        if host is not None and ("/" in host or any(char.isspace() for char in host)):
            raise ValueError(f"expected a host name or an address alone, without http:// or a path, got {host!r}")
        return host


class AsteriskConfig(Section):
    host: Host = Field(default="127.0.0.1", description="Where Asterisk's HTTP server (ARI) listens.")
    port: Port = Field(default=8088, description="Its port: bindport in http.conf.")
    app_name: str = Field(
        default="voice-engine",
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="The Stasis application's name: the dialplan says Stasis(voice-engine).",
    )


class AdvertisedSection(Section):
    """A place where Asterisk finds the engine."""

    host: Host = "127.0.0.1"
    advertise_host: Host | None = Field(
        default=None, description="The engine's address as Asterisk sees it; nothing: the same as host."
    )

    @model_validator(mode="after")
    def _asterisk_knows_where_to_find_us(self) -> Self:
        if self.host in ANY_ADDRESS and self.advertise_host is None:
            raise ValueError(f"with host {self.host}, advertise_host must say where Asterisk finds the engine")
        return self


class AudioSocketConfig(AdvertisedSection):
    host: Host = Field(default="127.0.0.1", description="The address on which the engine waits for calls' sound.")
    port: Port = Field(default=9092, description="Its TCP port; 0 takes any free one.")


class ExternalMediaConfig(AdvertisedSection):
    host: Host = Field(default="127.0.0.1", description="The engine's address for sound over RTP.")
    ports: str = Field(
        default="21000-24999",
        pattern=r"^\d{1,5}-\d{1,5}$",
        description="Its UDP ports, first and last; one for each call.",
    )
    allowed_hosts: tuple[Host, ...] = Field(
        default=(), description="Addresses from which sound may come besides the one that Asterisk names."
    )

    @property
    def port_range(self) -> range:
        first, last = map(int, self.ports.split("-"))
        return range(first, last + 1)

    @field_validator("ports")
    @classmethod
    def _is_a_range(cls, ports: str) -> str:
        first, last = map(int, ports.split("-"))
        if not 1 <= first <= last <= 65535:
            raise ValueError(f"expected the first and the last port, as 21000-24999, got {ports!r}")
        return ports


class WebSocketConfig(Section):
    connected_by: Literal["engine", "asterisk"] = Field(
        default="engine", description="Who opens the connection for each call's sound."
    )
    asterisk_url: str | None = Field(
        default=None,
        pattern=r"^wss?://[^/\s@]+$",
        description="engine: Asterisk's HTTP server, as wss://pbx.example:8089; nothing: asterisk's, without TLS.",
    )
    ca_file: Path | None = Field(
        default=None, description="engine: the certificate that proves who Asterisk is; nothing: the system's."
    )
    client: str = Field(
        default="voice-engine",
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="asterisk: the section of websocket_client.conf that leads to the engine.",
    )
    host: Host = Field(default="127.0.0.1", description="asterisk: the address on which the engine waits.")
    port: Port = Field(default=9093, description="asterisk: its TCP port; 0 takes any free one.")
    certificate_file: Path | None = Field(
        default=None, description="asterisk: certificate and key of the engine in one PEM file; nothing: no TLS."
    )


class HttpConfig(Section):
    host: Host = Field(default="127.0.0.1", description="The address of /health, /ready, /metrics and /reload.")
    port: Port = Field(default=8080, description="Its TCP port; 0 takes any free one.")


class LlmConfig(Section):
    initial_greeting: str = Field(
        default="Hello, this is the automatic assistant. How can I help you?",
        description="What the agent says first; empty: it waits for the caller.",
    )
    prompt: str = Field(
        default="You are a friendly receptionist on the telephone. Answer in one or two short spoken "
        "sentences, without lists or symbols. Ask back when you are not sure what the caller wants.",
        description="What the agent is told about its task.",
    )


class StreamingConfig(Section):
    min_start_ms: Milliseconds = Field(
        default=60,
        description="Sound collected before a reply that streams slower than it plays begins to play.",
    )
    low_watermark_ms: Milliseconds = Field(
        default=40, description="Sound left at which a slow reply counts as about to run dry."
    )
    jitter_buffer_ms: Milliseconds = Field(
        default=400,
        description="The most that the collected sound may grow to when a reply keeps running dry.",
    )
    provider_grace_ms: Milliseconds = Field(
        default=1500, description="How long a reply that ran dry may take to go on before it counts as ended."
    )
    fallback_timeout_ms: Milliseconds = Field(
        default=2500,
        ge=500,
        description="The longest unplanned silence before the caller hears a filler sentence.",
    )

    @model_validator(mode="after")
    def _marks_fit_the_buffer(self) -> Self:
        for name in ("min_start_ms", "low_watermark_ms"):
            if getattr(self, name) > self.jitter_buffer_ms:
                most = f"jitter_buffer_ms ({self.jitter_buffer_ms})"
                raise ValueError(f"{name} ({getattr(self, name)}) must not be more than {most}")
        return self


class BargeInConfig(Section):
    enabled: bool = Field(default=True, description="Whether a caller who speaks interrupts the agent.")
    post_tts_end_protection_ms: Milliseconds = Field(
        default=250,
        description="How long after the agent's last word its own echo is not taken for the caller.",
    )


class ConversationConfig(Section):
    no_input_timeout_s: Seconds = Field(default=10, description="Silence of the caller before the agent checks in.")
    check_in: str = Field(default="Are you still there?", min_length=1, description="What it says then.")
    max_check_ins: int = Field(default=2, ge=0, le=10, description="Check-ins in a row before the agent hangs up.")
    goodbye: str = Field(
        default="I have to hang up now. Thank you for calling. Goodbye.",
        min_length=1,
        description="What it says before it hangs up.",
    )
    max_call_s: Seconds = Field(default=3600, description="The longest that any call may last.")


class LimitsConfig(Section):
    max_calls: int = Field(default=100, ge=1, le=10_000, description="Calls at once; one more is turned away.")
    drain_s: float = Field(
        default=10,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="How long running calls may go on when stopping.",
    )
    provider_timeout_s: Seconds = Field(
        default=8,
        description="How long a provider may take to be ready, or owe the caller a reply, before the call is given up.",
    )


class LoggingConfig(Section):
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least important kind of line that is written."
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="How lines look; auto: console on a terminal, otherwise JSON."
    )


class ProvidersConfig(Section):
    """Every provider by name; what is not in the file has its defaults."""

    local: LocalAgentConfig = Field(
        default_factory=LocalAgentConfig, description="The agent on this machine, which needs no key."
    )
    openai_realtime: OpenAIRealtimeConfig = Field(
        default_factory=OpenAIRealtimeConfig, description="OpenAI's Realtime API: speech in, speech out."
    )


class Config(Section):
    """The engine's settings. Every key is optional."""

    default_provider: str = Field(
        default="local", description="Who talks to callers, unless AI_PROVIDER says otherwise."
    )
    audio_transport: Literal["audiosocket", "externalmedia", "websocket"] = Field(
        default="audiosocket", description="How sound travels, unless AI_TRANSPORT says otherwise."
    )
    audio_format: Literal["auto", "ulaw", "alaw", "slin", "slin16", "slin24"] = Field(
        default="auto", description="What sound it is; auto: as good as what the caller's phone sends."
    )
    asterisk: AsteriskConfig = Field(default_factory=AsteriskConfig, description="Where Asterisk is.")
    downstream_mode: Literal["stream", "file"] = Field(
        default="stream",
        description="How replies reach the caller: as a stream, or as sound files that Asterisk plays.",
    )
    audiosocket: AudioSocketConfig = Field(default_factory=AudioSocketConfig, description="Where AudioSocket arrives.")
    externalmedia: ExternalMediaConfig = Field(
        default_factory=ExternalMediaConfig, description="Where sound over RTP arrives."
    )
    websocket: WebSocketConfig = Field(default_factory=WebSocketConfig, description="How chan_websocket is connected.")
    http: HttpConfig = Field(default_factory=HttpConfig, description="Where the engine tells how it is.")
    llm: LlmConfig = Field(default_factory=LlmConfig, description="What the agent says and is.")
    streaming: StreamingConfig = Field(default_factory=StreamingConfig, description="How replies are played.")
    barge_in: BargeInConfig = Field(default_factory=BargeInConfig, description="How interruptions are taken.")
    conversation: ConversationConfig = Field(
        default_factory=ConversationConfig, description="What happens when nobody speaks, or for too long."
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="What is too many and too late.")
    messages_dir: Path = Field(
        default=Path("var/messages"),
        description="Where messages for people are stored, one JSON file each; from the working directory.",
    )
    playback_dir: Path = Field(
        default=Path("var/playback"),
        description="Where sound files lie while Asterisk plays them; it must be able to read them there.",
    )
    logging: LoggingConfig = Field(default_factory=LoggingConfig, description="What is written to standard error.")
    providers: ProvidersConfig = Field(default_factory=ProvidersConfig, description="Settings of each provider.")

    @field_validator("default_provider")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in PROVIDERS:
            raise ValueError(unknown_provider(name))
        return name


PROVIDERS = tuple(ProvidersConfig.model_fields)
"""The names that ``default_provider`` and the dialplan's AI_PROVIDER may have."""


def unknown_provider(name: str) -> str:
    near = nearest(name, PROVIDERS)
    hint = f"did you mean {near}?" if near else f"known: {', '.join(PROVIDERS)}"
    return f"{name!r} is not a known provider; {hint}"


def load_config(path: Path) -> Config:
    """Reads the file. Raises ConfigError with a line for each problem."""
    return parse_config(read_text(path), path)


def parse_config(text: str, path: Path) -> Config:
    """Makes a Config of YAML text that is, or is to be, the file at ``path``. Raises ConfigError.

    A relative ``providers.local.faq_file`` is looked for beside the file, then in the working directory's
    ``config``, and comes out as a path from the working directory, from which ``messages_dir``, to which the
    engine writes, is seen anyway.
    """
    config = validate(Config, parse(text, str(path)), _variable_of)
    local = config.providers.local
    beside, shipped = path.parent / local.faq_file, SHIPPED_CONFIG / local.faq_file
    faq_file = shipped if shipped.exists() and not beside.exists() else beside
    local = local.model_copy(update={"faq_file": faq_file})
    return config.model_copy(update={"providers": config.providers.model_copy(update={"local": local})})


def _variable_of(path: KeyPath) -> str:
    """Where the credential belongs that somebody wrote into the file at ``path``."""
    place = ".".join(map(str, path)).lower()
    for word, name in (
        ("deepgram", "deepgram_api_key"),
        ("openai", "openai_api_key"),
        ("user", "ari_username"),
    ):
        if word in place:
            return VARIABLES[name]
    return VARIABLES["ari_password"] if path[0] == "asterisk" or "ari_" in place else "its variable"
