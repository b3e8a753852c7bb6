"""A test double of the OpenAI Realtime API (GA schema), in process or as a program of its own."""

from testkit.openai_realtime.double import OpenAIRealtimeDouble
from testkit.openai_realtime.script import FunctionCall, Reply, Script
from testkit.openai_realtime.session import Session

__all__ = ["FunctionCall", "OpenAIRealtimeDouble", "Reply", "Script", "Session"]
