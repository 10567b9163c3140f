"""What the extension adds: two paths of HTTP."""

from __future__ import annotations

from layerserve_server.extensions.cloud_paths.settings import CloudPathSettings
from layerserve_server.extensions.extension import Core, Extension, Part, Process


def _serving(process: Process) -> Part:
    from layerserve_server.extensions.cloud_paths.paths import predict_paths

    return Part(http=lambda web: predict_paths(process, web))


def _main(core: Core) -> Part:
    from layerserve_server.extensions.cloud_paths.paths import health_paths

    return Part(http=lambda _: health_paths(core))


CLOUD_PATHS = Extension(name="cloud_paths", settings=CloudPathSettings, serving=_serving, main=_main)
