"""OpenVINO, which imports the graph with its own TorchScript frontend."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import numpy as np
import torch

from layergraph.execution.engines.exported_graph import Array, Engine, ExportedGraph, UnfitError
from layergraph.execution.engines.signal_stack import kept_signal_stack

_WIDE = (torch.int64, torch.uint32, torch.uint64)
_LIMITS = np.iinfo(np.int32)


def open_vino(source: ExportedGraph, precision: str = "f32") -> Engine:
    """A compiled model on the CPU, computing in `precision` (f32, bf16, f16) if the CPU supports it.

    Raises UnfitError if OpenVINO isn't installed, or if the graph computes remainders of floats.
    """
    # OpenVINO reports each conversion to a web service from a fork of this process. The fork inherits the server's
    # locks and may hang for ever if other threads hold them. Without this package, OpenVINO uses a stub.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as missing:
        raise UnfitError("the package 'openvino' isn't installed") from missing
    if source.has_remainders:
        raise UnfitError("the model computes remainders of floats, which OpenVINO rounds")
    # By default, every length is dynamic, which rules out optimisations that need constant lengths.
    shapes = [
        openvino.PartialShape([-1 if axis in opened else size for axis, size in enumerate(sample.shape)])
        for sample, opened in zip(source.samples, source.open_axes, strict=True)
    ]
    model = openvino.convert_model(source.graph, example_input=source.samples, input=shapes)
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if source.threads:
        settings["INFERENCE_NUM_THREADS"] = str(source.threads)
    with kept_signal_stack():
        compiled = openvino.compile_model(model, "CPU", settings)
    count = len(compiled.outputs)
    # OpenVINO's integers have 32 bits; of wider ones it keeps the lower half.
    wide = [i for i, sample in enumerate(source.samples) if sample.dtype in _WIDE]
    # An infer request holds the values of one call, so each thread has its own.
    own = threading.local()

    def run(arrays: Sequence[Array]) -> list[Array]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        for i in wide:
            if arrays[i].size and not _LIMITS.min <= arrays[i].min() <= arrays[i].max() <= _LIMITS.max:
                raise UnfitError("OpenVINO's integers have 32 bits")
        results = own.request.infer(list(arrays), share_inputs=True)
        return [np.asarray(results[i]) for i in range(count)]

    return run
