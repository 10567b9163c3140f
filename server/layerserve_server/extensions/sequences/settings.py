"""Settings of sequences."""

from __future__ import annotations

from pydantic import Field

from layerserve_server.settings.settings import Settings


class SequenceSettings(Settings):
    """The settings of a server that keeps states between requests (see `model_settings`)."""

    max_sequences: int = Field(
        default=4096,
        ge=1,
        le=10**7,
        description="Maximum number of sequences under way; further ones are refused.",
        json_schema_extra={"section": "Sequences"},
    )
    max_caller_sequences: int = Field(
        default=1024,
        ge=1,
        le=10**7,
        description=(
            "Maximum number of sequences under way of a caller: of a name, or without one of an address. A caller may "
            "have the same share of max_sequence_bytes."
        ),
    )
    max_sequence_bytes: int = Field(
        default=256 << 20, ge=1, le=1 << 50, description="Maximum memory of the states of all sequences, in bytes."
    )
    sequence_idle_seconds: float = Field(
        default=60.0,
        gt=0,
        le=604800,
        description="Time without a request after which a sequence is dropped, in seconds.",
    )
