"""How training differs between releases of Keras, as one object for losses, metrics, layers, optimizers, the loop.

`compile` gives the rules of the file's release to losses, metrics and the optimizer; the loop gives them to layers.
Formulas are chosen there, not in each step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """How a release of Keras trains. The defaults are Keras 3's rules.

    logits              which crossentropies take the input of a sigmoid or softmax in place of its output: a value of
                        `keep_logits`, or "" if only `from_logits` decides
    unbiased_ranks      ranks of inputs for which BatchNormalization multiplies a batch's variance by n / (n - 1)
                        before it is added to the moving one
    sample_variance     it is multiplied by n / (n - 1 - epsilon), for inputs of any rank
    clips_lookups       clipping applies to the gradient of each lookup in an Embedding, before those of an id are added
    averages_first      moving averages of weights begin with the weights before the first step, not after it
    counts_masked       masked predictions count as losses of 0 in the mean
    masks_all_metrics   masked predictions are left out of all metrics, not only of means of functions
    masks_no_metrics    masked predictions count in all metrics
    penalizes_frozen    regularizers of frozen weights count in the loss
    logs_means          the log of a loss without reduction is the mean of its values
    repeats_rows        with `steps_per_epoch` an epoch goes on with the first row behind the last one
    restores_if_stopped EarlyStopping restores the best weights only if it stops the run, before averages replace them
    multiplies_weights  class weights and sample weights may be given together
    lists_for_all       a flat list of metrics applies to each output, and weights of a list of losses have their names
    has_new_optimizers  names of optimizers mean Keras 3's, not the legacy ones
    sums_activities     penalties of activities aren't divided by the number of rows
    clips_together      `clipnorm` limits the norm of all gradients together
    dense_lookups       gradients of an Embedding are dense: an optimizer changes all of its rows
    frozen_statistics   a frozen BatchNormalization trains with the batch's statistics ("used"), and also updates its
                        moving ones ("updated"); "" if it computes as in inference
    rounds_predictions  binary accuracy compares labels with rounded predictions
    accuracy_by_loss    which accuracy "accuracy" is depends on the loss, if that is a crossentropy, not on shapes
    averages_batches    a metric is the mean of its values for the batches, weighted by their rows; masked values don't
                        count
    negates_cosines     the metric cosine_proximity is the loss, -cos
    averages_cosines    cosines of labels and predictions are divided by the number of elements
    """

    logits: str = ""
    unbiased_ranks: frozenset[int] = frozenset()
    sample_variance: bool = False
    clips_lookups: bool = False
    averages_first: bool = False
    counts_masked: bool = False
    masks_all_metrics: bool = False
    masks_no_metrics: bool = False
    penalizes_frozen: bool = False
    logs_means: bool = False
    repeats_rows: bool = False
    restores_if_stopped: bool = False
    multiplies_weights: bool = False
    lists_for_all: bool = False
    has_new_optimizers: bool = True
    sums_activities: bool = False
    clips_together: bool = False
    dense_lookups: bool = False
    frozen_statistics: str = ""
    rounds_predictions: bool = False
    accuracy_by_loss: bool = False
    averages_batches: bool = False
    negates_cosines: bool = False
    averages_cosines: bool = False


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
        # With `steps_per_epoch`, TensorFlow 1 doesn't cut arrays into batches.
        repeats_rows=minor > 2,
        has_new_optimizers=minor > 10,
        accuracy_by_loss=minor <= 2,
        counts_masked=minor <= 10,
    )


#: Keras 2.3 on several backends.
MULTI_BACKEND_RULES: Final = replace(
    tf_keras_training(3),
    unbiased_ranks=frozenset(),
    sample_variance=True,
    clips_lookups=False,
    repeats_rows=False,
    logs_means=False,
    sums_activities=True,
    clips_together=True,
    dense_lookups=True,
    frozen_statistics="used",
    rounds_predictions=True,
    accuracy_by_loss=True,
)
#: Keras 2.1.4 to 2.2, and TensorFlow.js.
EARLY_RULES: Final = replace(
    MULTI_BACKEND_RULES,
    logits="",
    multiplies_weights=False,
    counts_masked=False,
    averages_batches=True,
    negates_cosines=True,
)
#: Keras 1.
FIRST_RULES: Final = replace(
    EARLY_RULES,
    sample_variance=False,
    frozen_statistics="updated",
    averages_cosines=True,
    masks_no_metrics=True,
)


def early_training(minor: int, patch: int) -> TrainingRules:
    """The rules of Keras 2.`minor`.`patch`, up to 2.2: by their source, and by training with 2.0.8, 2.1.3, 2.2.4."""
    release = minor, patch
    return replace(
        EARLY_RULES,
        sample_variance=release > (1, 3),
        frozen_statistics="used" if release > (1, 2) else "updated",
        averages_cosines=release < (0, 9),
    )
