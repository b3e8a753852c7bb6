"""What an operator may set about the local agent."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LocalAgentConfig(BaseModel):
    """The section ``providers.local`` of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    faq_file: Path = Field(
        default=Path("faq.yaml"),
        description="What the agent knows and answers; a relative path is seen from the configuration file.",
    )
    voice: Literal["slt", "rms", "awb", "kal"] = Field(
        default="slt", description="Which of flite's voices speaks: slt, rms, awb or kal."
    )
    workers: int = Field(
        default=2,
        ge=0,
        le=64,
        description="Processes that recognise and make speech; each serves about four calls on one core. 0: by "
        "the number of cores.",
    )
    min_silence_ms: int = Field(
        default=300,
        ge=100,
        le=900,
        description="Milliseconds of silence that end a turn whose words sound complete.",
    )
