"""Settings of encoded images."""

from __future__ import annotations

import os

from pydantic import Field

from layerserve_server.settings.settings import Settings


class ImageSettings(Settings):
    """The settings of a server with inputs that take encoded images (see `model_settings`)."""

    image_workers: int = Field(
        default=0,
        ge=0,
        le=256,
        description=(
            "Maximum number of processes that decode images, of all workers together. They start when they are "
            "needed. 0 starts up to one per core, at most 8."
        ),
        json_schema_extra={"section": "Images"},
    )
    image_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="Maximum time for decoding an image, in seconds."
    )
    image_max_pixels: int = Field(
        default=50_000_000,
        ge=1,
        le=10**9,
        description="Maximum number of pixels of an image, which is looked at before it is decoded.",
    )

    @property
    def image_processes(self) -> int:
        """Maximum number of processes that decode images, in each process of the server."""
        return max(1, (self.image_workers or min(8, os.cpu_count() or 1)) // self.workers)
