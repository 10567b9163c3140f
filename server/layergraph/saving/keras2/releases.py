"""Releases of Keras 2: what each can read of how a model was compiled.

Read in the sources of Keras 2.0.8 to 2.3.1, of TensorFlow 1.14 to 2.5, and of Keras 2.6 to 2.15.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Release:
    """One of them: 2.`minor`, by itself or in TensorFlow.

    TensorFlow 1.13 to 2.1 call theirs 2.2.4-tf, TensorFlow 2.2 has 2.3.0-tf, and TensorFlow 2.3 and 2.4 have 2.4.0.
    """

    minor: int
    in_tensorflow: bool = True

    @classmethod
    def of(cls, version: str) -> Release:
        """That of a `keras_version`; the last where it says none."""
        found = re.match(r"2\.(\d+)", version)
        if not found:
            return LAST
        return cls(int(found[1]), in_tensorflow=int(found[1]) > 3 or version.endswith("-tf"))

    @property
    def keeps_words(self) -> bool:
        """Whether its `.h5` has metrics as words, by which it also names their logs, each version in its own way."""
        return self.minor < 3 or not self.in_tensorflow

    @property
    def prefixes_metrics(self) -> bool:
        """Whether it puts the output's name before that of a metric which it reads from a file, too."""
        return self.minor < 5

    @property
    def wants_weight_mode(self) -> bool:
        """Whether it looks for `sample_weight_mode`, which is None wherever weights go by rows."""
        return self.minor < 4

    @property
    def has_new_optimizers(self) -> bool:
        """Whether there are others than those which 2.11 calls legacy."""
        return self.minor >= 11

    @property
    def scales_losses(self) -> bool:
        """Whether it reads a LossScaleOptimizer in today's form."""
        return self.minor >= 4

    def knows(self, since: int) -> bool:
        """Whether it has what came with 2.`since`."""
        return self.minor >= since


LAST = Release(15)

#: Losses and metrics by their classes, optimizers -> the release that they came with, where it isn't 2.2.4-tf.
LOSSES_SINCE: Mapping[str, int] = {"BinaryFocalCrossentropy": 8, "CategoricalFocalCrossentropy": 13}
METRICS_SINCE: Mapping[str, int] = {
    "PrecisionAtRecall": 3,
    "RecallAtPrecision": 3,
    "BinaryIoU": 8,
    "IoU": 8,
    "OneHotIoU": 8,
    "OneHotMeanIoU": 8,
    "F1Score": 13,
    "FBetaScore": 13,
    "R2Score": 13,
}
OPTIMIZERS_SINCE: Mapping[str, int] = {"Adafactor": 11, "AdamW": 11, "Lion": 13}
#: Names of losses and of metrics that all have.
_NAMES = (
    *("binary_crossentropy", "categorical_crossentropy", "categorical_hinge", "hinge", "poisson"),
    *("kullback_leibler_divergence", "logcosh", "sparse_categorical_crossentropy", "squared_hinge"),
    *("mean_absolute_error", "mae", "MAE", "mean_absolute_percentage_error", "mape", "MAPE"),
    *("mean_squared_error", "mse", "MSE", "mean_squared_logarithmic_error", "msle", "MSLE"),
)
LOSS_NAMES_SINCE: Mapping[str, int] = {
    **dict.fromkeys((*_NAMES, "cosine_similarity", "huber_loss", "kld", "KLD"), 0),
    **dict.fromkeys(("bce", "BCE"), 3),
    **dict.fromkeys(("huber", "kl_divergence", "log_cosh"), 4),
    **{"binary_focal_crossentropy": 8, "categorical_focal_crossentropy": 13},
}
METRIC_NAMES_SINCE: Mapping[str, int] = {
    **dict.fromkeys((*_NAMES, "accuracy", "acc", "crossentropy", "ce", "cosine_similarity"), 0),
    **dict.fromkeys(("binary_accuracy", "categorical_accuracy", "sparse_categorical_accuracy"), 0),
    **dict.fromkeys(("top_k_categorical_accuracy", "sparse_top_k_categorical_accuracy"), 0),
    "log_cosh": 5,
    **dict.fromkeys(("binary_focal_crossentropy", "categorical_focal_crossentropy"), 13),
    **dict.fromkeys(("kl_divergence", "kld", "KLD"), 13),
}
#: Losses by their classes -> the name that all have, where it isn't the class's in another spelling.
LOSS_NAMES: Mapping[str, str] = {
    "Huber": "huber_loss",
    "KLDivergence": "kullback_leibler_divergence",
    "LogCosh": "logcosh",
}

_IOU = {"axis": 10, "ignore_class": 10, "sparse_y_pred": 10}
_AT = {"class_id": 5}
#: Class -> option -> the release that it came with, where it is a later one than the class.
LOSS_OPTIONS_SINCE: Mapping[str, Mapping[str, int]] = {
    "BinaryCrossentropy": {"axis": 6},
    "CategoricalCrossentropy": {"axis": 6},
    "BinaryFocalCrossentropy": {"alpha": 10, "apply_class_balancing": 10},
    "SparseCategoricalCrossentropy": {"ignore_class": 10},
}
METRIC_OPTIONS_SINCE: Mapping[str, Mapping[str, int]] = {
    "AUC": {"from_logits": 5, "label_weights": 3, "multi_label": 3, "num_labels": 5},
    "CategoricalCrossentropy": {"axis": 10},
    "IoU": {**_IOU, "sparse_y_true": 10},
    "MeanIoU": {**_IOU, "sparse_y_true": 10},
    "OneHotIoU": _IOU,
    "OneHotMeanIoU": _IOU,
    "PrecisionAtRecall": _AT,
    "RecallAtPrecision": _AT,
    "SensitivityAtSpecificity": _AT,
    "SparseCategoricalCrossentropy": {"ignore_class": 10},
    "SpecificityAtSensitivity": _AT,
}
#: The same of optimizers and of schedules. 2.4.0 is also TensorFlow 2.3's, which lacks `beta`.
OPTIMIZER_OPTIONS_SINCE: Mapping[str, Mapping[str, int]] = {"Ftrl": {"beta": 5}}
SCHEDULE_OPTIONS_SINCE: Mapping[str, Mapping[str, int]] = {"CosineDecay": {"warmup_steps": 13, "warmup_target": 13}}
