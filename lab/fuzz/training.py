"""Compares random training runs with stock Keras: `make -C lab fuzz FUZZ=training COUNT=200 SEED=0`.

Each model is built, compiled and saved by stock Keras and loaded here. Both train on the same rows, and must give the
same logs in the same order, weights, predictions, evaluation and optimizer state. Then the file that Keras saved is
trained on here, and the file saved here by Keras.

If numbers differ, Keras trains again from weights moved by a few units in the last place. A difference no larger than
the effect of that (at a kink, a sign, a gradient that is zero but for rounding) is rounding, not a mismatch.
"""

from __future__ import annotations

import csv
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
from layergraph.training.callbacks.table import callback
from random_compile_settings import Settings, random_settings
from random_trained_models import Array, Draw, Made, random_trained_model
from runner import Fuzzer, Skipped, run

#: How far apart numbers may be; in half precision, which rounds at each operation, much further.
TOLERANCE, HALF_TOLERANCE = 1e-4, 2e-2
HALF = ("mixed_bfloat16", "mixed_float16", "bfloat16")
POLICIES = (*HALF, "float64")
Numbers = dict[str, Any]


@dataclass(slots=True)
class Case:
    """A model, what to compile it with, and arguments of `fit` for either side; callbacks as names with options.

    batches   how rows come to `fit`: as "arrays", a "PyDataset" or a "generator"
    before    how often `train_on_batch` and `test_on_batch` are called by turns before `fit`
    rated     whether the learning rate is set between those calls
    """

    made: Made
    settings: Settings
    fit: dict[str, Any]
    callbacks: list[tuple[str, dict[str, Any]]]
    excluded: list[str]
    compile_here: bool
    ending: str
    tolerance: float
    batches: str = "arrays"
    before: int = 0
    rated: bool = False


class Rows(keras.utils.PyDataset):
    """Batches of rows: x, y and, if there are any, weights."""

    def __init__(self, parts: tuple[Any, ...], count: int, size: int) -> None:
        super().__init__()
        self.parts, self.count, self.size = parts, count, size

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def __getitem__(self, number: int) -> Any:
        rows = slice(number * self.size, (number + 1) * self.size)
        return keras.tree.map_structure(lambda a: a[rows], self.parts)


def batched(case: Case) -> Rows:
    """The rows of `fit` in its batches."""
    fit = case.fit
    parts = tuple(fit[name] for name in ("x", "y", "sample_weight") if name in fit)
    return Rows(parts, len(case.made.inputs[0]), fit["batch_size"])


def as_given(case: Case) -> dict[str, Any]:
    """The arguments of `fit`, with its rows in the form that the case has."""
    if case.batches == "arrays":
        return case.fit
    dataset = batched(case)
    x = dataset if case.batches == "PyDataset" else (dataset[at % len(dataset)] for at in range(10_000))
    return {**{k: v for k, v in case.fit.items() if k not in ("y", "sample_weight", "batch_size")}, "x": x}


def stepped(model: Any, case: Case) -> Numbers:
    """Calls `train_on_batch` and `test_on_batch` by turns, and returns the logs."""
    found: Numbers = {}
    dataset = batched(case)
    for at in range(case.before):
        batch = dataset[at % len(dataset)]
        own = {"class_weight": case.fit["class_weight"]} if "class_weight" in case.fit and at % 2 == 0 else {}
        logs = (model.test_on_batch if at % 2 else model.train_on_batch)(*batch, return_dict=True, **own)
        found.update({f"before {at} {name}": np.asarray(value, "float64") for name, value in logs.items()})
        if case.rated:
            model.optimizer.learning_rate = 0.01 / (1 + at)
    return found


