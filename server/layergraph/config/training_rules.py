"""How training differs between releases of Keras, as one object for losses, metrics, layers, optimizers, the loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """How a release of Keras trains. The defaults are Keras 3's rules.

    from_logits         crossentropies of what a sigmoid or softmax returns are computed from what it was applied to
    unbiased_ranks      ranks of inputs for which BatchNormalization's moving variance has n / (n - 1) of the batch's
    clips_lookups       clipping applies to the gradient of each lookup in an Embedding, before those of an id are added
    averages_first      moving averages of weights begin with the weights before the first step, not after it
    masks_all_metrics   masked predictions are left out of all metrics, not only of means of functions
    penalizes_frozen    regularizers of frozen weights count in the loss
    logs_means          the log of a loss without reduction is the mean of its values
    repeats_rows        with `steps_per_epoch` an epoch goes on with the first row behind the last one
    restores_if_stopped EarlyStopping restores the best weights only if it stops the run, before averages replace them
    multiplies_weights  class weights and sample weights may be given together
    lists_for_all       a flat list of metrics applies to each output, and weights of a list of losses have their names
    has_new_optimizers  names of optimizers mean Keras 3's, not the legacy ones
    """

    from_logits: bool = False
    unbiased_ranks: frozenset[int] = frozenset()
    clips_lookups: bool = False
    averages_first: bool = False
    masks_all_metrics: bool = False
    penalizes_frozen: bool = False
    logs_means: bool = False
    repeats_rows: bool = False
    restores_if_stopped: bool = False
    multiplies_weights: bool = False
    lists_for_all: bool = False
    has_new_optimizers: bool = True


KERAS3_RULES: Final = TrainingRules()
#: tf.keras 2.15.
KERAS2_RULES: Final = TrainingRules(
    from_logits=True,
    unbiased_ranks=frozenset({4, 5}),
    clips_lookups=True,
    averages_first=True,
    masks_all_metrics=True,
    penalizes_frozen=True,
    logs_means=True,
    repeats_rows=True,
    restores_if_stopped=True,
    multiplies_weights=True,
    lists_for_all=True,
)
