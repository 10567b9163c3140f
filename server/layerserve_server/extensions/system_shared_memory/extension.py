"""What the extension adds: three methods and their paths, and what answers requests with tensors in shared memory."""

from __future__ import annotations

from layerserve_server.access.rights import of_services
from layerserve_server.extensions.extension import Core, Extension, Part, Paths, Process
from layerserve_server.extensions.system_shared_memory.settings import SharedMemorySettings

METHOD = "SystemSharedMemory"
#: A caller registers regions for its own requests.
RIGHTS = of_services(
    {"inference.GRPCInferenceService": {"predict": f"{METHOD}Status {METHOD}Register {METHOD}Unregister"}}
)


def _serving(process: Process) -> Part:
    from layerserve_server.services.prediction.request_taker import ForwardedRequests

    if process.forward is not None and SharedMemorySettings.of(process.settings).system_shared_memory != "off":
        process.predictor.placed = ForwardedRequests(process.forward)
    return Part()


def _main(core: Core) -> Part:
    from layerserve_server.extensions.system_shared_memory.placed import PlacedRequests
    from layerserve_server.extensions.system_shared_memory.region_table import RegionTable
    from layerserve_server.extensions.system_shared_memory.rest import routes
    from layerserve_server.extensions.system_shared_memory.service import SharedMemoryService

    settings = SharedMemorySettings.of(core.settings)
    mode = settings.system_shared_memory
    regions = RegionTable()
    if mode != "off":
        core.predictor.placed = PlacedRequests(
            core.predictor, regions, settings.max_message_bytes, writes=mode == "write"
        )
        core.open_inference.extensions.append("system_shared_memory")
    return Part(
        services=[SharedMemoryService(regions, enabled=mode != "off")],
        http=lambda _: Paths(routes=routes()),
    )


SYSTEM_SHARED_MEMORY = Extension(
    name="system_shared_memory",
    settings=SharedMemorySettings,
    rights=RIGHTS,
    serving=_serving,
    main=_main,
)