def random_case(seed: int) -> Case:
    """The case of that seed: the same again each time it is asked for."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    draw = Draw(seed)
    policy = draw.pick(POLICIES) if draw.chance(0.05) else None
    keras.config.set_dtype_policy(policy or "float32")
    rows = int(draw.rng.integers(7, 20))
    made = random_trained_model(draw, rows, policy)
    kinds = [kind for kind in CALLBACKS if draw.chance(0.12)]
    validated = draw.pick(("none", "none", "split", "data", "weighted"))
    settings = random_settings(
        draw, made, rows, scheduled="ReduceLROnPlateau" not in kinds, counted=validated == "none"
    )
    optimizer = settings.arguments["optimizer"]
    if not getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False):
        kinds = [kind for kind in kinds if kind != "SwapEMAWeights"]
    fit = random_fit(draw, made, settings, rows, validated)
    if "EarlyStopping" in kinds or "ReduceLROnPlateau" in kinds:
        fit["epochs"] = draw.pick((3, 5, 7))
    callbacks = [(kind, random_callback(draw, kind, settings, validated != "none")) for kind in kinds]
    # Which a LossScaleOptimizer doesn't tell its inner one, and a MultiOptimizer hasn't got.
    several = isinstance(optimizer, (keras.optimizers.LossScaleOptimizer, keras.optimizers.MultiOptimizer))
    excluded = ["bias"] if draw.chance(0.1) and not several and not policy else []
    here, ending = draw.chance(0.4) or bool(excluded), draw.pick((".keras", ".h5"))
    case = Case(made, settings, fit, callbacks, excluded, here, ending, HALF_TOLERANCE if policy in HALF else TOLERANCE)
    if draw.chance(0.15) and "validation_split" not in fit:
        case.batches = "PyDataset"
        if fit.get("steps_per_epoch") and "class_weight" not in fit and draw.chance(0.5):
            case.batches = "generator"
    if draw.chance(0.15):
        case.before, case.rated = draw.pick((1, 2, 5)), not several and not scheduled(optimizer)
    return case


def scheduled(optimizer: Any) -> bool:
    """Whether the optimizer's rate is a schedule, which no number may replace."""
    rate = getattr(optimizer, "_learning_rate", None)
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)


# Arguments of fit.


def structured(draw: Draw, made: Made, by_name: dict[str, Any]) -> Any:
    """Labels or weights as the outputs are nested."""
    if made.structure == "one":
        return next(iter(by_name.values()))
    if made.structure == "nested":
        return made.nested(by_name)
    return by_name if made.structure == "dict" or draw.chance(0.3) else list(by_name.values())


def random_weights(draw: Draw, made: Made, rows: int) -> Any:
    """Sample weights: one array, or one for each output, by row or by step."""

    def weights(head: Any) -> Array:
        shape = (rows,)
        if head is not None and head.stepwise:
            shape = (rows, head.shape[0])
        found = draw.rng.uniform(0.0, 2.0, shape).astype("float32")
        if draw.chance(0.3):
            found *= draw.rng.random(shape) > 0.4
        return found[:, None] if found.ndim == 1 and draw.chance(0.2) else found

    stepwise = any(head.stepwise for head in made.heads)
    if made.structure == "one":
        return weights(made.heads[0])
    if draw.chance(0.4) and not stepwise:
        return weights(None)
    by_name = {head.name: weights(head) for head in made.heads}
    if made.structure == "nested":
        return made.nested(by_name)
    return by_name if made.structure == "dict" or draw.chance(0.4) else list(by_name.values())


