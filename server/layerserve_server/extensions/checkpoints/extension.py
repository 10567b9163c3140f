"""What the extension adds: the service of checkpoints."""

from __future__ import annotations

from layerserve_server.extensions.extension import Core, Extension, Part


def _main(core: Core) -> Part:
    from layerserve_server.extensions.checkpoints.models import CheckpointModels
    from layerserve_server.extensions.checkpoints.service import CheckpointService

    return Part(services=[CheckpointService(core.repository, core.runs, CheckpointModels(core.converter))])


CHECKPOINTS = Extension(name="checkpoints", main=_main)
