"""The tables of training contain every public class of stock Keras that needs no user code."""

import inspect
from pathlib import Path
from types import ModuleType

import keras
import pytest
from layergraph import constraints, initializers, regularizers
from layergraph.training import losses
from layergraph.training.callbacks.table import CALLBACKS
from layergraph.training.metrics import table as metrics
from layergraph.training.optimizers import table as optimizers
from layergraph.training.optimizers.schedules import SCHEDULES

#: Classes of Keras that are in no table, with the reason.
ELSEWHERE = {
    "base classes": {
        "Callback", "Constraint", "Initializer", "LearningRateSchedule", "Loss", "Metric", "Optimizer", "Regularizer",
    },
    "part of MultiOptimizer": {"OptimizerMap"},
    "is what names a function, in files": {"MeanMetricWrapper"},
    "what fit itself has": {"CallbackList", "History", "ProgbarLogger"},
    "runs the user's functions": {"LambdaCallback"},
    "sends logs to an address of the configuration's choice": {"RemoteMonitor"},
    "writes the format of a package that is not here": {"OrbaxCheckpoint"},
}  # fmt: skip
#: Classes that Keras 3 lacks: Keras 2's, and logs as JSON.
BEYOND = {"MeanRelativeError", "JSONLogger", "RadialConstraint"}
TABLES = [
    (keras.optimizers, optimizers.OPTIMIZERS),
    (keras.optimizers.schedules, SCHEDULES),
    (keras.losses, losses.LOSSES),
    (keras.metrics, metrics.METRICS),
    (keras.callbacks, CALLBACKS),
    (keras.regularizers, regularizers.REGULARIZERS),
    (keras.constraints, constraints.CONSTRAINTS),
    (keras.initializers, initializers.INITIALIZERS),
]


def class_names(module: ModuleType) -> set[str]:
    """Names of the public classes; one name for classes with two."""
    return {value.__name__ for value in vars(module).values() if inspect.isclass(value)}


@pytest.mark.parametrize(("module", "table"), TABLES, ids=[module.__name__ for module, _ in TABLES])
def test_every_class_of_keras_is_in_its_table(module, table):
    elsewhere = set().union(*ELSEWHERE.values())
    assert class_names(module) - set(table) - elsewhere == set()
    assert set(table) - class_names(module) - BEYOND == set()


@pytest.mark.parametrize(
    ("module", "known"),
    [
        (keras.losses, {*losses.LOSSES, *losses.ALIASES}),
        (keras.regularizers, {*regularizers.REGULARIZERS, *regularizers.ALIASES}),
        (keras.constraints, {*constraints.CONSTRAINTS, *constraints.ALIASES}),
        (keras.initializers, {*initializers.INITIALIZERS, *initializers.ALIASES}),
    ],
    ids=["losses", "regularizers", "constraints", "initializers"],
)
def test_every_function_and_short_name_of_keras_is_known(module, known):
    elsewhere = set().union(*ELSEWHERE.values()) | {"get", "serialize", "deserialize"}
    names = {name for name, value in vars(module).items() if callable(value)}
    assert names - known - elsewhere == set()


#: Where each callback is compared with Keras's, or, where Keras has none or writes nothing that can be compared, with
#: what it promises.
CALLBACK_TESTS = {
    "EarlyStopping": "test_monitors.test_same_run_as_keras",
    "ReduceLROnPlateau": "test_monitors.test_same_run_as_keras",
    "LearningRateScheduler": "test_monitors.test_a_rate_by_a_schedule_of_epochs",
    "TerminateOnNaN": "test_monitors.test_termination_by_a_loss_that_is_no_number",
    "ModelCheckpoint": "test_recording.test_model_checkpoints",
    "BackupAndRestore": "test_checkpoint.test_backup_and_restore",
    "CSVLogger": "test_recording.test_csv",
    "JSONLogger": "test_recording.test_json_lines",
    "TensorBoard": "test_recording.test_tensorboard_events",
    "SwapEMAWeights": "test_averaging.test_same_run_as_keras",
}


def test_every_callback_has_a_test():
    assert set(CALLBACK_TESTS) == set(CALLBACKS)
    for place in CALLBACK_TESTS.values():
        module, function = place.split(".")
        assert f"\ndef {function}(" in next(Path(__file__).parent.rglob(f"{module}.py")).read_text()
