"""What the extension adds: decoders of inputs, with their settings and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerserve_server.extensions.extension import Extension, Part, Process
from layerserve_server.extensions.images.settings import ImageSettings

if TYPE_CHECKING:
    from layerserve_server.observability.families import Families
    from layerserve_server.repository.model_settings import ModelSettings


def _model_settings() -> type[ModelSettings]:
    from layerserve_server.extensions.images.model_settings import ImageModelSettings

    return ImageModelSettings


def _metrics(families: Families) -> None:
    from layerserve_server.extensions.images.metrics import ImageMetrics

    ImageMetrics(families)


def _serving(process: Process) -> Part:
    from layerserve_server.extensions.images.image_input import ImageInputs
    from layerserve_server.extensions.images.metrics import ImageMetrics
    from layerserve_server.extensions.images.pool import ImagePool

    settings = ImageSettings.of(process.settings)
    pool = ImagePool(
        process.jobs,
        ImageMetrics(process.metrics.families).count,
        workers=settings.image_processes,
        seconds=settings.image_seconds,
        max_pixels=settings.image_max_pixels,
    )
    inputs = ImageInputs(pool, max_pixels=settings.image_max_pixels, max_bytes=settings.max_message_bytes)
    process.make_decoders.append(inputs.decoders)
    return Part(close=pool.close)


IMAGES = Extension(
    name="images",
    settings=ImageSettings,
    model_settings=_model_settings,
    job_modules=["layerserve_server.extensions.images.worker"],
    metrics=_metrics,
    serving=_serving,
)
