"""TorchScript graphs as ONNX models, by torch's exporter."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from layergraph.execution.engines.onnx.operations import OPERATIONS

#: ONNX operator sets. LayerNormalization and Gelu need 17 and 20, and torch's exporter supports up to 20.
LOWEST_OPSET, HIGHEST_OPSET = 17, 20
#: Serialises exports: the exporter's settings are global.
_exporting = threading.Lock()


def to_onnx(
    function: Any,
    samples: Sequence[torch.Tensor],
    names: Sequence[str],
    open_axes: Sequence[Mapping[int, str]],
    *,
    outputs: Sequence[str] | None = None,
    opset: int = HIGHEST_OPSET,
) -> bytes:
    """The graph in ONNX format. `open_axes` are the names of each input's axes whose length may change."""
    file = io.BytesIO()
    with _exporting, torch.no_grad(), warnings.catch_warnings(), _quiet(), _own_writing(opset):
        # Only the TorchScript-based exporter keeps recurrent layers whole; torch warns that it is deprecated.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            function,
            tuple(samples),
            file,  # type: ignore[arg-type]  # the old exporter's signature
            dynamo=False,
            input_names=names,
            output_names=outputs,
            opset_version=opset,
            dynamic_axes={name: dict(axes) for name, axes in zip(names, open_axes, strict=True)},
        )
    return file.getvalue()


@contextmanager
def _own_writing(opset: int) -> Iterator[None]:
    """Registers our exports of some operations with torch's exporter."""
    for name, write in OPERATIONS.items():
        register_custom_op_symbolic(name, write, opset)
    try:
        yield
    finally:
        for name in OPERATIONS:
            unregister_custom_op_symbolic(name, opset)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch from printing graphs that it can't export. It prints to the C-level stdout, past Python's."""
    log = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = log