def random_fit(draw: Draw, made: Made, settings: Settings, rows: int, validated: str) -> dict[str, Any]:
    """Data and the other arguments of `fit`."""
    arrays = made.inputs
    names = [tensor.name for tensor in made.model.inputs]
    x: Any = arrays[0] if len(arrays) == 1 else draw.pick((arrays, dict(zip(names, arrays, strict=True))))
    y = structured(draw, made, settings.labels)
    # Keras on torch scales weights in place where there is a mask, and what comes after sees the scaled ones.
    masked = settings.masks or any(head.masked for head in made.heads)
    weighable = not masked or (len(made.heads) == 1 and not settings.arguments.get("weighted_metrics"))
    weights = random_weights(draw, made, rows) if draw.chance(0.35) and weighable else None
    given: dict[str, Any] = {"x": x, "y": y, "epochs": draw.pick((1, 2, 3)), "shuffle": False, "verbose": 0}
    given["batch_size"] = draw.pick((3, 4, 5, rows))
    if draw.chance(0.1):
        given.update(shuffle=True, batch_size=rows)
    if weights is not None:
        given["sample_weight"] = weights
    elif made.structure == "one" and weighable and draw.chance(0.15) and not made.heads[0].stepwise:
        given["class_weight"] = {0: 0.5, 1: 2.0, **({2: 1.5} if draw.chance(0.5) else {})}
    if validated == "split":
        given["validation_split"] = draw.pick((0.2, 0.35))
    elif validated != "none":
        half = rows // 2
        part = tuple(keras.tree.map_structure(lambda a: a[half:], part) for part in (x, y))
        more = random_weights(draw, made, rows) if validated == "weighted" and weighable else None
        given["validation_data"] = part if more is None else (*part, keras.tree.map_structure(lambda a: a[half:], more))
    if validated != "none":
        if draw.chance(0.2):
            given["validation_batch_size"] = 2
        if draw.chance(0.1):
            given["validation_freq"] = draw.pick((2, [1, 3]))
        if draw.chance(0.1) and validated != "split":
            given["validation_steps"] = 1
    if draw.chance(0.1) and not given["shuffle"]:
        given["steps_per_epoch"] = 2
    if draw.chance(0.1):
        given["initial_epoch"] = 1
    return given


# Callbacks.

CALLBACKS = (
    "EarlyStopping", "ReduceLROnPlateau", "ModelCheckpoint", "TerminateOnNaN", "CSVLogger", "BackupAndRestore",
    "SwapEMAWeights",
)  # fmt: skip


def random_callback(draw: Draw, kind: str, settings: Settings, validated: bool) -> dict[str, Any]:
    """Options of a callback; paths are names of files."""
    measured = settings.arguments.get("metrics")
    accuracy = ["accuracy"] if isinstance(measured, (list, tuple)) and "accuracy" in measured else []
    monitor = draw.pick(["loss", *accuracy])
    monitor = f"val_{monitor}" if validated and draw.chance(0.5) else monitor
    shared = {"monitor": monitor, "mode": draw.pick(("auto", "min", "max"))}
    if kind == "EarlyStopping":
        return {
            **shared,
            "patience": draw.pick((0, 1, 2)),
            "min_delta": draw.pick((0.0, 0.01)),
            "baseline": draw.pick((None, 0.5, 2.0)),
            "start_from_epoch": draw.pick((0, 0, 1, 2)),
            "restore_best_weights": draw.chance(0.6),
        }
    if kind == "ReduceLROnPlateau":
        return {
            **shared,
            "factor": 0.5,
            "patience": draw.pick((0, 1)),
            "min_delta": 0.05,
            "cooldown": draw.pick((0, 1)),
            "min_lr": draw.pick((0.0, 0.004)),
        }
    if kind == "ModelCheckpoint":
        only = draw.chance(0.5)
        name = "kept.weights.h5" if only else "kept.keras"
        best = {"save_best_only": draw.chance(0.7), "initial_value_threshold": draw.pick((None, None, 0.9))}
        frequency = {"save_freq": draw.pick((2, 3))} if draw.chance(0.2) else {}
        name = f"{'{epoch:02d}-' if draw.chance(0.3) else ''}{name}"
        return {**shared, "filepath": name, "save_weights_only": only, **best, **frequency}
    if kind == "SwapEMAWeights":
        return {"swap_on_epoch": draw.chance(0.5)}
    return {"CSVLogger": {"filename": "log.csv"}, "BackupAndRestore": {"backup_dir": "backup"}}.get(kind, {})


