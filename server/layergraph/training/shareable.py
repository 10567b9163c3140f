"""Which models several workers can train together with the results of one."""

from __future__ import annotations

from layergraph.errors import ConfigError
from layergraph.regularizers import L1, L1L2, L2
from layergraph.training.compiled_model import CompiledModel
from layergraph.training.loop import takes_row_gradients

#: Activity regularizers that are sums over rows, so that each worker can add its own share.
ADDITIVE = (L1, L2, L1L2)


def check_shareable(model: CompiledModel) -> None:
    """Raises ConfigError, with the names of layers, if training on several workers would change the results."""
    reasons = []
    optimizer = model.optimizer
    if optimizer is not None and optimizer.reads_lookups and takes_row_gradients(model, optimizer):
        # Workers add up dense gradients, which don't show which rows were looked up.
        reasons.append(f"Keras 2's optimizer '{optimizer.name}' depends on which rows of embeddings were looked up")
    for layer in model.walk_layers():
        penalty = layer.activity_regularizer
        if penalty is not None and not isinstance(penalty, ADDITIVE):
            reasons.append(f"layer '{layer.name}' has the activity regularizer {type(penalty).__name__}")
        if getattr(layer, "stateful", False):
            reasons.append(f"layer '{layer.name}' ({type(layer).__name__}) is stateful")
        if not layer.rows_are_independent:
            reasons.append(f"layer '{layer.name}' ({type(layer).__name__}) depends on all rows of a batch")
    if not reasons and not model.plan().batched:
        reasons.append("an input or output doesn't have the rows as its first axis")
    if reasons:
        raise ConfigError(f"model '{model.name}' can't be trained by several workers: {'; '.join(reasons)}")
