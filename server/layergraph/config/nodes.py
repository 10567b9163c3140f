"""Calls of layers in the configs of each generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from layergraph.config.spec import NO_MASK, CallSpec, Structure, TensorRef

#: Layers whose further tensors in a list are their states, in Keras 2.
RECURRENT = frozenset(
    {
        "RNN",
        "SimpleRNN",
        "LSTM",
        "GRU",
        "CuDNNLSTM",
        "CuDNNGRU",
        "Bidirectional",
        "ConvLSTM1D",
        "ConvLSTM2D",
        "ConvLSTM3D",
    }
)
_CONSTANT = "_CONSTANT_VALUE"
#: Arguments for which None differs from the default.
_NONE_IS_A_VALUE = frozenset({"window_fn", "mask", "slice_spec"})


class MalformedNodeError(Exception):
    """A node doesn't have a form of this generation."""


def keras3_call(node: Any, read_value: Callable[[Any], Any]) -> CallSpec:
    """Reads a call from {"args": [...], "kwargs": {...}}, in which tensors are marked objects. Raises
    MalformedNodeError.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("args"), list):
        raise MalformedNodeError
    kwargs = node.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise MalformedNodeError
    # Keras 3 always writes `training`, but fit and predict override it.
    read = {name: read_value(value) for name, value in kwargs.items() if value is not None and name != "training"}
    return CallSpec(tuple(read_value(arg) for arg in node["args"]), read)


def keras2_call(node: Any, class_name: str, constants: int, layer_names: Mapping[str, Any]) -> CallSpec:
    """Reads a call from [["x", 0, 0, {kwargs}], ...], in which tensors in kwargs are ["x", 0, 0]. Raises
    MalformedNodeError.

    `constants` is the number of tensors that a recurrent layer takes after its states.
    """
    found: dict[str, Any] = {}
    structure = _keras2_structure(node, found)
    if isinstance(structure, list) and len(structure) == 1:
        structure = structure[0]
    kwargs = {name: _keras2_argument(value, layer_names) for name, value in found.items()}
    kwargs = {name: value for name, value in kwargs.items() if value is not None or name in _NONE_IS_A_VALUE}
    if class_name in RECURRENT and isinstance(structure, list):
        if len(structure) <= constants:
            raise MalformedNodeError
        states = structure[1 : len(structure) - constants]
        if constants:
            kwargs["constants"] = structure[len(structure) - constants :]
        if states:
            kwargs["initial_state"] = states
        structure = structure[0]
    return CallSpec((structure,), kwargs, _stored(node, layer_names))


def with_masks_left_out(call: CallSpec, *, is_model: bool) -> CallSpec:
    """Replaces `mask=None` by NO_MASK: in tf.keras it suppresses the inputs' masks; for a model also within a list."""
    if "mask" not in call.kwargs:
        return call
    mask = call.kwargs["mask"]
    if is_model and isinstance(mask, list):
        mask = [NO_MASK if part is None else part for part in mask]
    return replace(call, kwargs={**call.kwargs, "mask": NO_MASK if mask is None else mask})


def tensor_references(structure: Structure, name: Callable[[Any], str]) -> Structure:
    """Reads `input_layers` and `output_layers`: ["x", 0, 0], nested in lists and dicts. Raises MalformedNodeError.

    `name` validates the keys of dicts, which name inputs and outputs.
    """
    if _is_reference(structure, (3,)):
        return TensorRef(*structure)
    if isinstance(structure, list):
        return [tensor_references(item, name) for item in structure]
    if isinstance(structure, dict):
        return {name(key): tensor_references(item, name) for key, item in structure.items()}
    raise MalformedNodeError


def _keras2_structure(value: Any, kwargs: dict[str, Any]) -> Structure:
    """Returns the tensors of a node; adds keyword arguments, which are stored with each tensor, to `kwargs`."""
    if isinstance(value, list) and len(value) == 4 and value[0] == _CONSTANT and isinstance(value[3], dict):
        kwargs.update(value[3])
        return value[2]
    if _is_reference(value, (3, 4)):
        if len(value) == 4:
            if not isinstance(value[3], dict):
                raise MalformedNodeError
            kwargs.update(value[3])
        return TensorRef(*value[:3])
    if isinstance(value, list):
        return [_keras2_structure(item, kwargs) for item in value]
    if isinstance(value, dict):
        return {key: _keras2_structure(item, kwargs) for key, item in value.items()}
    raise MalformedNodeError


def _stored(value: Any, layer_names: Mapping[str, Any]) -> Structure:
    """Returns the node unchanged, but with TensorRefs: names and node indices may differ when it is written."""
    if _is_reference(value, (3, 4)) and value[0] in layer_names:
        reference = TensorRef(*value[:3])
        return (reference, _stored(value[3], layer_names)) if len(value) == 4 else reference
    if isinstance(value, list):
        return [_stored(item, layer_names) for item in value]
    if isinstance(value, dict):
        return {key: _stored(item, layer_names) for key, item in value.items()}
    return value


def _keras2_argument(value: Any, layer_names: Mapping[str, Any]) -> Any:
    if _is_reference(value, (3,)) and value[0] in layer_names:
        return TensorRef(*value)
    if isinstance(value, list) and len(value) in (3, 4) and value[0] == _CONSTANT:
        return value[2]
    if isinstance(value, list):
        return [_keras2_argument(item, layer_names) for item in value]
    if isinstance(value, dict) and value.get("class_name") == "__ellipsis__":
        return Ellipsis
    if isinstance(value, dict):
        return {key: _keras2_argument(item, layer_names) for key, item in value.items()}
    return value


def _is_reference(value: Any, lengths: Sequence[int]) -> bool:
    return (
        isinstance(value, list)
        and len(value) in lengths
        and isinstance(value[0], str)
        and type(value[1]) is int
        and type(value[2]) is int
    )
