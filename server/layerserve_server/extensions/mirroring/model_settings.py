"""Settings of a model for its shadow version and its samples."""

from __future__ import annotations

from pydantic import Field

from layerserve_server.repository.model_settings import Label, ModelSettings, Share, Version


class MirroringModelSettings(ModelSettings):
    """The settings of one model, with those of what is mirrored."""

    shadow: Version | Label | None = Field(
        default=None,
        description=(
            "Version, or label of a version, that computes a share of these requests, too, after they were answered. "
            "Its results are compared and counted, never returned."
        ),
    )
    shadow_share: Share = Field(default="10%", description="Share of requests that the shadow version computes.")
    shadow_rtol: float = Field(
        default=1e-3, ge=0, description="Relative tolerance for its results, as in numpy.allclose."
    )
    shadow_atol: float = Field(
        default=1e-5, ge=0, description="Absolute tolerance for its results, as in numpy.allclose."
    )
    sample_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Share of requests whose rows and answers are kept in files. Default: that of `sample_models`.",
    )
