"""A recorded graph on another device than the one it was recorded on."""

from __future__ import annotations

import warnings
from typing import Any

import torch


def moved(graph: Any, device: torch.device) -> Any:
    """A frozen copy of a `torch.jit.ScriptModule` that computes on `device`: what it takes and gives lies there.

    Recording has written down the device of every weight, and of what layers make on the way.
    """
    with warnings.catch_warnings():
        # torch calls TorchScript old.
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(graph.eval())
    _move(frozen.graph, frozen.graph, device)
    # Types hold devices as well.
    torch._C._jit_pass_erase_shape_information(frozen.graph)
    return frozen


def weight_bytes(graph: Any) -> int:
    """Bytes of all tensors that the graph holds."""
    return sum(
        tensor.nbytes for constant in _constants(graph.graph) for tensor in _tensors(constant.output().toIValue())
    )


def _move(graph: Any, block: Any, device: torch.device) -> None:
    for constant in list(_constants(block)):
        value = constant.output().toIValue()
        if not isinstance(value, torch.device) and not _tensors(value):
            continue
        with graph.insert_point_guard(constant):
            constant.output().replaceAllUsesWith(graph.insertConstant(_on(value, device)))
        constant.destroy()


def _constants(block: Any) -> Any:
    for node in block.nodes():
        if node.kind() == "prim::Constant":
            yield node
        for inner in node.blocks():
            yield from _constants(inner)


def _tensors(value: Any) -> list[torch.Tensor]:
    """The tensors of a constant, which may be a list of them.

    Single numbers aren't counted: torch takes them from the processor's memory for work on any device, and those that
    lengths are computed with have to be there.
    """
    several = value if isinstance(value, (list, tuple)) else (value,)
    return [one for one in several if isinstance(one, torch.Tensor) and one.ndim]


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.device):
        return device
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return type(value)(one.to(device) for one in value)
