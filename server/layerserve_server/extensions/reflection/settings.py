"""Settings of reflection."""

from __future__ import annotations

from pydantic import Field

from layerserve_server.settings.settings import Settings


class ReflectionSettings(Settings):
    """The settings of a server that tools may ask for its services."""

    reflection: bool = Field(
        default=True,
        description="Enable gRPC server reflection, which grpcurl uses.",
        json_schema_extra={"section": "Reflection"},
    )
