"""What the extension adds: two gRPC services, their REST form, and a page of metrics."""

from __future__ import annotations

from layerserve_server.access.rights import of_services
from layerserve_server.extensions.extension import Core, Extension, Part, Paths, Process, Web
from layerserve_server.extensions.tensorflow_serving.settings import TensorFlowServingSettings
from layerserve_server.extensions.tensorflow_serving.words import in_tensorflow_servings_words

#: TensorFlow Serving's path of metrics.
METRICS_PATH = "/monitoring/prometheus/metrics"
#: Methods by service and right.
RIGHTS = of_services(
    {
        "tensorflow.serving.PredictionService": {
            "any": "GetModelMetadata",
            "predict": "Predict Classify Regress MultiInference",
        },
        "tensorflow.serving.ModelService": {"any": "GetModelStatus", "manage": "HandleReloadConfigRequest"},
    }
)


def _serving(process: Process) -> Part:
    from layerserve_server.extensions.tensorflow_serving.predict import PredictService

    def http(web: Web) -> Paths:
        # Imported here, since packages of HTTP may be missing.
        from layerserve_server.extensions.tensorflow_serving import rest

        return Paths(routes=rest.predict_routes(process.repository, web.reader))

    return Part(services=[PredictService(process.predictor)], http=http)


def _main(core: Core) -> Part:
    from layerserve_server.extensions.tensorflow_serving import metrics_page, openapi, rest
    from layerserve_server.extensions.tensorflow_serving.configuration import Configuration
    from layerserve_server.extensions.tensorflow_serving.metadata import MetadataService
    from layerserve_server.extensions.tensorflow_serving.metrics import page
    from layerserve_server.extensions.tensorflow_serving.model_service import TensorFlowModelService

    settings = TensorFlowServingSettings.of(core.settings)
    configuration = Configuration(core.repository, core.manager, str(settings.path))
    metrics = page(core.registry) if settings.tensorflow_serving_metrics else None

    def http(_: Web) -> Paths:
        more = metrics_page.paths(METRICS_PATH, metrics)
        return Paths(routes=[*rest.routes(), *more.routes], plain=more.plain)

    return Part(
        services=[MetadataService(core.repository), TensorFlowModelService(core.repository, configuration)],
        http=http,
        openapi=openapi.describe,
        metric_pages={} if metrics is None else {METRICS_PATH: metrics},
    )


TENSORFLOW_SERVING = Extension(
    name="tensorflow_serving",
    settings=TensorFlowServingSettings,
    rights={**RIGHTS, METRICS_PATH: "read"},
    words={"tensorflow.serving.PredictionService": in_tensorflow_servings_words},
    job_modules=["layerserve_server.extensions.tensorflow_serving.rest_body"],
    serving=_serving,
    main=_main,
)
