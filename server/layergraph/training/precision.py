"""Training in another precision than that of a model's layers, which saved files keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from layergraph.functional.dtypes import DTypePolicy, dtype_policy
from layergraph.functional.functional import Functional
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten

#: Policies that are replaced; others were set for a reason, such as quantized kernels.
_REPLACED = ("float32", "mixed_float16", "mixed_bfloat16")


def compute_in(model: Functional, name: str) -> dict[Layer, DTypePolicy]:
    """Makes all layers compute by a policy ("float32", "mixed_bfloat16"). Returns the policies of those that change.

    Weights stay as they are: all of these policies have them in float32. Operations take the dtypes of their inputs, as
    in Keras. Raises GraphError if a layer can't compute in this precision; the model can't be used then.
    """
    policy = dtype_policy(name)
    changed = {
        layer: layer.dtype_policy
        for layer in model.walk_layers()
        if not layer.is_operation and layer.dtype_policy != policy and _is_replaced(layer.dtype_policy)
    }
    for layer in changed:
        layer.dtype_policy = policy
    if changed:
        _infer_dtypes(model)
    return changed


def _is_replaced(policy: DTypePolicy) -> bool:
    return policy.name in _REPLACED and policy.quantization is None and not policy.parts


def _infer_dtypes(model: Functional) -> None:
    """Infers the dtypes of all tensors again, of inner models first."""
    models = [one for one in model.walk_layers() if isinstance(one, Functional)]
    for one in models:
        one.forget_plans()
    for one in reversed(models):
        for node in one.graph.nodes:
            if not node.is_input:
                inferred = node.layer.infer(Invocation(node.layer, node.args, node.kwargs, node.training))
                for tensor, found in zip(node.output_tensors, flatten(inferred), strict=True):
                    tensor.dtype = found.dtype


@contextmanager
def layer_dtypes(policies: Mapping[Layer, DTypePolicy]) -> Iterator[None]:
    """Gives layers back the policies that `compute_in` has returned, while the model is saved."""
    present = {layer: layer.dtype_policy for layer in policies}
    try:
        for layer, policy in policies.items():
            layer.dtype_policy = policy
        yield
    finally:
        for layer, policy in present.items():
            layer.dtype_policy = policy
