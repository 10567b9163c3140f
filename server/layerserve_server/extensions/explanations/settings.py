"""Settings of explanations."""

from __future__ import annotations

from pydantic import Field

from layerserve_server.settings.settings import Settings


class ExplanationSettings(Settings):
    """The settings of a server that explains outputs."""

    explain_seconds: float = Field(
        default=120.0,
        gt=0,
        le=86400,
        description="Maximum processor time of an explanation, in seconds.",
        json_schema_extra={"section": "Explanations"},
    )
