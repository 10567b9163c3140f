"""What the extension adds: two paths of HTTP."""

from __future__ import annotations

from layerserve_server.extensions.cloud_paths.settings import CloudPathSettings
from layerserve_server.extensions.extension import Core, Extension, Part


def _main(core: Core) -> Part:
    from layerserve_server.extensions.cloud_paths.paths import paths

    return Part(http=lambda web: paths(core, web))


CLOUD_PATHS = Extension(name="cloud_paths", settings=CloudPathSettings, main=_main)
