"""Settings of a model for its sequences."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from layerserve_server.repository.model_settings import ModelSettings


class OwnSequences(BaseModel):
    """Whether and how a model keeps states between requests."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enabled: bool = True
    idle_seconds: float | None = Field(default=None, gt=0, le=604800)
    max_sequences: int | None = Field(default=None, ge=1, le=10**7)


class SequenceModelSettings(ModelSettings):
    """The settings of one model, with those of its sequences."""

    sequences: OwnSequences | None = Field(
        default=None,
        description=(
            "Keep the states of recurrent layers between the requests of a sequence: a table with `enabled` (true), "
            "`idle_seconds` and `max_sequences`, whose defaults are the server's settings. Default: only if a layer of "
            "the file is stateful."
        ),
    )

    @property
    def of_loading(self) -> tuple[Any, ...]:
        """Those of the core, and whether there are sequences."""
        return (*super().of_loading, self.sequences)
