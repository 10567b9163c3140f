"""Releases of Keras 2, and which compile arguments each of them can load.

Taken from the sources of Keras 2.0.8 to 2.3.1, of TensorFlow 1.14 to 2.5, and of Keras 2.6 to 2.15.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Release:
    """Release 2.`minor`, of standalone Keras or in TensorFlow.

    TensorFlow 1.13 to 2.0 call theirs 2.2.4-tf, TensorFlow 2.1 and 2.2 have 2.3.0-tf, and 2.3 and 2.4 have 2.4.0.
    """

    minor: int
    in_tensorflow: bool = True

    @classmethod
    def of(cls, version: str) -> Release:
        """The release of a `keras_version`; the last one if it has none."""
        found = re.match(r"2\.(\d{1,4})(?!\d)", version)
        if not found:
            return LAST
        return cls(int(found[1]), in_tensorflow=int(found[1]) > 3 or version.endswith("-tf"))

    @property
    def stores_names(self) -> bool:
        """Whether its `.h5` stores names like "accuracy", which then also name the logs, in a way that varies."""
        return self.minor < 3 or not self.in_tensorflow

    @property
    def prefixes_metrics(self) -> bool:
        """Whether it prefixes the names of metrics that it loads from a file with the output's name, too."""
        return self.minor < 5

    @property
    def requires_weight_mode(self) -> bool:
        """Whether it requires `sample_weight_mode`, which is None if weights are by row."""
        return self.minor < 4

    @property
    def has_new_optimizers(self) -> bool:
        """Whether it has other optimizers than those that 2.11 calls legacy."""
        return self.minor >= 11

    @property
    def scales_losses(self) -> bool:
        """Whether it can load a LossScaleOptimizer in today's format."""
        return self.minor >= 4

    def has(self, since: int) -> bool:
        """Whether it has what was added in 2.`since`."""
        return self.minor >= since


LAST = Release(15)

#: Classes of losses, metrics and optimizers -> the release that added them, if after 2.2.4-tf.
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
#: Names of losses and metrics that all releases have.
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
#: Classes of losses -> the name that all releases have, if it isn't the class's in snake case.
LOSS_NAMES: Mapping[str, str] = {
    "Huber": "huber_loss",
    "KLDivergence": "kullback_leibler_divergence",
    "LogCosh": "logcosh",
}

_IOU = {"axis": 10, "ignore_class": 10, "sparse_y_pred": 10}
_AT = {"class_id": 5}
#: Class -> option -> the release that added it, if after the class.
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
#: The same for optimizers and schedules. 2.4.0 is also TensorFlow 2.3's, which lacks `beta`.
OPTIMIZER_OPTIONS_SINCE: Mapping[str, Mapping[str, int]] = {"Ftrl": {"beta": 5}}
SCHEDULE_OPTIONS_SINCE: Mapping[str, Mapping[str, int]] = {"CosineDecay": {"warmup_steps": 13, "warmup_target": 13}}
