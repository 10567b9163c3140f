"""The interface of optimizers: those with a formula, and those that consist of other optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layergraph.config.names import snake_case
from layergraph.config.options import Configurable, option, optional
from layergraph.config.training_rules import TrainingRules
from layergraph.training.optimizers.schedules import Schedule
from layergraph.training.optimizers.state import Tensor, Trainable, Variable
from layergraph.training.options import text

if TYPE_CHECKING:
    from layergraph.training.optimizers.optimizer import Optimizer


class BaseOptimizer(Configurable):
    """The interface of optimizers for training: state for a list of weights, and a step with their gradients."""

    name: str | None = option(optional(text), default=None, kw_only=True)

    #: Number of steps, including those that only accumulated gradients.
    iterations: int
    #: None if weights have different ones.
    learning_rate: float | Schedule | None

    def setup(self) -> None:
        if self.name is None:
            self.name = snake_case(type(self).__name__)

    def follow(self, rules: TrainingRules) -> None:
        """Computes as a release of Keras does. Called before `build`."""
        raise NotImplementedError

    @property
    def takes_rows(self) -> bool:
        """Whether gradients may be sparse, i.e. whether a zero gradient leaves a row of a weight unchanged."""
        return False

    @property
    def reads_lookups(self) -> bool:
        """Whether steps depend on the lookups that an embedding's gradient consists of, and not only on their sum."""
        return self.leaves_others

    @property
    def leaves_others(self) -> bool:
        """Whether rows without a gradient are left unchanged although the formula would change them."""
        return False

    @property
    def variables(self) -> list[Variable]:
        """The state in Keras 3's order."""
        raise NotImplementedError

    def build(self, weights: Iterable[Trainable]) -> None:
        """Creates the state for a model's trainable weights; existing state of these weights is kept."""
        raise NotImplementedError

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        """Loads the state from a Keras file. Raises DataError if it doesn't fit; the state is unchanged then."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """The exact state, for `restore`; `variables` rounds numbers to Keras's dtypes."""
        raise NotImplementedError

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a `state` of the same weights."""
        raise NotImplementedError

    @property
    def rated(self) -> list[tuple[str, BaseOptimizer]]:
        """The optimizers with a learning rate, each with the name of its log."""
        return [("learning_rate", self)]

    def rate(self) -> float:
        """The learning rate of the next step. Schedules count all steps, including accumulating ones."""
        raise NotImplementedError

    def scaled(self, loss: Tensor) -> Tensor:
        """Scales the loss; `apply` expects the gradients of the scaled loss."""
        raise NotImplementedError

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """Applies one step. `gradients` are in the order of `build`; None leaves a weight unchanged."""
        raise NotImplementedError

    def finalize(self) -> None:
        """Ends training: replaces averaged weights by their averages."""
        raise NotImplementedError

    @property
    def averaging(self) -> list[Optimizer]:
        """The optimizers, among this one and its inner ones, that average weights."""
        raise NotImplementedError

    @property
    def inner_states(self) -> dict[str, list[Variable]]:
        """States of the inner optimizers, by their paths in Keras files."""
        return {}
