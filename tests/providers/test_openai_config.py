"""The configuration of the OpenAI Realtime provider."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from providers.openai_realtime import OpenAIRealtimeConfig, TurnDetection


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("wss://api.openai.com/v1/realtime", "wss://api.openai.com/v1/realtime?model=m%2F1"),
        ("https://gateway.example/openai/", "wss://gateway.example/openai?model=m%2F1"),
        ("http://127.0.0.1:9100/v1/realtime", "ws://127.0.0.1:9100/v1/realtime?model=m%2F1"),
        (" ws://localhost:1 ", "ws://localhost:1?model=m%2F1"),
    ],
)
def test_the_address_of_a_session(base_url: str, url: str) -> None:
    config = OpenAIRealtimeConfig(base_url=base_url, model="m/1")
    assert config.url == url
    assert config.uses_tls is url.startswith("wss")


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.openai.com",
        "ftp://host",
        "wss://",
        "wss://user:secret@host",
        "wss://host?x=1",
        "ws://host:99999",
    ],
)
def test_what_is_no_address(base_url: str) -> None:
    with pytest.raises(ValidationError, match="base_url"):
        OpenAIRealtimeConfig(base_url=base_url)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modell": "x"},
        {"model": " "},
        {"turn_detection": {"type": "server_vat"}},
        {"turn_detection": {"silence_ms": 5}},
        {"commit_threshold_ms": 99},
        {"connect_timeout_s": 5},
    ],
)
def test_what_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OpenAIRealtimeConfig.model_validate(wrong)


@pytest.mark.parametrize("model", [OpenAIRealtimeConfig, TurnDetection])
def test_every_key_is_explained(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())
