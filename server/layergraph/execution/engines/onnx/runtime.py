"""ONNX Runtime, with the graph converted by torch's exporter."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from layergraph.execution.engines.exported_graph import Array, Engine, ExportedGraph, UnfitError
from layergraph.execution.engines.onnx.means import mean
from layergraph.execution.engines.onnx.pads import pad

#: ONNX operator set. LayerNormalization and Gelu need 17 and 20, and torch's exporter supports up to 20.
_OPSET = 20
#: Serialises exports: the exporter's settings are global.
_exporting = threading.Lock()


def onnx_runtime(source: ExportedGraph) -> Engine:
    """A session on the CPU. Raises UnfitError without ONNX Runtime, or for 16 bits or remainders of floats."""
    if source.has_halves:
        # Few CPU kernels of ONNX Runtime support 16 bits, and it crashes for some layers (LSTM).
        raise UnfitError("the model computes in 16 bits, which ONNX Runtime's CPU kernels don't support")
    if source.has_remainders:
        raise UnfitError("the model computes remainders of floats, which ONNX Runtime rounds")
    return session(source, exported(source))


def session(source: ExportedGraph, model: bytes) -> Engine:
    """A session for a model in ONNX format. Raises UnfitError if ONNX Runtime isn't installed."""
    try:
        import onnxruntime
    except ImportError as missing:
        raise UnfitError("the package 'onnxruntime' isn't installed") from missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = source.threads
    options.log_severity_level = 4
    if source.shared:
        # By default, threads spin for more than 20 ms after a call, and keep a core from the thread reading requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # Inputs that no output depends on aren't part of the exported graph.
    names = [entry.name for entry in opened.get_inputs()]
    places = [_names(source).index(name) for name in names]
    outputs = [entry.name for entry in opened.get_outputs()]

    # InferenceSession.run first checks for missing inputs, which takes a seventh of a small model's time. A plan has
    # checked that already.
    call = opened._sess.run
    named = list(zip(names, places, strict=True))
    only = names[0] if len(names) == 1 == len(source.samples) else None

    def run(arrays: Sequence[Array]) -> list[Array]:
        feed = {only: arrays[0]} if only is not None else {name: arrays[i] for name, i in named}
        results: list[Array] = call(outputs, feed, None)
        return results

    return run


def exported(source: ExportedGraph) -> bytes:
    """The graph in ONNX format. Raises CannotTraceError."""
    names = _names(source)
    file = io.BytesIO()
    with _exporting, torch.no_grad(), warnings.catch_warnings(), _quiet(), _own_writing():
        # Only the TorchScript-based exporter keeps recurrent layers whole; torch warns that it is deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            source.function,
            source.samples,
            file,  # type: ignore[arg-type]  # the old exporter's signature
            dynamo=False,
            input_names=names,
            opset_version=_OPSET,
            dynamic_axes=dict(zip(names, source.open_axes, strict=True)),
        )
    return file.getvalue()


def _names(source: ExportedGraph) -> list[str]:
    return [f"input_{i}" for i in range(len(source.samples))]


@contextmanager
def _own_writing() -> Iterator[None]:
    """Registers our exports of some operations with torch's exporter."""
    own = {"aten::mean": mean, "aten::pad": pad}
    for name, write in own.items():
        register_custom_op_symbolic(name, write, _OPSET)
    try:
        yield
    finally:
        for name in own:
            unregister_custom_op_symbolic(name, _OPSET)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from printing graphs that it can't export. It prints to the C-level stdout, past Python's."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
