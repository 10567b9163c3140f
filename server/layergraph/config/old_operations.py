"""Operation nodes of Keras 3.0 to 3.14: call arguments that became options, and the reverse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import takewhile

from layergraph.config.spec import LayerSpec
from layergraph.config.tensorflow_ops import holds_tensor

#: Class name -> the arguments of its call in the order of earlier releases.
_ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "Arange": ("start", "stop", "step", "dtype"),
    "Array": ("x", "dtype"),
    "DotProductAttention": (
        "query",
        "key",
        "value",
        "bias",
        "mask",
        "scale",
        "flash_attention",
        "attn_logits_soft_cap",
    ),
    "Full": ("shape", "fill_value", "dtype"),
    "FullLike": ("x", "fill_value", "dtype"),
    "Isclose": ("x1", "x2", "rtol", "atol", "equal_nan"),
    "OnesLike": ("x", "dtype"),
    "Scatter": ("indices", "values", "shape"),
    "SearchSorted": ("sorted_sequence", "values", "side"),
    "Slice": ("inputs", "start_indices", "shape"),
    "ZerosLike": ("x", "dtype"),
}
#: Arguments that became options.
_OPTIONS = frozenset({"attn_logits_soft_cap", "dtype", "equal_nan", "flash_attention", "shape", "side"})
#: Options that became arguments.
_CALLED: Mapping[str, str] = {"RMSNorm": "scale"}


def in_current_form(layer: LayerSpec) -> LayerSpec:
    """Returns the operation in the form of Keras 3.15. Shapes that contain tensors stay in the call."""
    names = _ARGUMENTS.get(layer.class_name)
    if names is not None and not _OPTIONS & layer.config.keys():
        return _with_options(layer, names)
    moved = _CALLED.get(layer.class_name)
    if moved is None or moved not in layer.config:
        return layer
    config = {key: value for key, value in layer.config.items() if key != moved}
    given = layer.config[moved]
    calls = tuple(replace(call, kwargs={moved: given, **call.kwargs}) for call in layer.calls)
    return replace(layer, config=config, calls=calls)


def _with_options(layer: LayerSpec, names: tuple[str, ...]) -> LayerSpec:
    config = dict(layer.config)
    calls = []
    for call in layer.calls:
        given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
        options = {k: v for k, v in given.items() if k in _OPTIONS and v is not None and not holds_tensor(v)}
        # A layer called several times has one set of options, which all calls must agree on.
        if len(call.args) > len(names) or any(config.get(key, value) != value for key, value in options.items()):
            return layer
        config.update(options)
        left = {name: value for name, value in given.items() if name not in options and value is not None}
        arguments = [name for name in names if name not in _OPTIONS]
        args = tuple(left.pop(name) for name in list(takewhile(left.__contains__, arguments)))
        calls.append(replace(call, args=args, kwargs=left))
    return replace(layer, config=config, calls=tuple(calls))
