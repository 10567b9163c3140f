"""Settings of the extension."""

from __future__ import annotations

from pydantic import Field

from layerserve_server.settings.settings import Settings


class TensorFlowServingSettings(Settings):
    """The settings of a server for TensorFlow Serving's clients."""

    tensorflow_serving_metrics: bool = Field(
        default=False,
        description=(
            "Also give metrics under the names that TensorFlow Serving has for them (:tensorflow:serving:*), at "
            "/monitoring/prometheus/metrics."
        ),
        json_schema_extra={"section": "TensorFlow Serving"},
    )
