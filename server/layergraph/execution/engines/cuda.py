"""CUDA: the traced graph on every GPU of the machine, as CUDA graphs for a ladder of row counts.

A CUDA graph launches all kernels of a model at once, for tensors of fixed sizes and addresses. There is one for each
power of two of rows, captured on first use; a batch uses the next larger one, padded with copies of its last row.
Inputs and outputs go through pinned memory, so that copies and kernels are queued on a stream without the CPU waiting
in between. Recurrent layers use cuDNN's kernels.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch

from layergraph.execution.engines.devices import moved, weight_bytes
from layergraph.execution.engines.engine import Array, Engine, UnfitError
from layergraph.execution.engines.exported_graph import ExportedGraph

#: Precisions of 16 bits, as dtypes.
SHORT = {"bfloat16": torch.bfloat16, "float16": torch.float16}
#: Concurrent batches per GPU: one copies while the other computes.
LANES = 2
#: Rows of the largest CUDA graph. Larger batches, and those with open lengths, launch their kernels one by one.
LARGEST_GRAPH = 256
#: Required free memory as a multiple of the weights' bytes; the memory of activations isn't known in advance.
_ROOM = 2
#: Runs before a capture, in which libraries choose kernels and allocate memory.
_WARM_UPS = 3


def cuda(source: ExportedGraph, precision: str = "float32") -> Engine:
    """The graph on all GPUs; each batch runs on the next free one.

    precision   "tf32" rounds the operands of matrix products and convolutions to 10 bits of mantissa; "bfloat16" and
                "float16" compute them in these dtypes (autocast). See `tuner.reduce_precision`.

    Raises UnfitError if there is no GPU, if a GPU has too little free memory, or if a 16-bit precision is set for a
    model that computes in 16 bits already.
    """
    if not torch.cuda.is_available():
        raise UnfitError("there is no CUDA device")
    if precision in SHORT and source.has_halves:
        raise UnfitError("the model computes in 16 bits already")
    lanes: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    graphs = {device: _on_device(source, device) for device in devices}
    for _ in range(LANES):
        for device, graph in graphs.items():
            lanes.put(_Lane(graph, source, device, precision))

    def run(arrays: Sequence[Array]) -> list[Array]:
        lane = lanes.get()
        try:
            return lane.run(arrays)
        finally:
            lanes.put(lane)

    return partial(in_halves, run, source.assertion_count) if source.batched else run


def _on_device(source: ExportedGraph, device: torch.device) -> Any:
    needed = _ROOM * weight_bytes(source.graph)
    free, _ = torch.cuda.mem_get_info(device)
    if needed > free:
        raise UnfitError(f"{device} has {free} bytes free, expected {needed}: {_ROOM} times the weights")
    return moved(source.graph, device)


def in_halves(
    run: Callable[[Sequence[Array]], list[Array]], assertion_count: int, arrays: Sequence[Array]
) -> list[Array]:
    """Returns the outputs of `run`; if the GPU has too little memory for the batch, computes it in two halves."""
    try:
        return run(arrays)
    except RuntimeError as wrong:
        # Not always torch's OutOfMemoryError: TorchScript raises other errors in its place.
        if "out of memory" not in str(wrong) or len(arrays[0]) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(arrays[0]) // 2
    first = in_halves(run, assertion_count, [array[:half] for array in arrays])
    second = in_halves(run, assertion_count, [array[half:] for array in arrays])
    pairs = list(zip(first, second, strict=True))
    outputs, assertions = pairs[: len(pairs) - assertion_count], pairs[len(pairs) - assertion_count :]
    return [*(np.concatenate(pair) for pair in outputs), *(np.logical_and(*pair) for pair in assertions)]


def rung_of(rows: int) -> int:
    """Rows of the CUDA graph for a batch of `rows`: the next power of two."""
    return 1 << (rows - 1).bit_length()


class _Lane:
    """A stream of one GPU, and the CUDA graphs that run on it."""

    def __init__(self, graph: Any, source: ExportedGraph, device: torch.device, precision: str) -> None:
        self._compute = partial(computed, graph, precision)
        self._source = source
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._rungs: dict[int, _Rung] = {}
        self._only_rows_differ = source.batched and all(axes.keys() == {0} for axes in source.open_axes)

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        rows = len(arrays[0])
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream), torch.inference_mode():
            if not self._only_rows_differ or rows > LARGEST_GRAPH:
                return self._launched(arrays)
            size = rung_of(rows)
            if size not in self._rungs:
                self._rungs[size] = _Rung(self._compute, self._source, size, self._stream)
            return self._rungs[size].run(arrays, rows)

    def _launched(self, arrays: Sequence[Array]) -> list[Array]:
        inputs = [torch.from_numpy(a).pin_memory().to(self._device, non_blocking=True) for a in arrays]
        return [output.cpu().numpy() for output in self._compute(inputs)]


class _Rung:
    """The CUDA graph for one row count, with the memory that it reads and writes."""

    def __init__(
        self,
        compute: Callable[[Sequence[torch.Tensor]], list[torch.Tensor]],
        source: ExportedGraph,
        rows: int,
        stream: torch.cuda.Stream,
    ) -> None:
        self._stream = stream
        self._assertion_count = source.assertion_count
        shapes = [(rows, *sample.shape[1:]) for sample in source.samples]
        pairs = list(zip(shapes, source.samples, strict=True))
        self._sent = [torch.empty(shape, dtype=sample.dtype, pin_memory=True) for shape, sample in pairs]
        self._inputs = [torch.zeros(shape, dtype=sample.dtype, device=stream.device) for shape, sample in pairs]
        for _ in range(_WARM_UPS):
            compute(self._inputs)
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._outputs = compute(self._inputs)
        self._received = [torch.empty(output.shape, dtype=output.dtype, pin_memory=True) for output in self._outputs]

    def run(self, arrays: Sequence[Array], rows: int) -> list[Array]:
        for array, sent, tensor in zip(arrays, self._sent, self._inputs, strict=True):
            memory = sent.numpy()
            memory[:rows] = array
            # Any other row might violate a runtime assertion, such as an id outside an embedding table.
            memory[rows:] = array[-1]
            tensor.copy_(sent, non_blocking=True)
        self._graph.replay()
        for output, received in zip(self._outputs, self._received, strict=True):
            received.copy_(output, non_blocking=True)
        self._stream.synchronize()
        count = len(self._received) - self._assertion_count
        found = [received.numpy() for received in self._received]
        return [*(array[:rows].copy() for array in found[:count]), *(array.copy() for array in found[count:])]


def computed(graph: Any, precision: str, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs of the graph, computed in a precision; 16-bit outputs are returned as float32."""
    with _in_precision(precision, inputs[0].device.type):
        return [output.float() if output.dtype in SHORT.values() else output for output in graph(*inputs)]


@contextmanager
def _in_precision(precision: str, device: str) -> Iterator[None]:
    """Sets the precision of products; cuDNN picks kernels by benchmark, and torch's own fusion is off."""
    tf32 = precision == "tf32"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=tf32),
            torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
            # autocast's cache of cast weights doesn't outlive the capture of a CUDA graph.
            torch.autocast(device, SHORT.get(precision), enabled=precision in SHORT, cache_enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
