"""Packages that settings need and that only an extra installs, found without importing them."""

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


def missing_extras(settings: Settings) -> list[str]:
    """Returns an error line per setting that needs a package which isn't installed."""
    lines = []
    if settings.address and (missing_store := missing_package(settings.address)):
        lines.append(missing_store)
    for name, extra, modules in _needed(settings):
        if missing := [_PACKAGES.get(module, module) for module in modules if find_spec(module) is None]:
            plural = "s" * (len(missing) > 1)
            lines.append(
                f"{spellings(name)}: needs the package{plural} {', '.join(missing)}: pip install 'layerserve[{extra}]'"
            )
    return lines


def _needed(settings: Settings) -> Iterator[tuple[str, str, Sequence[str]]]:
    """Yields the settings that need an extra, each with the extra and its modules."""
    if settings.http_port >= 0:
        yield "http_port", "http", ("uvicorn", "httptools", "starlette", "orjson")
    if settings.ui:
        yield "ui", "ui", ("jinja2", "PIL")
    if settings.transport == "native":
        yield "transport", "fast", ("pygrpc_native",)
    if settings.engine == "onnxruntime":
        yield "engine", "fast", ("onnxruntime", "onnx")
    if settings.engine == "openvino":
        yield "engine", "openvino", ("openvino", "onnx")
    if settings.training_backend == "kubernetes":
        yield "training_backend", "kubernetes", ("lightkube",)
    for kind in sorted({sink.partition(":")[0] for sink in settings.sinks}):
        yield "run_sinks", kind, (kind,)
