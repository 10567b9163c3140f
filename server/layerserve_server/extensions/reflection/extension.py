"""What the extension adds: the service of reflection, in its two versions."""

from __future__ import annotations

from layerserve_server.access.rights import of_services
from layerserve_server.extensions.extension import Core, Extension, Part
from layerserve_server.extensions.reflection.settings import ReflectionSettings


def _main(core: Core) -> Part:
    if not ReflectionSettings.of(core.settings).reflection:
        return Part()
    from layerserve_server.extensions.reflection.service import Reflection

    return Part(services=[Reflection(core.services)])


REFLECTION = Extension(
    name="reflection",
    settings=ReflectionSettings,
    rights=of_services(
        {
            "grpc.reflection.v1.ServerReflection": {"read": "ServerReflectionInfo"},
            "grpc.reflection.v1alpha.ServerReflection": {"read": "ServerReflectionInfo"},
        }
    ),
    main=_main,
)
