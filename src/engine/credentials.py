"""What must never be written down: who the engine is to others, from the environment alone."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from engine.config_file import read_text

VARIABLES: Mapping[str, str] = {
    "ari_username": "ASTERISK_ARI_USERNAME",
    "ari_password": "ASTERISK_ARI_PASSWORD",
    "media_username": "ASTERISK_MEDIA_USERNAME",
    "media_password": "ASTERISK_MEDIA_PASSWORD",
    "openai_api_key": "OPENAI_API_KEY",
    "deepgram_api_key": "DEEPGRAM_API_KEY",
}
"""The environment variable of each field of Credentials."""

NEEDED_BY_ENGINE = ("ari_username", "ari_password")
NEEDED_BY_PROVIDER: Mapping[str, str] = {"openai_realtime": "openai_api_key", "deepgram": "deepgram_api_key"}


class Credentials(BaseModel):
    """What must never be written down; it comes from the environment only. None: not set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ari_username: SecretStr | None = Field(default=None, description="Who the engine is to Asterisk's ARI (ari.conf).")
    ari_password: SecretStr | None = Field(default=None, description="The password of that user.")
    media_username: SecretStr | None = Field(default=None, description="Who Asterisk is to us (websocket_client.conf).")
    media_password: SecretStr | None = Field(default=None, description="The password of that user.")
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
            for secret in (self.ari_password, self.media_password, self.openai_api_key, self.deepgram_api_key)
            if secret is not None
        ]
        for user, password in ((self.ari_username, self.ari_password), (self.media_username, self.media_password)):
            if user and password:
                pair = f"{user.get_secret_value()}:{password.get_secret_value()}"
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


def missing_credentials(provider: str, credentials: Credentials) -> list[str]:
    """What the engine cannot run without when ``provider`` is the default, a line each."""
    missing = [
        f"{VARIABLES[name]} is not set: the engine cannot reach Asterisk without it"
        for name in NEEDED_BY_ENGINE
        if not credentials.has(name)
    ]
    needed = missing_for_provider(provider, credentials)
    return [*missing, needed] if needed else missing
