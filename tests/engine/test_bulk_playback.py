"""Playback over a peer that paces, against a model of Asterisk's queue."""

from __future__ import annotations

import itertools

import pytest
from engine.peer_queue import Clock, PeerQueue, PeerTime
