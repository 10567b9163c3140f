"""How training differs between releases of Keras, as one object for losses, metrics, layers, optimizers, the loop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """How a release of Keras trains. The defaults are Keras 3's rules.

    logits              which crossentropies use what a sigmoid or softmax was applied to instead of what it returned: a
                        value of `keep_logits`, or "" if only `from_logits` decides
    unbiased_ranks      ranks of inputs for which BatchNormalization's moving variance has n / (n - 1) of the batch's
    sample_variance     the moving variance has n / (n - 1 - epsilon) of the batch's, for inputs of any rank
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

    logits: str = ""
    unbiased_ranks: frozenset[int] = frozenset()
    sample_variance: bool = False
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
    logits="any",
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


def tf_keras_training(minor: int) -> TrainingRules:
    """The rules of tf.keras 2.`minor`. Found by training the same models with TensorFlow 2.0 to 2.15."""
    return replace(
        KERAS2_RULES,
        # Up to 2.3, crossentropies look for TensorFlow's operations. TensorFlow 2.3 does so, too, but writes 2.4.
        logits="any" if minor > 3 else "untold",
        unbiased_ranks=frozenset({4, 5}) if minor > 5 else frozenset({4}),
        # TensorFlow 1 doesn't cut arrays into batches then.
        repeats_rows=minor > 2,
        has_new_optimizers=minor > 10,
    )


#: Keras 2.3 on several backends.
MULTI_BACKEND_RULES: Final = replace(
    tf_keras_training(3), unbiased_ranks=frozenset(), sample_variance=True, repeats_rows=False, logs_means=False
)
#: Keras 1 to 2.2, and TensorFlow.js.
EARLY_RULES: Final = replace(MULTI_BACKEND_RULES, logits="", multiplies_weights=False)
