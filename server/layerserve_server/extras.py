"""Packages that settings need and that may be missing, found without importing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    for name, modules in _needed(settings):
        if missing := [_PACKAGES.get(module, module) for module in modules if find_spec(module) is None]:
            install = " ".join(_VERSIONS.get(package, package) for package in missing)
            lines.append(f"{spellings(name)}: requires {' and '.join(missing)}: pip install {install}")
    return lines


def _needed(settings: Settings) -> Iterator[tuple[str, Sequence[str]]]:
    """Yields the settings that need packages, each with their modules."""
    if settings.http_port >= 0:
        yield "http_port", ("uvicorn", "httptools", "starlette", "orjson")
    if settings.ui:
        yield "ui", ("jinja2", "PIL")
    if settings.transport == "native":
        yield "transport", ("pygrpc_native",)
    if settings.engine == "onnxruntime":
        yield "engine", ("onnxruntime", "onnx")
    if settings.engine == "openvino":
        yield "engine", ("openvino", "onnx")
    if settings.training_backend == "kubernetes":
        yield "training_backend", ("lightkube",)
    for kind in sorted({sink.partition(":")[0] for sink in settings.sinks}):
        yield "run_sinks", (kind,)
