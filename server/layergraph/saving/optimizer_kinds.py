"""Keras 2's legacy optimizers and the newer ones of the same names: when they compute the same.

Keras 2 up to 2.10 has only the legacy ones, and Keras 3 only the newer ones.
"""

from __future__ import annotations

from layergraph.errors import ConfigError
from layergraph.layers.core.basic import Embedding
from layergraph.training.loop import takes_row_gradients
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.legacy import LEGACY, NOT_LEGACY
from layergraph.training.optimizers.loss_scale import LossScaleOptimizer
from layergraph.training.optimizers.optimizer import Optimizer
from layergraph.training.optimizers.schedules import Schedule
from layergraph.training.trainer import Trainer

#: Largest relative difference of a step that counts as rounding.
_ROUNDING = 1e-6


def kind_of(optimizer: BaseOptimizer) -> str:
    """The name that both kinds share."""
    return type(optimizer).serialized_as or type(optimizer).__name__


def legacy_form(optimizer: Optimizer) -> Optimizer | None:
    """The legacy optimizer with the same name and options, without state; None if there is none."""
    kind = LEGACY.get(kind_of(optimizer))
    if kind is None:
        return None
    options = {name: value for name, value in optimizer.get_config().items() if name not in NOT_LEGACY}
    made = kind.from_config({**options, "decay": 0.0})
    assert isinstance(made, Optimizer)
    return made


def differences(optimizer: Optimizer, model: Trainer) -> list[str]:
    """Differences between the legacy and the newer optimizer of a name, as texts. `optimizer` is either of them."""
    legacy = optimizer if optimizer.legacy else legacy_form(optimizer)
    if legacy is None:
        return []
    kind, found = kind_of(legacy), []
    if kind == "Nadam":
        found.append("the legacy one has the exponent 0.004 t instead of t")
    elif kind == "RMSprop" and not legacy.option_value("momentum"):
        found.append("the legacy one adds epsilon outside of the root")
    elif kind == "Adagrad":
        # Compares sqrt(a) + e with sqrt(a + e), where a only grows.
        least, epsilon = legacy.option_value("initial_accumulator_value"), legacy.option_value("epsilon")
        if epsilon and (not least or epsilon * (least**-0.5 + 0.5 / least) > _ROUNDING):
            found.append("the legacy one adds epsilon outside of the root")
    if takes_row_gradients(model, legacy) and _trains_embeddings(model):
        if legacy.leaves_others:
            found.append("the legacy one doesn't update rows of an Embedding that were not looked up")
        clips = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(legacy, name) is not None]
        found += [f"the legacy one's '{name}' clips each row of an Embedding separately" for name in clips]
    return found


def check_keras3_optimizer(optimizer: BaseOptimizer, model: Trainer) -> None:
    """Raises ConfigError for an optimizer that has no equivalent in Keras 3."""
    inner = optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer
    if not isinstance(inner, Optimizer) or not inner.legacy:
        return
    found = differences(inner, model)
    if inner.rate_decay and isinstance(inner.learning_rate, Schedule):
        found.append("its 'decay' is applied in addition to a schedule")
    if found:
        kind = kind_of(inner)
        raise ConfigError(
            f"save: Keras 2's legacy optimizer {kind} computes differently from Keras 3's {kind}: {'; '.join(found)}; "
            "compile the model with an optimizer of Keras 3, or save it for Keras 2"
        )


def _trains_embeddings(model: Trainer) -> bool:
    return any(isinstance(layer, Embedding) and layer.trainable_weights for layer in model.walk_layers())
