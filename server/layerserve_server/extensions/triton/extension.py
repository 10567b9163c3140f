"""What the extension adds: methods and their paths, requests with tensors in shared memory, words and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from layerserve_server.access.rights import of_services
from layerserve_server.extensions.extension import Core, Extension, Part, Paths, Process
from layerserve_server.extensions.triton.settings import TritonSettings
from layerserve_server.extensions.triton.words import in_tritons_words

if TYPE_CHECKING:
    from layerserve_server.transport.probes import MetricPage

SERVICE = "inference.GRPCInferenceService"
RIGHTS = of_services(
    {
        SERVICE: {
            "any": "ModelConfig",
            # A caller registers regions for its own requests.
            "predict": "SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister",
            "read": "ModelStatistics RepositoryIndex",
            "manage": (
                "RepositoryModelLoad RepositoryModelUnload TraceSetting LogSettings "
                "CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister"
            ),
        }
    }
)
#: Names of extensions of the protocol.
EXTENSIONS = ("model_configuration", "model_repository", "statistics")


def _serving(process: Process) -> Part:
    from layerserve_server.services.prediction.request_taker import ForwardedRequests

    if process.forward is not None and TritonSettings.of(process.settings).system_shared_memory != "off":
        process.predictor.placed = ForwardedRequests(process.forward)
    return Part()


def _main(core: Core) -> Part:
    from layerserve_server.extensions.triton.rest import routes
    from layerserve_server.extensions.triton.service import TritonService
    from layerserve_server.extensions.triton.shared_memory.placed import PlacedRequests
    from layerserve_server.extensions.triton.shared_memory.region_table import RegionTable
    from layerserve_server.extensions.triton.shared_memory.service import SharedMemoryService

    settings = TritonSettings.of(core.settings)
    mode = settings.system_shared_memory
    regions = RegionTable()
    core.open_inference.extensions.extend(EXTENSIONS)
    if mode != "off":
        core.predictor.placed = PlacedRequests(
            core.predictor, regions, settings.max_message_bytes, writes=mode == "write"
        )
        core.open_inference.extensions.append("system_shared_memory")
    return Part(
        services=[
            TritonService(core.repository, core.manager, core.registry, core.open_inference),
            SharedMemoryService(regions, enabled=mode != "off"),
        ],
        http=lambda _: Paths(routes=routes()),
        metric_pages=_metrics(core) if settings.triton_metrics else {},
    )


def _metrics(core: Core) -> Mapping[str, MetricPage]:
    from layerserve_server.extensions.triton.metrics import triton
    from layerserve_server.observability.collectors import Extended
    from layerserve_server.transport.probes import MetricPage

    return {"/metrics": MetricPage(Extended(core.registry, triton))}


TRITON = Extension(
    name="triton",
    settings=TritonSettings,
    rights=RIGHTS,
    words={SERVICE: in_tritons_words},
    serving=_serving,
    main=_main,
)
