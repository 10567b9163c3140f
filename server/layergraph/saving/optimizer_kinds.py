"""The two kinds of optimizers with the same names, Keras 2's legacy ones and all others: when they compute alike.

Up to 2.10 Keras 2 has the legacy ones alone, and Keras 3 has none of them.
"""

from __future__ import annotations

from layergraph.errors import ConfigError
from layergraph.layers.core.basic import Embedding
from layergraph.training.loop import takes_row_gradients
from layergraph.training.optimizers.legacy import LEGACY
from layergraph.training.optimizers.loss_scale import LossScaleOptimizer
from layergraph.training.optimizers.optimizer import BaseOptimizer, Optimizer
from layergraph.training.optimizers.schedules import Schedule
from layergraph.training.trainer import Trainer

#: Options that the legacy ones lack.
NOT_LEGACY = (
    "weight_decay",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)
#: Largest difference of a step, relative to its size, that is one of rounding.
_ROUNDING = 1e-6


def kind_of(optimizer: BaseOptimizer) -> str:
    """The name that both have."""
    return type(optimizer).serialized_as or type(optimizer).__name__


def legacy_form(optimizer: Optimizer) -> Optimizer | None:
    """The legacy optimizer with its name and options, without a state; None if there is none."""
    kind = LEGACY.get(kind_of(optimizer))
    if kind is None:
        return None
    options = {name: value for name, value in optimizer.get_config().items() if name not in NOT_LEGACY}
    made = kind.from_config({**options, "decay": 0.0})
    assert isinstance(made, Optimizer)
    return made


def differences(optimizer: Optimizer, model: Trainer) -> list[str]:
    """Where the legacy optimizer of a name and the other one part, in words. The given one is either of them."""
    legacy = optimizer if optimizer.legacy else legacy_form(optimizer)
    if legacy is None:
        return []
    kind, found = kind_of(legacy), []
    if kind == "Nadam":
        found.append("the legacy one has 0.004 t for an exponent, not t")
    elif kind == "RMSprop" and not legacy.option_value("momentum"):
        found.append("the legacy one adds epsilon outside of the root")
    elif kind == "Adagrad":
        # sqrt(a) + e and sqrt(a + e), with a that only grows.
        least, epsilon = legacy.option_value("initial_accumulator_value"), legacy.option_value("epsilon")
        if epsilon and (not least or epsilon * (least**-0.5 + 0.5 / least) > _ROUNDING):
            found.append("the legacy one adds epsilon outside of the root")
    if takes_row_gradients(model, legacy) and _trains_embeddings(model):
        if legacy.leaves_others:
            found.append("the legacy one leaves those rows of an Embedding that were not looked up")
        clips = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(legacy, name) is not None]
        found += [f"the legacy one's '{name}' clips each row of an Embedding by itself" for name in clips]
    return found


def check_keras3_optimizer(optimizer: BaseOptimizer, model: Trainer) -> None:
    """Raises ConfigError for an optimizer that has no equal in Keras 3."""
    inner = optimizer.inner_optimizer if isinstance(optimizer, LossScaleOptimizer) else optimizer
    if not isinstance(inner, Optimizer) or not inner.legacy:
        return
    found = differences(inner, model)
    if inner.rate_decay and isinstance(inner.learning_rate, Schedule):
        found.append("its 'decay' goes on top of a schedule")
    if found:
        kind = kind_of(inner)
        raise ConfigError(
            f"save: Keras 2's legacy optimizer {kind} computes otherwise than Keras 3's {kind}: {'; '.join(found)}; "
            "compile the model with an optimizer of Keras 3, or save it for Keras 2"
        )


def _trains_embeddings(model: Trainer) -> bool:
    return any(isinstance(layer, Embedding) and layer.trainable_weights for layer in model.walk_layers())
