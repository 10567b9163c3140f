"""Settings of a model for its inputs that take encoded images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from layerserve.images.options import ImageOptions, Interpolation, Loader
from pydantic import BaseModel, ConfigDict, Field, model_validator

from layerserve_server.repository.model_settings import ModelSettings

Length = Annotated[int, Field(ge=1, le=65535)]


class InputSettings(BaseModel):
    """How the elements of an input become its rows (see `ImageOptions`)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    decode: Literal["image"]
    loader: Loader = "load_img"
    interpolation: Interpolation | None = None
    crop_to_aspect_ratio: bool = False
    size: Annotated[tuple[Length, Length], Field(strict=False)] | None = None
    range: Annotated[tuple[float, float], Field(strict=False)] = (0.0, 255.0)
    preprocess_input: str | None = None

    @model_validator(mode="after")
    def _fit_together(self) -> InputSettings:
        self.options()
        return self

    def options(self, **limits: int) -> ImageOptions:
        """Returns the options of the decoder. Raises ValueError if they don't fit together."""
        given: dict[str, Any] = {**self.model_dump(exclude={"decode"}), **limits}
        return ImageOptions(**given)


class ImageModelSettings(ModelSettings):
    """The settings of one model, with those of its inputs that take encoded images."""

    inputs: dict[str, InputSettings] = Field(
        default={},
        description=(
            'Inputs that take encoded images, by name: tables with `decode = "image"`, and how the images become '
            "arrays: `loader`, `interpolation`, `crop_to_aspect_ratio`, `size`, `range` or `preprocess_input`."
        ),
    )

    @property
    def of_loading(self) -> tuple[Any, ...]:
        """Those of the core, and the inputs."""
        return (*super().of_loading, self.inputs)
