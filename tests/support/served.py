"""What a server answers, and what it must answer: two ways to a model's outputs that share no plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import layergraph
import numpy as np
import torch
from layergraph.execution.arrays import as_tensor, to_numpy
from layergraph.functional.binding import bind_values
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Invocation
from oracles import assert_close, flat, keras

Array: TypeAlias = np.ndarray
#: One array, or one for each input in order, or by name.
Arrays: TypeAlias = "Array | Sequence[Array] | Mapping[str, Array]"


def served(model: layergraph.Model, arrays: Arrays, outputs: Sequence[str] | None = None) -> list[Array]:
    """The outputs by `Plan.run`, as the server's `ModelRunner` calls it: fused and joined, by an engine if tuned.

    `Model.predict` is another path: it runs the graph as training does.
    """
    return list(model.plan(outputs).run(_by_name(model, arrays)).values())


def reference(model: Any, arrays: Arrays) -> list[Array]:
    """The outputs by stock Keras; of a layergraph model, node by node through the graph, without a plan."""
    if isinstance(model, keras.Model):
        given = arrays if isinstance(arrays, np.ndarray | Mapping) else list(arrays)
        return flat(model.predict_on_batch(given))
    given = _by_name(model, arrays)
    values = [as_tensor(given[spec.name], spec) for spec in model.input_specs]
    with torch.no_grad():
        return [to_numpy(value) for value, _ in _through(model, [(value, None) for value in values])]


def check_served(model: layergraph.Model, arrays: Arrays, tolerance: float = 1e-5) -> None:
    """The served outputs are the reference's."""
    got, expected = served(model, arrays), reference(model, arrays)
    assert len(got) == len(expected) > 0
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, tolerance)


def _by_name(model: layergraph.Model, arrays: Arrays) -> Mapping[str, Array]:
    if isinstance(arrays, Mapping):
        return arrays
    given = [arrays] if isinstance(arrays, np.ndarray) else arrays
    return dict(zip(model.input_names, given, strict=True))


def _through(model: layergraph.Model, inputs: Sequence[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Each output with its mask, from each input with its mask."""
    known = {id(tensor): given for tensor, given in zip(model.inputs, inputs, strict=True)}
    for node in model.graph.nodes:
        if node.is_input:
            continue
        call = Invocation(node.layer, node.args, node.kwargs, node.training)
        given = [known[id(tensor)] for tensor in call.tensors]
        inner = node.layer.inner_model
        if inner is not None and not node.kwargs and node.training is None and inner.takes_as_they_are(call.tensors):
            made = _through(inner, given)
        else:
            values, masks = [value for value, _ in given], [mask for _, mask in given]
            weights = bind_values(node.layer)
            made = list(zip(*call(CallContext(losses=None), weights, values, masks, want_masks=True), strict=True))
        known.update({id(tensor): result for tensor, result in zip(node.output_tensors, made, strict=True)})
    return [known[id(tensor)] for tensor in model.outputs]
