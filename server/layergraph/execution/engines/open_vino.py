"""OpenVINO, which imports the graph with its own TorchScript frontend."""

from __future__ import annotations

import importlib
import io
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from layergraph.execution.engines.engine import Array, Engine, UnfitError
from layergraph.execution.engines.signal_stack import kept_signal_stack

if TYPE_CHECKING:
    from layergraph.execution.engines.exported_graph import ExportedGraph

_WIDE = ("int64", "uint32", "uint64")
_LIMITS = np.iinfo(np.int32)


def open_vino(source: ExportedGraph, precision: str = "f32") -> Engine:
    """A compiled model on the CPU, computing in `precision` (f32, bf16, f16) if the CPU supports it.

    Raises UnfitError if OpenVINO isn't installed, or if the graph computes remainders of floats.
    """
    openvino = _package()
    if source.has_remainders:
        raise UnfitError("the model computes remainders of floats, which OpenVINO rounds")
    # By default, every length is dynamic, which rules out optimisations that need constant lengths.
    shapes = [
        openvino.PartialShape([-1 if axis in opened else size for axis, size in enumerate(sample.shape)])
        for sample, opened in zip(source.samples, source.open_axes, strict=True)
    ]
    model = openvino.convert_model(source.graph, example_input=source.samples, input=shapes)
    # OpenVINO's integers have 32 bits; of wider ones it keeps the lower half.
    wide = [i for i, sample in enumerate(source.samples) if str(sample.dtype).removeprefix("torch.") in _WIDE]
    settings = _settings(precision, source.threads, source.streams)
    return _compiled(model, settings, wide, [*range(len(source.samples))])


def open_vino_of_onnx(model: bytes, names: Sequence[str], dtypes: Sequence[str], threads: int, streams: int) -> Engine:
    """A compiled model in ONNX format; its inputs have some of `names`, and the arrays of a call are in their order.

    Raises UnfitError if OpenVINO isn't installed.
    """
    openvino = _package()
    read = openvino.Core().read_model(model)
    places = [names.index(entry.any_name) for entry in read.inputs]
    wide = [i for i in places if dtypes[i] in _WIDE]
    return _compiled(read, _settings("f32", threads, streams), wide, places)


def open_vino_of_blob(blob: bytes, dtypes: Sequence[str], threads: int, streams: int) -> Engine:
    """A compiled model that `CompiledModel.blob` has returned, for arrays of these dtypes.

    Raises UnfitError if OpenVINO isn't installed, and OpenVINO's errors for another version's blob.
    """
    with kept_signal_stack():
        compiled = _package().Core().import_model(blob, "CPU", _settings("f32", threads, streams))
    return CompiledModel(compiled, [i for i, dtype in enumerate(dtypes) if dtype in _WIDE], [*range(len(dtypes))])


def _package() -> Any:
    # OpenVINO reports each conversion to a web service from a fork of this process. The fork inherits the server's
    # locks and may hang for ever if other threads hold them. Without this package, OpenVINO uses a stub.
    if sys.modules.get("openvino_telemetry") is None:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    else:
        _silence_telemetry()
    try:
        import openvino
    except ImportError as missing:
        raise UnfitError("the package 'openvino' isn't installed") from missing
    return openvino


def _silence_telemetry() -> None:
    """Keeps OpenVINO, which was imported before, from sending its reports."""
    with suppress(ImportError, AttributeError):
        sender = importlib.import_module("openvino_telemetry.utils.sender")
        sender.TelemetrySender.send = lambda *arguments, **keywords: None


def _settings(precision: str, threads: int, streams: int) -> dict[str, str]:
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = str(threads * streams)
        # With one stream, calls wait for one another, however many threads make them.
        settings["NUM_STREAMS"] = str(streams)
    return settings


def _compiled(model: Any, settings: dict[str, str], wide: Sequence[int], places: Sequence[int]) -> Engine:
    with kept_signal_stack():
        compiled = _package().compile_model(model, "CPU", settings)
    return CompiledModel(compiled, wide, places)


class CompiledModel:
    """A compiled model as an engine."""

    def __init__(self, compiled: Any, wide: Sequence[int], places: Sequence[int]) -> None:
        """`wide` are positions of inputs with integers of 64 bits, `places` the position of each input of the model."""
        self._compiled = compiled
        self._wide = wide
        self._places = places
        self._count = len(compiled.outputs)
        # An infer request holds the values of one call, so each thread has its own.
        self._own = threading.local()

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """See Engine. Raises UnfitError for integers that need more than 32 bits."""
        try:
            request = self._own.request
        except AttributeError:
            request = self._own.request = self._compiled.create_infer_request()
        for i in self._wide:
            if arrays[i].size and not _LIMITS.min <= arrays[i].min() <= arrays[i].max() <= _LIMITS.max:
                raise UnfitError("OpenVINO's integers have 32 bits")
        results = request.infer([arrays[i] for i in self._places], share_inputs=True)
        return [np.asarray(results[i]) for i in range(self._count)]

    def blob(self) -> bytes:
        """The compiled model, for `open_vino_of_blob`."""
        file = io.BytesIO()
        self._compiled.export_model(file)
        return file.getvalue()
