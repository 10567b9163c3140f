"""Settings of the extension."""

from __future__ import annotations

from pydantic import Field

from layerserve_server.settings.settings import Settings


class TritonMetricsSettings(Settings):
    """The settings of a server that may have Triton's metrics."""

    triton_metrics: bool = Field(
        default=False,
        description="Also give metrics under the names that Triton has for them (nv_inference_*), at /metrics.",
        json_schema_extra={"section": "Triton"},
    )
