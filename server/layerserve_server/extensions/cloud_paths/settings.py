"""Settings of the extension."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from layerserve_server.settings.settings import Settings


def _check_path(path: str) -> str:
    if path and (not path.startswith("/") or any(one in path for one in "{}?#") or not path.isprintable()):
        raise ValueError("a path that begins with '/', such as /invocations")
    return path


class CloudPathSettings(Settings):
    """The settings of a server in a container of a cloud."""

    health_path: Annotated[str, AfterValidator(_check_path)] = Field(
        default="",
        max_length=200,
        description=(
            "Path of HTTP that tells whether the server is ready: /ping for SageMaker, AIP_HEALTH_ROUTE for Vertex AI."
        ),
        json_schema_extra={"section": "Clouds", "unset": "none"},
    )
    predict_path: Annotated[str, AfterValidator(_check_path)] = Field(
        default="",
        max_length=200,
        description=(
            "Path of HTTP that predicts, with bodies of the Open Inference Protocol: /invocations for SageMaker, "
            "AIP_PREDICT_ROUTE for Vertex AI."
        ),
        json_schema_extra={"unset": "none"},
    )
    predict_model: str = Field(
        default="",
        max_length=200,
        description="Name of the model that answers predict_path.",
        json_schema_extra={"unset": "the only one"},
    )
