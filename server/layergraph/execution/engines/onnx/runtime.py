"""ONNX Runtime, from the graph by torch's exporter."""

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

#: Operator set of ONNX; LayerNormalization and Gelu come with 17 and 20, and torch's exporter writes up to 20.
_OPSET = 20
#: One at a time: the exporter's settings are the process's.
_exporting = threading.Lock()


def onnx_runtime(source: ExportedGraph) -> Engine:
    """A session on the processor. Raises UnfitError where ONNX Runtime isn't installed, for 16 bits, or remainders."""
    if source.has_halves:
        # Hardly any of its kernels for processors have them, and for some layers (LSTM) it ends the process.
        raise UnfitError("it computes in 16 bits, which ONNX Runtime's kernels for processors don't")
    if source.has_remainders:
        raise UnfitError("it computes remainders of floats, which ONNX Runtime rounds")
    return session(source, exported(source))


def session(source: ExportedGraph, model: bytes) -> Engine:
    """A session with the model, which is in ONNX's format. Raises UnfitError where ONNX Runtime isn't installed."""
    try:
        import onnxruntime
    except ImportError as missing:
        raise UnfitError("the package 'onnxruntime' isn't installed") from missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = source.threads
    options.log_severity_level = 4
    if source.shared:
        # By themselves they wait busily for more than 20 ms after a call, and keep a core from whoever reads requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # An input that no output needs is none of the exported graph.
    names = [entry.name for entry in opened.get_inputs()]
    places = [_names(source).index(name) for name in names]
    outputs = [entry.name for entry in opened.get_outputs()]

    # What its `run` does before it calls this costs a small model a seventh of its time: it looks for inputs that are
    # missing, and a plan has them all.
    call = opened._sess.run
    named = list(zip(names, places, strict=True))
    only = names[0] if len(names) == 1 == len(source.samples) else None

    def run(arrays: Sequence[Array]) -> list[Array]:
        feed = {only: arrays[0]} if only is not None else {name: arrays[i] for name, i in named}
        results: list[Array] = call(outputs, feed, None)
        return results

    return run


def exported(source: ExportedGraph) -> bytes:
    """The graph in ONNX's format."""
    names = _names(source)
    file = io.BytesIO()
    with _exporting, torch.no_grad(), warnings.catch_warnings(), _quiet(), _own_writing():
        # The exporter that reads TorchScript is the one that keeps recurrent layers whole; torch calls it old.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            source.function,
            source.samples,
            file,  # type: ignore[arg-type]  # as the old exporter takes it
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
    """Lets torch's exporter write these operations in our way."""
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
    """Keeps torch from printing a graph that it can't export, which it does on standard output, past Python's."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
