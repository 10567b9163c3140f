"""Packages that settings need and that may be missing, found without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from layerserve_server.addresses import missing_package
from layerserve_server.settings import Settings, spellings

#: Packages of modules with another name.
_PACKAGES = {
    "PIL": "Pillow",
    "jinja2": "Jinja2",
    "pygrpc_native": "pygrpc-native",
    "mlflow": "mlflow-skinny",
}
#: Requirement to install for a package, where that isn't its name.
_VERSIONS = {"pygrpc-native": "'pygrpc-native>=0.5,<0.6'"}


def missing_extras(settings: Settings) -> list[str]:
    """Returns an error line per setting that needs a package which isn't installed."""
    lines = []
    if settings.address and (missing_store := missing_package(settings.address)):
        lines.append(missing_store)
    for name, modules in settings.needed_modules():
        if missing := [_PACKAGES.get(module, module) for module in modules if find_spec(module) is None]:
            install = " ".join(_VERSIONS.get(package, package) for package in missing)
            lines.append(f"{spellings(name)}: requires {' and '.join(missing)}: pip install {install}")
    return lines
