"""The protocols of the core, on the same seam as the extensions: layerserve's own, and the Open Inference Protocol."""

from __future__ import annotations

from layerserve_server.extensions.extension import Core, Extension, Part, Paths, Process
from layerserve_server.services.datasets import DatasetService
from layerserve_server.services.graph import GraphService
from layerserve_server.services.management import ManagementService
from layerserve_server.services.models import ModelService
from layerserve_server.services.open_inference.inference import InferService
from layerserve_server.services.open_inference.rights import RIGHTS
from layerserve_server.services.open_inference.service import OpenInferenceService
from layerserve_server.services.prediction.service import PredictionService
from layerserve_server.services.rest import infer_body, infer_schemas, open_inference
from layerserve_server.services.run_series import RunSeries
from layerserve_server.services.server import ServerService
from layerserve_server.services.training import TrainingService


def _predictions(process: Process) -> Part:
    return Part(services=[PredictionService(process.predictor)])


def _own(core: Core) -> Part:
    settings, repository, runs = core.settings, core.repository, core.runs
    datasets, work, defaults = core.datasets, core.work, core.defaults
    trains = settings.training_slots > 0
    return Part(
        services=[
            GraphService(repository),
            ServerService(settings, repository, core.release, core.state),
            ModelService(repository, core.converter, core.registry),
            ManagementService(core.manager, core.uploads),
            TrainingService(repository, runs, work, defaults, datasets),
            DatasetService(datasets, work.using, training=trains),
            RunSeries(runs),
        ]
    )


def _infer(process: Process) -> Part:
    return Part(
        services=[InferService(process.predictor)],
        http=lambda web: Paths(routes=open_inference.infer_routes(process.predictor, web.reader)),
    )


def _open_inference(core: Core) -> Part:
    service = OpenInferenceService(
        core.repository,
        core.settings.server_name,
        core.release,
        core.ready,
        core.open_inference,
    )
    return Part(
        services=[service],
        http=lambda _: Paths(routes=open_inference.routes(service.check_known)),
        openapi=infer_schemas.describe,
    )


LAYERSERVE_V1 = Extension(name="layerserve_v1", serving=_predictions, main=_own)
OPEN_INFERENCE = Extension(
    name="open_inference",
    rights=RIGHTS,
    job_modules=[infer_body.__name__],
    serving=_infer,
    main=_open_inference,
)
#: All of them.
CORE_PROTOCOLS = (LAYERSERVE_V1, OPEN_INFERENCE)
