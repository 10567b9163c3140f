"""Objects of Keras as settings of a run, without Keras: by the names of their classes and their attributes.

What Keras serializes itself (`get_config()`) is the matter of `compile_settings`. Its callbacks have no `get_config()`,
and its losses and metrics are often given as functions.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from layerserve.errors import InvalidArgument

#: First part of the names of Keras's modules: of Keras 3, tf-keras, tf.keras and Keras Core.
_PACKAGES = frozenset({"keras", "tf_keras", "tensorflow", "keras_core"})
#: Callbacks by class -> their options. Each is an attribute of the same name, but for those of `_ATTRIBUTES`.
CALLBACKS: Mapping[str, tuple[str, ...]] = {
    "EarlyStopping": (
        *("monitor", "min_delta", "patience", "verbose", "mode", "baseline", "restore_best_weights"),
        "start_from_epoch",
    ),
    "ReduceLROnPlateau": (*("monitor", "factor", "patience", "verbose", "mode", "min_delta", "cooldown", "min_lr"),),
    "LearningRateScheduler": ("schedule", "verbose"),
    "TerminateOnNaN": ("raise_error",),
    "ModelCheckpoint": (
        *("filepath", "monitor", "verbose", "save_best_only", "save_weights_only", "mode", "save_freq"),
        "initial_value_threshold",
    ),
    "BackupAndRestore": ("backup_dir", "save_freq", "double_checkpoint", "delete_checkpoint"),
    "CSVLogger": ("filename", "separator", "append"),
    "TensorBoard": ("log_dir", "update_freq"),
    "SwapEMAWeights": ("swap_on_epoch",),
}
_ATTRIBUTES = {"separator": "sep", "initial_value_threshold": "best"}
#: Callbacks that Keras's `fit` adds itself, and whose work `run.history` and `wait(progress=True)` do.
_OWN = frozenset({"History", "ProgbarLogger", "BaseLogger"})


def of_keras(value: Any) -> bool:
    """Whether this is a class or function of Keras, or an object of one of its classes, not of one derived from it."""
    named = value if inspect.isclass(value) or inspect.isroutine(value) else type(value)
    return str(getattr(named, "__module__", "")).partition(".")[0] in _PACKAGES


def keras_name(value: Any) -> str | None:
    """Returns the name of a function or class of Keras, such as a loss; None for anything else."""
    if (inspect.isclass(value) or inspect.isroutine(value)) and of_keras(value):
        return str(value.__name__)
    return None


def keras_callback(callback: Any) -> dict[str, Any] | None:
    """Returns a callback of Keras as {"class_name", "config"}; None for one that a run has anyway.

    Raises InvalidArgument for others: their code isn't sent.
    """
    name = type(callback).__name__
    if of_keras(callback) and name in _OWN:
        return None
    if not of_keras(callback) or name not in CALLBACKS:
        raise InvalidArgument(
            f"callbacks: got {name}, whose code isn't sent to the server, expected one of Keras's "
            f"{', '.join(CALLBACKS)}, or {{'class_name', 'config'}}; to act after each epoch, iterate over the run: "
            "for event in client.train(...)"
        )
    found: dict[str, Any] = {
        option: getattr(callback, _ATTRIBUTES.get(option, option), None) for option in CALLBACKS[name]
    }
    if "min_delta" in found:
        # Keras changes its sign for a log whose small values are better.
        found["min_delta"] = abs(found["min_delta"])
    if "mode" in found:
        found["mode"] = _mode(callback)
    schedule = found.get("schedule")
    if schedule is not None and not callable(getattr(schedule, "get_config", None)):
        raise InvalidArgument(
            "callbacks: got LearningRateScheduler with a function, whose code isn't sent to the server, expected a "
            "schedule of keras.optimizers.schedules; it may also be the learning_rate of the optimizer"
        )
    return {"class_name": name, "config": {key: value for key, value in found.items() if value is not None}}


def _mode(callback: Any) -> str:
    """Returns the mode of a callback. Keras 2 keeps only the function by which it compares."""
    compares = getattr(getattr(callback, "monitor_op", None), "__name__", "")
    return getattr(callback, "mode", None) or {"less": "min", "greater": "max"}.get(compares, "auto")
