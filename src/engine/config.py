"""What an operator can set, and what it is when the file does not say."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from engine.config_file import ConfigError, KeyPath, nearest, parse, read_text, validate
from providers.local.config import LocalAgentConfig
from providers.openai_realtime.config import OpenAIRealtimeConfig

__all__ = [
    "PROVIDERS",
    "Config",
    "ConfigError",
    "Credentials",
    "load_config",
    "missing_credentials",
    "missing_for_provider",
    "parse_config",
    "read_environment",
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


class AudioSocketConfig(Section):
    host: Host = Field(default="127.0.0.1", description="The address on which the engine waits for calls' sound.")
    port: Port = Field(default=9092, description="Its TCP port; 0 takes any free one.")
    advertise_host: Host | None = Field(
        default=None, description="The engine's address as Asterisk sees it; nothing: the same as host."
    )

    @model_validator(mode="after")
    def _asterisk_knows_where_to_connect(self) -> Self:
        if self.host in ANY_ADDRESS and self.advertise_host is None:
            raise ValueError(f"with host {self.host}, advertise_host must say where Asterisk finds the engine")
        return self


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
    audio_transport: Literal["audiosocket"] = Field(
        default="audiosocket", description="How sound travels between Asterisk and the engine."
    )
    asterisk: AsteriskConfig = Field(default_factory=AsteriskConfig, description="Where Asterisk is.")
    audiosocket: AudioSocketConfig = Field(default_factory=AudioSocketConfig, description="Where sound arrives.")
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


VARIABLES: Mapping[str, str] = {
    "ari_username": "ASTERISK_ARI_USERNAME",
    "ari_password": "ASTERISK_ARI_PASSWORD",
    "openai_api_key": "OPENAI_API_KEY",
    "deepgram_api_key": "DEEPGRAM_API_KEY",
}
"""The environment variable of each field of Credentials."""

NEEDED_BY_ENGINE = ("ari_username", "ari_password")
NEEDED_BY_PROVIDER: Mapping[str, str] = {"openai_realtime": "openai_api_key", "deepgram": "deepgram_api_key"}


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


class Credentials(BaseModel):
    """What must never be written down; it comes from the environment only. None: not set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ari_username: SecretStr | None = Field(default=None, description="Who the engine is to Asterisk's ARI (ari.conf).")
    ari_password: SecretStr | None = Field(default=None, description="The password of that user.")
    openai_api_key: SecretStr | None = Field(default=None, description="For the provider openai_realtime.")
    deepgram_api_key: SecretStr | None = Field(default=None, description="For Deepgram's services.")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """A variable that is empty or blank counts as not set."""
        given = {name: environment.get(variable, "").strip() for name, variable in VARIABLES.items()}
        return cls.model_validate({name: value for name, value in given.items() if value})

    def has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def revealed(self) -> tuple[str, ...]:
        """What must not appear in any output, in the forms in which it travels. The user's name may."""
        secrets = [
            secret.get_secret_value()
            for secret in (self.ari_password, self.openai_api_key, self.deepgram_api_key)
            if secret is not None
        ]
        if self.ari_username and self.ari_password:
            pair = f"{self.ari_username.get_secret_value()}:{self.ari_password.get_secret_value()}"
            secrets.append(base64.b64encode(pair.encode()).decode())
        return (*secrets, *(quote(secret, safe="") for secret in secrets))


def read_environment(env_file: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``env_file``, if there is one, under those of the environment, which win unless empty.

    Raises ConfigError when the file is there and cannot be read.
    """
    if not env_file.exists():
        return dict(environ)
    values = dotenv_values(stream=io.StringIO(read_text(env_file)), interpolate=False)
    written = {name: value for name, value in values.items() if value is not None}
    return written | {name: value for name, value in environ.items() if value or name not in written}


def missing_for_provider(provider: str, credentials: Credentials) -> str | None:
    """Says which variable ``provider`` cannot work without, if that is not set."""
    name = NEEDED_BY_PROVIDER.get(provider)
    if name is None or credentials.has(name):
        return None
    return f"{VARIABLES[name]} is not set: {provider} cannot work without it"


def missing_credentials(config: Config, credentials: Credentials) -> list[str]:
    """What the engine cannot run without, a line each; the file is valid all the same."""
    missing = [
        f"{VARIABLES[name]} is not set: the engine cannot reach Asterisk without it"
        for name in NEEDED_BY_ENGINE
        if not credentials.has(name)
    ]
    provider = missing_for_provider(config.default_provider, credentials)
    return [*missing, provider] if provider else missing
