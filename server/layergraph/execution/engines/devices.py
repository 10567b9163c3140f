"""Moves a traced graph to another device."""

from __future__ import annotations

import warnings
from typing import Any

import torch


def moved(graph: Any, device: torch.device) -> Any:
    """Returns a frozen copy of a `torch.jit.ScriptModule` that computes on `device`, with inputs and outputs there.

    Traces contain the device of each weight and of each tensor that layers create, so those are replaced.
    """
    with warnings.catch_warnings():
        # torch warns that TorchScript is deprecated.
        warnings.simplefilter("ignore")
        frozen = torch.jit.freeze(graph.eval())
    _move(frozen.graph, frozen.graph, device)
    # Types contain devices, too.
    torch._C._jit_pass_erase_shape_information(frozen.graph)
    return frozen


def weight_bytes(graph: Any) -> int:
    """Total bytes of the tensors among the graph's constants."""
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

    Scalars are left out: torch accepts CPU scalars in operations on any device, and those that lengths are computed
    with must stay on the CPU.
    """
    several = value if isinstance(value, (list, tuple)) else (value,)
    return [one for one in several if isinstance(one, torch.Tensor) and one.ndim]


def _on(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.device):
        return device
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return type(value)(one.to(device) for one in value)