def in_folder(options: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Options whose paths lie in `folder`."""
    names = ("filepath", "filename", "backup_dir")
    return {name: str(folder / value) if name in names else value for name, value in options.items()}


def written(folder: Path) -> Numbers:
    """Numbers in the files that callbacks wrote."""
    found: Numbers = {}
    if (folder / "log.csv").exists():
        with (folder / "log.csv").open() as file:
            lines = list(csv.reader(file))
        found["log.csv names"] = lines[0]
        numbers = [
            [np.nan if cell in ("NA", "") or "[" in cell else float(cell) for cell in line] for line in lines[1:]
        ]
        found["log.csv"] = np.array(numbers)
    found["files"] = sorted(path.name for path in folder.iterdir() if "kept" in path.name)
    return found


# Both sides.


def serialised(value: Any) -> Any:
    """Arguments of `compile` without objects of Keras: those as the configs that it makes of them."""
    if isinstance(value, dict):
        return {key: serialised(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [serialised(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return keras.saving.serialize_keras_object(value)


def numbers_of(model: Any, history: Any, case: Case) -> Numbers:
    """All that a run left behind, by name."""
    found: Numbers = {"log names": list(history.history), "epochs": list(history.epoch)}
    for name, values in history.history.items():
        found[f"log {name}"] = np.array([np.asarray(value, "float64") for value in values])
    for place, weight in enumerate(model.get_weights()):
        found[f"weight {place} {model.weights[place].name}"] = weight
    for place, output in enumerate(keras.tree.flatten(model.predict(case.fit["x"], verbose=0))):
        found[f"prediction {place}"] = output
    for place, variable in enumerate(model.optimizer.variables):
        found[f"optimizer {place}"] = np.asarray(variable.numpy(), "float64")
    arguments = {name: case.fit.get(name) for name in ("x", "y", "sample_weight", "batch_size")}
    for name, value in model.evaluate(**arguments, verbose=0, return_dict=True).items():
        found[f"evaluated {name}"] = np.asarray(value, "float64")
    return found


def trained_by_keras(case: Case, folder: Path) -> Numbers:
    model = case.made.model
    callbacks = [getattr(keras.callbacks, kind)(**in_folder(options, folder)) for kind, options in case.callbacks]
    before = stepped(model, case)
    history = model.fit(**as_given(case), callbacks=callbacks)
    return {**before, **numbers_of(model, history, case), **written(folder)}


def trained_here(model: Any, case: Case, folder: Path) -> Numbers:
    callbacks = [
        callback({"class_name": kind, "config": in_folder(options, folder)}) for kind, options in case.callbacks
    ]
    before = stepped(model, case)
    history = model.fit(**as_given(case), callbacks=callbacks)
    return {**before, **numbers_of(model, history, case), **written(folder)}


def saved_by_keras(model: Any, path: Path) -> None:
    """Saves; gives the model back what Keras takes out of its compile settings to write an H5 file."""
    settings = model._compile_config.config
    before = dict(settings)
    model.save(path)
    settings.update(before)


def compiled_by_keras(seed: int) -> Case:
    case = random_case(seed)
    case.made.model.compile(**case.settings.arguments)
    if case.excluded:
        case.made.model.optimizer.exclude_from_weight_decay(var_names=case.excluded)
    return case


# Comparison.


def difference(got: Any, want: Any) -> float:
    """How far apart: absolute for small, relative for large numbers; infinite for another shape or other words."""
    if isinstance(want, list):
        return 0.0 if got == want else np.inf
    got, want = np.asarray(got, "float64"), np.asarray(want, "float64")
    if got.shape != want.shape:
        return np.inf
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        apart = np.abs(got - want) / (1.0 + np.abs(want))
    apart = np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))
    return float(apart.max(initial=0.0))


def differences(got: Numbers, want: Numbers, tolerance: float) -> dict[str, float]:
    """What differs by more than `tolerance`, and by how much."""
    names = dict.fromkeys((*want, *got))
    apart = {n: difference(got[n], want[n]) if n in got and n in want else np.inf for n in names}
    return {name: value for name, value in apart.items() if value > tolerance}


def finite(found: Numbers) -> bool:
    """Whether losses and weights are numbers."""
    return all(np.isfinite(found[name]).all() for name in found if name == "log loss" or name.startswith("weight"))


def nudged(case: Case, weights: list[Array], rng: np.random.Generator) -> list[Array]:
    """Weights moved by a few units in the last place of the type that layers compute in."""
    amount = 3e-7 if case.tolerance == TOLERANCE else 2e-3
    return [w * (1 + amount * rng.standard_normal(w.shape)).astype(w.dtype) for w in weights]


def moved(seed: int, folder: Path, want: Numbers) -> dict[str, float]:
    """How far each number moves where the first weights are moved by a few units in the last place."""
    most: dict[str, float] = {}
    for turn in range(3):
        case = compiled_by_keras(seed)
        rng = np.random.default_rng(turn)
        case.made.model.set_weights(nudged(case, case.made.model.get_weights(), rng))
        place = folder / f"moved{turn}"
        place.mkdir()
        found = trained_by_keras(case, place)
        for name, value in want.items():
            most[name] = max(most.get(name, 0.0), difference(found[name], value) if name in found else np.inf)
    return most


def explained(wrong: dict[str, float], most: dict[str, float]) -> bool:
    """Whether rounding alone moves numbers as far as these differ."""
    spread = max(most.values(), default=0.0)
    return all(
        value <= 20 * most.get(name, 0.0) or (value <= spread and value != np.inf) for name, value in wrong.items()
    )


def shown(wrong: dict[str, float], got: Numbers, want: Numbers) -> str:
    lines = []
    for name, value in list(wrong.items())[:6]:
        own, their = (str(np.asarray(side.get(name, "missing")).ravel()[:12].tolist()) for side in (got, want))
        lines.append(f"  {name}: {value:.2g} apart; here {own}, Keras {their}")
    return "\n".join(lines)


def describe(case: Case) -> str:
    options = {name: value for name, value in case.fit.items() if name not in ("x", "y")}
    options = keras.tree.map_structure(lambda v: f"<{v.dtype}{v.shape}>" if isinstance(v, np.ndarray) else v, options)
    optimizer = case.made.model.optimizer
    config = {k: v for k, v in optimizer.get_config().items() if v not in (None, False)} if optimizer else None
    arguments = {k: v for k, v in case.settings.arguments.items() if k != "optimizer"}
    labels = {k: v.dtype.name + str(v.shape) for k, v in case.settings.labels.items()}
    return (
        f"  heads {[(h.name, h.kind, h.shape, h.masked) for h in case.made.heads]} {case.made.structure}\n"
        f"  {type(optimizer).__name__} {config}\n  {serialised(arguments)}\n"
        f"  labels {labels} fit {options}\n  {case.batches} before={case.before} {case.callbacks}"
        f" here={case.compile_here} {case.ending} {case.excluded}"
    )


def check(seed: int, folder: Path) -> str:
    """Trains the model of a seed on both sides; returns how the comparison ended.

    Raises AssertionError if the sides differ, Skipped if Keras can't run the case.
    """
    try:
        case = compiled_by_keras(seed)
    except NotImplementedError as refused:
        # torch has no orthogonal matrices of bfloat16.
        raise Skipped(f"the model: {refused}") from refused
    path = folder / f"model{case.ending}"
    for side in ("theirs", "ours"):
        (folder / side).mkdir()
    # Now: Keras changes the rate of an optimizer object.
    arguments = serialised(case.settings.arguments)
    try:
        saved_by_keras(case.made.model, path)
        want = trained_by_keras(case, folder / "theirs")
    except Exception as refused:
        raise Skipped(f"{type(refused).__name__}: {str(refused).strip().splitlines()[-1][:150]}") from refused
    try:
        ours = layergraph.load_model(path)
        if case.compile_here:
            ours.compile(**arguments)
        if case.excluded:
            ours.optimizer.build(ours.trainable_weights)
            ours.optimizer.exclude_from_weight_decay(var_names=case.excluded)
        got = trained_here(ours, case, folder / "ours")
    except Exception as wrong:
        raise AssertionError(f"{describe(case)}\n{traceback.format_exc(limit=-3)}") from wrong
    wrong = differences(got, want, case.tolerance)
    if wrong:
        if not finite(want) and finite(got):
            # Its cosine similarity and its orthogonal regularizer have no gradient at zero.
            return "no number in Keras"
        if explained(wrong, moved(seed, folder, want)):
            return "rounding"
        raise AssertionError(f"{describe(case)}\n{shown(wrong, got, want)}")
    return continued(case, ours, folder) if not case.excluded else "same"


def continued(case: Case, ours: Any, folder: Path) -> str:
    """Goes on: both sides in memory, here with Keras's file, and Keras with the file of here."""
    model = case.made.model
    case.callbacks = []
    case.fit.pop("initial_epoch", None)
    ours.save(folder / "ours.keras")
    model.save(folder / "theirs.keras")
    names = ["theirs.keras", "theirs.h5", "ours.keras", "memory"]
    try:
        saved_by_keras(model, folder / "theirs.h5")
    except ValueError:
        # Adafactor's variables have the same name twice.
        names.remove("theirs.h5")
    try:
        want = trained_by_keras(case, folder / "theirs")
    except Exception as refused:
        raise Skipped(f"a second time: {type(refused).__name__}") from refused
    want = {name: value for name, value in want.items() if not name.startswith("files")}
    ends = []
    for name in names:
        try:
            if name.startswith("ours"):
                case.made.model = keras.models.load_model(folder / name)
                got = trained_by_keras(case, folder / "theirs")
            else:
                going = ours if name == "memory" else layergraph.load_model(folder / name)
                got = trained_here(going, case, folder / "ours")
        except Exception as wrong:
            raise AssertionError(f"{describe(case)}\n  {name}: {traceback.format_exc(limit=-3)}") from wrong
        wrong = differences({n: v for n, v in got.items() if n in want}, want, case.tolerance)
        loaded = partial(keras.models.load_model, folder / "theirs.keras")
        lost = not finite(want) and finite(got)
        if wrong and not lost and not explained(wrong, moved_on(case, loaded, folder, want)):
            ends.append(f"  {name} went on otherwise\n{shown(wrong, got, want)}")
    if ends:
        raise AssertionError("\n".join([describe(case), *ends]))
    return refrozen(case, folder)


def refrozen(case: Case, folder: Path) -> str:
    """Freezes and unfreezes some layers of Keras's file on both sides, compiles anew, and trains once more."""
    if "theirs.keras" not in {path.name for path in folder.iterdir()}:
        return "same"
    ours = layergraph.load_model(folder / "theirs.keras")
    arguments = {**case.settings.arguments, "optimizer": keras.optimizers.SGD(0.02, momentum=0.9)}

    def loaded() -> Any:
        model = keras.models.load_model(folder / "theirs.keras", compile=False)
        for place, layer in enumerate(model.layers):
            if place % 3 != 1:
                layer.trainable = place % 3 == 0
        model.compile(**{**arguments, "optimizer": keras.optimizers.SGD(0.02, momentum=0.9)})
        return model

    try:
        case.made.model = model = loaded()
        for place, layer in enumerate(model.layers):
            if place % 3 != 1:
                next(own for own in ours.layers if own.name == layer.name).trainable = place % 3 == 0
        ours.compile(**serialised(arguments))
        want = trained_by_keras(case, folder / "theirs")
    except Exception as refused:
        raise Skipped(f"frozen: {type(refused).__name__}") from refused
    try:
        got = trained_here(ours, case, folder / "ours")
    except Exception as wrong:
        raise AssertionError(f"{describe(case)}\n  frozen: {traceback.format_exc(limit=-3)}") from wrong
    names = set(want) & set(got)
    wrong = differences({n: got[n] for n in names}, {n: want[n] for n in names}, case.tolerance)
    if wrong and finite(want) and not explained(wrong, moved_on(case, loaded, folder, want)):
        raise AssertionError(f"{describe(case)}\n  frozen otherwise\n{shown(wrong, got, want)}")
    return "same"


def moved_on(case: Case, loaded: Callable[[], Any], folder: Path, want: Numbers) -> dict[str, float]:
    """As `moved`, for what goes on from a file."""
    most: dict[str, float] = {}
    kept = case.made.model
    for turn in range(3):
        rng = np.random.default_rng(turn)
        case.made.model = model = loaded()
        model.set_weights(nudged(case, model.get_weights(), rng))
        found = trained_by_keras(case, folder / "theirs")
        for name, value in want.items():
            most[name] = max(most.get(name, 0.0), difference(found[name], value) if name in found else np.inf)
    case.made.model = kept
    return most


if __name__ == "__main__":
    sys.exit(run(Fuzzer("training", "runs", check)))
