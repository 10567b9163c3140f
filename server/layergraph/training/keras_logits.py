"""Which outputs hold what their sigmoid or softmax was applied to, as they do in Keras 2."""

from __future__ import annotations

from layergraph.functional.functional import Functional
from layergraph.functional.nest import flatten
from layergraph.functional.tensor import Tensor
from layergraph.layers.activations import Activation, Softmax
from layergraph.layers.regularization import ActivityRegularization, AlphaDropout, GaussianDropout, GaussianNoise

#: Layers that return their input itself in Keras 2, always or in evaluation. Others, such as Dropout, return a new
#: tensor there, even if they change nothing, but may return their input itself here.
_RETURNING_INPUTS = (Activation, ActivityRegularization, AlphaDropout, GaussianDropout, GaussianNoise)


def losing_logits(model: Functional) -> list[int]:
    """The indices of the outputs that come from layers which lose the logits in Keras 2."""
    return [index for index, tensor in enumerate(flatten(model.graph.outputs)) if _loses(tensor)]


def _loses(tensor: Tensor) -> bool:
    while True:
        layer, node_index, tensor_index = tensor.history
        inner = layer.inner_model
        if inner is not None:
            tensor = flatten(inner.graph.outputs)[tensor_index]
        elif isinstance(layer, _RETURNING_INPUTS) and _is_linear(layer):
            tensor = layer.inbound_nodes[node_index].input_tensors[0]
        else:
            computing = getattr(layer, "layer", layer)
            return not (layer.is_operation or isinstance(layer, Softmax) or hasattr(computing, "activation"))


def _is_linear(layer: object) -> bool:
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return bool(name == "linear")
