"""The weights and the optimizer's state of a checkpoint, for a model that is used or trained otherwise than its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from layergraph.errors import DataError
from layergraph.functional.functional import Functional
from layergraph.functional.weight import Weight
from layergraph.training.compiled_model import CompiledModel

#: Maximum number of weights that a text names.
MAX_NAMED = 10


def trained_places(model: Functional) -> list[int]:
    """Positions of the trained weights among all weights of a model, in the optimizer's order."""
    places = {id(weight): place for place, weight in enumerate(model.weights)}
    return [places[id(weight)] for weight in model.trainable_weights]


def restore_model(model: CompiledModel, state: Mapping[str, Any], *, keep_rate: bool = False) -> list[str]:
    """Gives a compiled model the weights and the optimizer's state of a checkpoint, as far as its optimizer has it.

    With `keep_rate` the learning rate stays the model's own. Returns a text for each part of the optimizer's state that
    isn't kept: another optimizer, or weights that aren't trained in both. Raises DataError if the checkpoint is of a
    model with other weights.
    """
    weights = model.weights
    _check_shapes(weights, state["weights"])
    for weight, value in zip(weights, state["weights"], strict=True):
        weight.assign(value)
    optimizer = model.optimizer
    if optimizer is None:
        return []
    before, kept = state["run"]["optimizer"], type(optimizer).__name__
    if before != kept:
        optimizer.build(model.trainable_weights)
        return [f"the state of the optimizer starts anew: the checkpoint has that of {before}, this run has {kept}"]
    trained = [weights[place] for place in state["trained"]]
    optimizer.build(trained)
    if not _same_form(optimizer.state(), state["optimizer"]):
        optimizer.build(model.trainable_weights)
        return [f"the state of the optimizer starts anew: {kept} has other state with its options here"]
    rates = [(one, one.learning_rate) for _, one in optimizer.rated]
    optimizer.restore(state["optimizer"])
    if keep_rate:
        for one, rate in rates:
            one.learning_rate = rate
    optimizer.build(model.trainable_weights)
    return _differences(trained, model.trainable_weights)


def finished_model(model: CompiledModel, state: Mapping[str, Any]) -> None:
    """Gives a compiled model what a run that ends at a checkpoint has at its end: with averaged weights, if any."""
    if not restore_model(model, state) and model.optimizer is not None:
        model.optimizer.finalize()


def _check_shapes(weights: Sequence[Weight], values: Sequence[torch.Tensor]) -> None:
    if len(weights) != len(values):
        raise DataError(f"the checkpoint has {len(values)} weights, the model has {len(weights)}")
    for weight, value in zip(weights, values, strict=True):
        if tuple(weight.shape) != tuple(value.shape):
            raise DataError(
                f"the checkpoint is of another model: weight '{weight.path}' has shape {tuple(value.shape)}, "
                f"expected {tuple(weight.shape)}"
            )


def _same_form(own: Any, kept: Any) -> bool:
    """Whether two states of optimizers have the same names and shapes.

    The learning rate is left out: it is state only where it isn't a schedule's.
    """
    if isinstance(own, torch.Tensor) or isinstance(kept, torch.Tensor):
        return getattr(own, "shape", None) == getattr(kept, "shape", None)
    if isinstance(own, Mapping) and isinstance(kept, Mapping):
        names = [{*one} - {"learning_rate"} for one in (own, kept)]
        return names[0] == names[1] and all(_same_form(own[name], kept[name]) for name in names[0])
    if isinstance(own, (list, tuple)) and isinstance(kept, (list, tuple)):
        return len(own) == len(kept) and all(map(_same_form, own, kept))
    return True


def _differences(before: Sequence[Weight], after: Sequence[Weight]) -> list[str]:
    known, wanted = ({id(weight) for weight in weights} for weights in (before, after))
    found = []
    for text, weights in (
        ("starts anew for weights that the checkpoint's run didn't train", [w for w in after if id(w) not in known]),
        ("isn't used for weights that this run doesn't train", [w for w in before if id(w) not in wanted]),
    ):
        if weights:
            names = ", ".join(weight.path for weight in weights[:MAX_NAMED])
            more = f" and {len(weights) - MAX_NAMED} more" if len(weights) > MAX_NAMED else ""
            found.append(f"the state of the optimizer {text}: {names}{more}")
    return found
