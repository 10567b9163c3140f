"""An ONNX file in ONNX Runtime or OpenVINO, for peers that don't read Keras files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model import THREADS, Model, Tensor

#: Types in ONNX Runtime's words.
DTYPES = {"tensor(float)": "float32", "tensor(int32)": "int32"}


def in_onnxruntime(path: str, threads: int = THREADS) -> Model:
    """The file in ONNX Runtime, with so many threads for a call."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def tensors(entries: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple(Tensor(entry.name, DTYPES[entry.type], row(entry.shape)) for entry in entries)

    inputs, outputs = tensors(session.get_inputs()), tensors(session.get_outputs())
    names = [tensor.name for tensor in outputs]

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(arrays)), strict=True))

    return Model(inputs, outputs, run)


def in_openvino(path: str, threads: int = THREADS) -> Model:
    """The file in OpenVINO, with so many threads for a call.

    Each of the caller's threads has a request of its own, since one can't be shared.
    """
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": THREADS,
        "NUM_STREAMS": THREADS // threads,
        # As the others: some processors would compute in bfloat16.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    compiled = openvino.Core().compile_model(path, "CPU", options)

    def tensors(entries: Sequence[Any]) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(
                entry.any_name,
                entry.element_type.to_dtype().name,
                row([axis.get_length() if axis.is_static else None for axis in entry.partial_shape]),
            )
            for entry in entries
        )

    inputs, outputs = tensors(compiled.inputs), tensors(compiled.outputs)
    requests = threading.local()

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        if not hasattr(requests, "own"):
            requests.own = compiled.create_infer_request()
        results = requests.own.infer(dict(arrays))
        return {tensor.name: results[index] for index, tensor in enumerate(outputs)}

    return Model(inputs, outputs, run)


def row(shape: Sequence[int | str | None]) -> tuple[int, ...]:
    """The shape without its first axis. An open axis has a name or None there."""
    return tuple(length if isinstance(length, int) else -1 for length in shape[1:])


#: With one thread a call, a lone caller waits longer, and several are answered at the same time.
ENGINES: dict[str, Callable[[str], Model]] = {
    "onnxruntime": in_onnxruntime,
    "onnxruntime-1thread": lambda path: in_onnxruntime(path, 1),
    "openvino": in_openvino,
    "openvino-1thread": lambda path: in_openvino(path, 1),
}
