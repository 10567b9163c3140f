"""ONNX Runtime, with the graph converted by torch's exporter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layergraph.execution.engines.engine import Array, Engine, UnfitError

if TYPE_CHECKING:
    from layergraph.execution.engines.exported_graph import ExportedGraph


def onnx_runtime(source: ExportedGraph) -> Engine:
    """A session on the CPU. Raises UnfitError without ONNX Runtime, or for 16 bits or remainders of floats."""
    if source.has_halves:
        # Few CPU kernels of ONNX Runtime support 16 bits, and it crashes for some layers (LSTM).
        raise UnfitError("the model computes in 16 bits, which ONNX Runtime's CPU kernels don't support")
    if source.has_remainders:
        raise UnfitError("the model computes remainders of floats, which ONNX Runtime rounds")
    return session(exported(source), len(source.samples), source.threads, shared=source.shared)


def session(model: bytes, input_count: int, threads: int, *, shared: bool) -> Engine:
    """A session for a model in ONNX format, made of a graph with `input_count` inputs (see ExportedGraph).

    Raises UnfitError if ONNX Runtime isn't installed.
    """
    try:
        import onnxruntime
    except ImportError as missing:
        raise UnfitError("the package 'onnxruntime' isn't installed") from missing
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if shared:
        # By default, threads spin for more than 20 ms after a call, and keep a core from the thread reading requests.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # Inputs that no output depends on aren't part of the exported graph.
    names = [entry.name for entry in opened.get_inputs()]
    places = [input_names(input_count).index(name) for name in names]
    outputs = [entry.name for entry in opened.get_outputs()]

    # InferenceSession.run first checks for missing inputs, which takes a seventh of a small model's time. A plan has
    # checked that already.
    call = opened._sess.run
    named = list(zip(names, places, strict=True))
    only = names[0] if len(names) == 1 == input_count else None

    def run(arrays: Sequence[Array]) -> list[Array]:
        feed = {only: arrays[0]} if only is not None else {name: arrays[i] for name, i in named}
        results: list[Array] = call(outputs, feed, None)
        return results

    return run


def exported(source: ExportedGraph) -> bytes:
    """The graph in ONNX format, exported once. Raises CannotTraceError."""
    if source.onnx is None:
        # Imported here, since a server that opens files doesn't need torch's exporter.
        from layergraph.execution.engines.onnx.export import to_onnx

        source.onnx = to_onnx(source.function, source.samples, input_names(len(source.samples)), source.open_axes)
    return source.onnx


def input_names(count: int) -> list[str]:
    """Names of the inputs of an exported graph with `count` inputs."""
    return [f"input_{i}" for i in range(count)]
