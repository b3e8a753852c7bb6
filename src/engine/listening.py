"""Hears the caller's turns for a provider that leaves that to the call."""

from __future__ import annotations
