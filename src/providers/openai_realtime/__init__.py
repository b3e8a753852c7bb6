"""OpenAI Realtime: speech in, speech out, over one WebSocket (GA schema)."""

from providers.openai_realtime.config import OpenAIRealtimeConfig, TurnDetection
from providers.openai_realtime.provider import OpenAIRealtimeFactory, OpenAIRealtimeProvider

__all__ = ["OpenAIRealtimeConfig", "OpenAIRealtimeFactory", "OpenAIRealtimeProvider", "TurnDetection"]
