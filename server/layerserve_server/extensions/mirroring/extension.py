"""What the extension adds: observers of requests, with their settings and metrics."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from layerserve_server.extensions.extension import Core, Extension, Part, Process
from layerserve_server.extensions.mirroring.settings import MirroringSettings

if TYPE_CHECKING:
    from layerserve_server.observability.families import Families
    from layerserve_server.repository.model_settings import ModelSettings


def _model_settings() -> type[ModelSettings]:
    from layerserve_server.extensions.mirroring.model_settings import MirroringModelSettings

    return MirroringModelSettings


def _metrics(families: Families) -> None:
    from layerserve_server.extensions.mirroring.metrics import ShadowMetrics

    ShadowMetrics(families)


def _serving(process: Process) -> Part:
    from layerserve_server.extensions.mirroring.metrics import ShadowMetrics
    from layerserve_server.extensions.mirroring.mirror import Mirror
    from layerserve_server.extensions.mirroring.sample_files import SampleFiles
    from layerserve_server.extensions.mirroring.samples import RequestSamples, share_of
    from layerserve_server.extensions.mirroring.shadow import Shadows

    settings, metrics = MirroringSettings.of(process.settings), process.metrics

    def make_files() -> SampleFiles:
        dropped = partial(metrics.telemetry_dropped, "samples")
        return SampleFiles(settings.state_folder / "samples", settings.sample_max_bytes, dropped)

    shadows = Shadows(process.repository, ShadowMetrics(metrics.families))
    samples = RequestSamples(partial(share_of, settings), make_files)
    process.predictor.observers.append(Mirror(process.repository.catalogue, [shadows, samples]))

    def stop() -> None:
        shadows.close()
        samples.close()

    return Part(stop=stop)


def _main(core: Core) -> Part:
    from layerserve_server.extensions.mirroring.service import SampledDatasets

    settings, trains = core.settings, core.settings.training_slots > 0
    folder = settings.state_folder / "samples"
    return Part(services=[SampledDatasets(core.datasets, core.repository, core.jobs, folder, training=trains)])


MIRRORING = Extension(
    name="mirroring",
    settings=MirroringSettings,
    model_settings=_model_settings,
    metrics=_metrics,
    serving=_serving,
    main=_main,
)
