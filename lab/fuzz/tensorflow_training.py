"""Trains on random models that tf.keras 2.15 half-trained.

    make -C lab fuzz FUZZ=tensorflow_training PEER=PYTHON COUNT=200

PEER is a Python with TensorFlow 2.15. Under it, the step `make` trains each model for an epoch or so, saves it with its
optimizer's state, and trains it on. The step `check` loads the file here and trains it on with the same rows: logs and
weights must be equal, also where Keras 3 would compute otherwise. Left out are the names and order of logs, which are
Keras 3's, and Nadam in graphs, where 2.15 counts wrongly.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from runner import Fuzzer, Skipped, run

TOLERANCE = 1e-4
ROWS, STEPS, WORDS = 12, 5, 9


class Maker:
    """One case, with the tf.keras that runs it."""

    def __init__(self, seed: int) -> None:
        import tensorflow as tf

        self.tf, self.keras = tf, tf.keras
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.keras.backend.clear_session()
        self.keras.utils.set_random_seed(seed)
        self.embedded = False
        self.legacy = self.chance(0.4)
        self.batch: int | None = None
        self.inputs: list[Any] = []
        self.data: list[Any] = []
        self.count = 0

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def entry(self, shape: tuple[int, ...], dtype: str = "float32") -> Any:
        tensor = self.keras.Input(batch_shape=(self.batch, *shape), dtype=dtype, name=self.name("input"))
        full = (ROWS, *shape)
        if dtype == "int32":
            ends = self.numbers.integers(1, shape[0] + 1, (ROWS, 1))
            words = self.numbers.integers(1, WORDS, full)
            self.data.append(np.where(np.arange(shape[0]) < ends, words, 0).astype("int32"))
        else:
            self.data.append(self.numbers.standard_normal(full).astype("float32"))
        self.inputs.append(tensor)
        return tensor

    # Models.

    def extras(self) -> dict[str, Any]:
        """What is penalised and projected."""
        found: dict[str, Any] = {}
        if self.chance(0.2):
            found["kernel_regularizer"] = self.random.choice(("l1", "l2", self.keras.regularizers.L1L2(0.001, 0.02)))
        if self.chance(0.15):
            found["activity_regularizer"] = self.keras.regularizers.L2(0.01)
        if self.chance(0.15):
            limits = (self.keras.constraints.MaxNorm(0.8), "unit_norm", "non_neg")
            found["kernel_constraint"] = self.random.choice(limits)
        return found

    def dense(self, units: int) -> Any:
        activation = self.random.choice(("tanh", "sigmoid", "softplus", "elu", "linear"))
        layer = self.keras.layers.Dense(units, activation, name=self.name("dense"), **self.extras())
        layer.trainable = self.chance(0.85)
        return layer

    def vector(self) -> Any:
        layers = self.keras.layers
        x = self.entry((4,))
        for _ in range(self.random.choice((1, 2))):
            x = self.dense(self.random.choice((3, 5)))(x)
            if self.chance(0.3):
                x = layers.BatchNormalization(momentum=0.9, name=self.name("norm"), trainable=self.chance(0.8))(x)
        if self.chance(0.3):
            entry = self.keras.Input((x.shape[-1],))
            inner = self.keras.Model(entry, layers.Dense(3, "tanh", name=self.name("deep"))(entry), name=self.name("m"))
            inner.trainable = self.chance(0.7)
            x = inner(x)
        return x

    def twins(self) -> Any:
        """What one model makes of two inputs, side by side or as the difference."""
        layers = self.keras.layers
        entry = self.keras.Input((4,))
        made = self.dense(3)(entry)
        if self.chance(0.5):
            made = layers.BatchNormalization(momentum=0.8, name=self.name("norm"))(made)
        inner = self.keras.Model(entry, made, name=self.name("m"))
        both = [inner(self.entry((4,))), inner(self.entry((4,)))]
        return layers.Subtract()(both) if self.chance(0.5) else layers.Concatenate()(both)

    def of_steps(self, width: int) -> Any:
        """A layer or model for each step. With a batch size that is known tf.keras goes step by step, losing losses."""
        layers = self.keras.layers
        if self.batch is not None:
            return layers.Dense(3, "tanh", name=self.name("each"))
        if self.chance(0.6):
            return self.dense(3)
        entry = self.keras.Input((width,))
        made = self.dense(3)(entry)
        if self.chance(0.5):
            made = layers.BatchNormalization(momentum=0.8, name=self.name("norm"))(made)
        return self.keras.Model(entry, made, name=self.name("m"))

    def sequence(self, steps: bool) -> Any:
        layers = self.keras.layers
        if self.chance(0.6):
            self.embedded = True
            mask = self.chance(0.5)
            words = self.entry((STEPS,), "int32")
            x = self.embedded_words(words, mask)
        else:
            x = self.entry((STEPS, 3))
        if self.chance(0.2):
            x = layers.TimeDistributed(self.of_steps(x.shape[-1]), name=self.name("steps"))(x)
        elif self.chance(0.2):
            x = layers.MultiHeadAttention(2, 2, name=self.name("attention"))(x, x)
        elif self.chance(0.2):
            x = layers.LayerNormalization(name=self.name("layer_norm"))(x)
        kind = self.random.choice(("LSTM", "GRU", "SimpleRNN"))
        stateful = self.batch is not None and self.chance(0.8)
        options = {"return_sequences": steps, "stateful": stateful, "name": self.name(kind.lower()), **self.extras()}
        layer = getattr(layers, kind)(3, **options)
        if self.chance(0.3) and not stateful:
            layer = layers.Bidirectional(layer, name=self.name("both"))
        return layer(x)

    def embedded_words(self, words: Any, mask: bool) -> Any:
        """Words looked up in a table, which may be looked up twice, penalised or projected."""
        layers, options = self.keras.layers, {}
        if self.chance(0.1):
            options["embeddings_regularizer"] = "l2"
        if self.chance(0.1) and not self.legacy:
            options["embeddings_constraint"] = "unit_norm"
        table = layers.Embedding(WORDS, 3, mask_zero=mask, name=self.name("embedding"), **options)
        if self.chance(0.2) and self.batch is None:
            return layers.Add(name=self.name("sum"))([table(words), table(self.entry((STEPS,), "int32"))])
        return table(words)

    def image(self) -> Any:
        layers = self.keras.layers
        x = layers.Conv2D(3, 3, activation="tanh", name=self.name("conv"), **self.extras())(self.entry((6, 6, 2)))
        if self.chance(0.5):
            x = layers.DepthwiseConv2D(2, name=self.name("depthwise"))(x)
        if self.chance(0.4):
            options = {"axis": self.random.choice((-1, 1)), "momentum": 0.7, "name": self.name("norm")}
            x = layers.BatchNormalization(trainable=self.chance(0.8), **options)(x)
        return layers.Flatten()(x) if self.chance(0.5) else layers.GlobalAveragePooling2D()(x)

    def activated(self, x: Any, units: int, usual: str, name: str) -> tuple[Any, bool]:
        """An output by a sigmoid or softmax, from which 2.15 may find the logits, and whether it is one of logits."""
        layers = self.keras.layers
        activation = self.random.choice((usual, usual, usual, "sigmoid", "softmax", None))
        way = self.random.choice(("inside", "inside", "inside", "layer", "linear", "lost", "model"))
        if activation is None or way == "inside":
            return layers.Dense(units, activation, name=name)(x), activation is None
        if way == "layer":
            made = layers.Dense(units, name=self.name("head"))(x)
            if activation == "softmax" and self.chance(0.5):
                return layers.Softmax(name=name)(made), False
            return layers.Activation(activation, name=name)(made), False
        if way == "model":
            entry = self.keras.Input(x.shape[1:])
            return self.keras.Model(entry, layers.Dense(units, activation)(entry), name=name)(x), False
        made = layers.Dense(units, activation, name=self.name("head"))(x)
        if way == "linear":
            return layers.Activation("linear", name=name)(made), False
        return layers.Reshape(made.shape[1:], name=name)(made), False

    def loss(self, kind: str, from_logits: bool) -> Any:
        """A crossentropy of a kind of labels."""
        losses = self.keras.losses
        options = {"from_logits": from_logits or self.chance(0.15)}
        options["reduction"] = self.random.choice(("sum_over_batch_size", "sum_over_batch_size", self.reduction))
        if kind == "sparse":
            return losses.SparseCategoricalCrossentropy(**options)
        smoothing = {"label_smoothing": self.random.choice((0.0, 0.0, 0.1))}
        if kind == "binary":
            makers = (losses.BinaryCrossentropy, losses.BinaryCrossentropy, losses.BinaryFocalCrossentropy)
        else:
            makers = (
                losses.CategoricalCrossentropy,
                losses.CategoricalCrossentropy,
                losses.CategoricalFocalCrossentropy,
            )
        return self.random.choice(makers)(**options, **smoothing)

    def model(self) -> tuple[Any, list[Any], list[str], list[Any]]:
        """A model, losses, metrics and labels of its outputs."""
        layers = self.keras.layers
        if self.chance(0.1):
            self.batch = ROWS // 3
        steps = self.chance(0.2)
        if steps:
            x = self.sequence(True)
        else:
            makers = (self.vector, self.image, lambda: self.sequence(False), self.twins)
            x = self.random.choice(makers)()
            if self.chance(0.4):
                x = layers.Concatenate()([x, self.random.choice(makers)()])
        outputs, losses, metrics, labels = [], [], [], []
        self.reduction = self.random.choice(("sum", "none"))
        for place in range(self.random.choice((1, 1, 2))):
            kind = self.random.choice(("real", "binary", "classes", "sparse"))
            units = 3 if kind in ("classes", "sparse") else 1
            usual = {"real": None, "binary": "sigmoid"}.get(kind, "softmax")
            crossed = usual is not None and self.chance(0.6)
            if crossed:
                made, logits = self.activated(x, units, usual, f"out_{place}")
            else:
                made, logits = layers.Dense(units, usual, name=f"out_{place}")(x), False
            outputs.append(made)
            shape = (ROWS, STEPS) if steps else (ROWS,)
            classes = self.numbers.integers(0, max(2, units), shape)
            if kind == "real":
                losses.append(self.random.choice(("mse", "mae", "huber", "log_cosh")))
                metrics.append(self.random.choice(("mse", "mae")))
                labels.append(self.numbers.standard_normal((*shape, 1)).astype("float32"))
            elif kind == "binary":
                losses.append(self.random.choice(("binary_crossentropy", "mse", "hinge", "binary_focal_crossentropy")))
                names = ("accuracy", "AUC", "Precision", "binary_crossentropy", "ce")
                metrics.append("accuracy" if logits else self.random.choice(names))
                labels.append(classes[..., None].astype("float32"))
            elif kind == "classes":
                losses.append(self.random.choice(("categorical_crossentropy", "kl_divergence", "categorical_hinge")))
                names = ("accuracy", "categorical_crossentropy", "crossentropy")
                metrics.append("accuracy" if logits else self.random.choice(names))
                labels.append(np.eye(3, dtype="float32")[classes])
            else:
                losses.append("sparse_categorical_crossentropy")
                metrics.append(self.random.choice(("accuracy", "accuracy", "ce")) if not logits else "accuracy")
                labels.append(classes.astype("int32")[..., None])
            if crossed:
                losses[-1] = self.loss(kind, logits)
        given = self.inputs if len(self.inputs) > 1 else self.inputs[0]
        return self.keras.Model(given, outputs if len(outputs) > 1 else outputs[0]), losses, metrics, labels

    def listed(self, metrics: list[Any]) -> list[Any]:
        """Metrics by output, or a flat list, which 2.15 applies to all outputs."""
        if len(metrics) == 1 or self.chance(0.2):
            return metrics if len(metrics) == 1 else ["mse", "mae"]
        return [[metric] for metric in metrics]

    def described(self, loss: Any) -> str:
        return loss if isinstance(loss, str) else f"{type(loss).__name__} {loss.get_config()}"

    # Optimizers.

    def rate(self) -> Any:
        rate = round(self.random.uniform(0.005, 0.05), 4)
        schedules = self.keras.optimizers.schedules
        makers = (
            lambda: schedules.ExponentialDecay(rate, 3, 0.8, staircase=self.chance(0.5)),
            lambda: schedules.CosineDecay(rate, 10, alpha=0.1),
            lambda: schedules.InverseTimeDecay(rate, 2, 0.5),
            lambda: schedules.PolynomialDecay(rate, 6, 0.001, power=2.0),
            lambda: schedules.PiecewiseConstantDecay([2, 5], [rate, rate / 2, rate / 4]),
            lambda: schedules.CosineDecayRestarts(rate, 3, t_mul=2.0, m_mul=0.8),
        )
        return self.random.choice(makers)() if self.chance(0.3) else rate

    def optimizer(self) -> tuple[Any, bool]:
        """An optimizer, and whether it is a legacy one."""
        legacy = self.legacy
        optimizers = self.keras.optimizers.legacy if legacy else self.keras.optimizers
        kinds = ["SGD", "SGD", "Adam", "Adam", "RMSprop", "RMSprop", "Adamax", "Adagrad", "Adadelta", "Ftrl"]
        kind = self.random.choice([*kinds, "Nadam", *([] if legacy else ["AdamW", "Lion", "Adafactor"])])
        options: dict[str, Any] = {
            "SGD": {"momentum": self.random.choice((0.0, 0.9)), "nesterov": self.chance(0.5)},
            "RMSprop": {"momentum": self.random.choice((0.0, 0.5)), "centered": self.chance(0.5), "epsilon": 1e-4},
            "Adam": {"amsgrad": self.chance(0.3), "epsilon": self.random.choice((1e-7, 1e-3))},
            "Adamax": {"epsilon": self.random.choice((1e-7, 1e-3))},
            "Nadam": {"epsilon": self.random.choice((1e-7, 1e-3))},
            "Ftrl": {"l1_regularization_strength": 0.01, "l2_regularization_strength": 0.1, "beta": 0.1},
            "Lion": {"beta_2": 0.9},
        }.get(kind, {})
        if self.chance(0.4 if self.embedded else 0.2):
            options[self.random.choice(("clipnorm", "clipvalue", "global_clipnorm"))] = 0.1
        if legacy and kind != "Nadam" and self.chance(0.3):
            options["decay"] = 0.1
        if not legacy and self.chance(0.3):
            options["weight_decay"] = 0.02
        if not legacy and self.chance(0.25):
            options |= {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": self.random.choice((None, 3))}
        elif kind == "RMSprop" and not legacy:
            options["ema_overwrite_frequency"] = None
        rate = self.rate() if kind != "Nadam" or not legacy else 0.01
        made = getattr(optimizers, kind)(rate, **options)
        if self.chance(0.1):
            made = self.keras.mixed_precision.LossScaleOptimizer(made, initial_scale=64, dynamic_growth_steps=4)
        return made, legacy


def make(seed: int, folder: Path) -> str:
    """Writes the case of a seed: the file, the rows, and what 2.15 then trains; returns the release of TensorFlow."""
    maker = Maker(seed)
    model, losses, metrics, labels = maker.model()
    optimizer, legacy = maker.optimizer()
    model.compile(
        optimizer,
        loss=losses if len(losses) > 1 else losses[0],
        loss_weights=[1.5, 0.5] if len(losses) > 1 and maker.chance(0.5) else None,
        metrics=maker.listed(metrics),
        # 2.15 numbers metrics that are classes, such as AUC.
        weighted_metrics=[[m] * m.islower() for m in metrics] if len(metrics) > 1 and maker.chance(0.3) else None,
        # Tracing takes longer than all the steps, and in graphs Nadam counts wrongly.
        run_eagerly=True,
    )
    data = maker.data if len(maker.data) > 1 else maker.data[0]
    y = labels if len(labels) > 1 else labels[0]
    fit: dict[str, Any] = {"batch_size": maker.batch or maker.random.choice((4, 5, ROWS)), "shuffle": False}
    weights = None
    if maker.chance(0.25) and maker.batch is None:
        stepwise = all(array.ndim > 2 for array in labels) and maker.chance(0.5)
        weights = maker.numbers.uniform(0.2, 2.0, (ROWS, STEPS) if stepwise else ROWS).astype("float32")
    if maker.chance(0.3) and maker.batch is None:
        fit["validation_split"] = 0.25
    classes = len(losses) == 1 and labels[0].ndim == 2 and labels[0].min() >= 0
    if weights is None and classes and maker.chance(0.15):
        fit["class_weight"] = {0: 0.5, 1: 2.0, 2: 1.5}
    scheduled = "schedules" in str(optimizer.get_config())
    patient = maker.chance(0.15) and not scheduled
    if maker.chance(0.1) and fit["batch_size"] < ROWS / 2 and maker.batch is None:
        fit["steps_per_epoch"] = 2
    # A legacy optimizer's state is in no .keras file.
    ending = "h5" if legacy or maker.chance(0.5) else "keras"
    # An .h5 written before any data was seen settles what "accuracy" means, at times wrongly.
    epochs = maker.random.choice((1, 2) if ending == "h5" else (0, 1, 2))
    try:
        if epochs:
            model.fit(data, y, epochs=epochs, verbose=0, sample_weight=weights, **fit)
    except maker.tf.errors.InvalidArgumentError as refused:
        # Values of a loss without reduction can't be added to a penalty, or to those of another output.
        raise Skipped(refused.message) from None
    except ValueError as refused:
        if "can not be broadcast" not in str(refused):
            raise
        # Weights of rows for metrics of timesteps.
        raise Skipped(str(refused)) from None
    model.save(folder / f"model.{ending}")
    if maker.batch is not None:
        model.reset_states()
    arrays = {f"x{i}": a for i, a in enumerate(maker.data)} | {f"y{i}": a for i, a in enumerate(labels)}
    if weights is not None:
        arrays["w"] = weights
    np.savez(folder / "rows.npz", **arrays)
    called: dict[str, dict[str, Any]] = {}
    if patient:
        called["ReduceLROnPlateau"] = {"monitor": "loss", "factor": 0.5, "patience": 0, "min_delta": 10.0}
    if maker.chance(0.15):
        stop = {"monitor": "loss", "mode": "max", "patience": maker.random.choice((1, 9)), "restore_best_weights": True}
        called["EarlyStopping"] = stop
    callbacks = [getattr(maker.keras.callbacks, name)(**options) for name, options in called.items()]
    fit["epochs"] = 2 if "EarlyStopping" not in called else 3
    try:
        history = model.fit(data, y, verbose=0, sample_weight=weights, callbacks=callbacks, **fit).history
    except maker.tf.errors.InvalidArgumentError as refused:
        raise Skipped(refused.message) from None
    np.savez(folder / "after.npz", *[weight.numpy() for weight in model.trainable_weights])
    np.savez(folder / "others.npz", *[weight.numpy() for weight in model.non_trainable_weights])
    config = json.loads(json.dumps(optimizer.get_config(), default=str))
    about = {"fit": fit, "logs": history, "optimizer": type(optimizer).__name__, "legacy": legacy, "config": config}
    about["callbacks"] = [{"class_name": name, "config": options} for name, options in called.items()]
    history.pop("lr", None)
    about.update(
        losses=[maker.described(loss) for loss in losses],
        metrics=metrics,
        epochs=epochs,
        layers=[type(x).__name__ for x in model.layers],
    )
    (folder / "case.json").write_text(json.dumps(about))
    return f"made by TensorFlow {maker.tf.__version__}"


def difference(got: Any, want: Any) -> float:
    """Absolute for small, relative for large numbers; infinite for another shape."""
    got, want = np.asarray(got, "float64"), np.asarray(want, "float64")
    if got.shape != want.shape:
        return np.inf
    return float(np.max(np.abs(got - want) / (1 + np.abs(want)), initial=0.0))


def check(seed: int, folder: Path) -> None:
    """Raises AssertionError if the case in the folder trains on otherwise than it did under 2.15."""
    import layergraph
    from layergraph.training.callbacks.table import callback

    about = json.loads((folder / "case.json").read_text())
    rows, after = np.load(folder / "rows.npz"), np.load(folder / "after.npz")
    model = layergraph.load_model(next(folder.glob("model.*")))
    x, y = ([rows[name] for name in sorted(rows.files) if name[0] == kind] for kind in "xy")
    weights = rows["w"] if "w" in rows.files else None
    given = (x if len(x) > 1 else x[0], y if len(y) > 1 else y[0])
    if "class_weight" in about["fit"]:
        about["fit"]["class_weight"] = {int(key): value for key, value in about["fit"]["class_weight"].items()}
    callbacks = [callback(config) for config in about.get("callbacks", [])]
    fit = {"verbose": 0, "sample_weight": weights, "callbacks": callbacks, **about["fit"]}
    history = model.fit(*given, **fit).history
    # Keras 3 logs "AUC" as it is spelled, 2.15 as auc.
    history = {name.lower(): values for name, values in history.items()}
    wrong = {
        f"log {n}": d
        for n, v in about["logs"].items()
        if (d := difference(history.get(n, []), v)) > TOLERANCE and np.isfinite(v).all()
    }
    for place, (own, name) in enumerate(zip(model.trainable_weights, after.files, strict=True)):
        if (by := difference(own.numpy(), after[name])) > TOLERANCE:
            wrong[f"weight {place} {own.path}"] = by
    # Their order differs in layers that are partly frozen.
    others = [weight.numpy() for weight in model.non_trainable_weights]
    for array in np.load(folder / "others.npz").values():
        nearest = min((difference(own, array) for own in others), default=np.inf)
        if nearest > TOLERANCE:
            wrong[f"a weight that isn't trained, of shape {array.shape}"] = nearest
    kept = {n: v for n, v in about["config"].items() if v not in (None, False)}
    head = f"{about['optimizer']} legacy={about['legacy']} {about['layers']} {about['losses']} epochs {about['epochs']}"
    apart = ", ".join(f"{name}: {value:.1e}" for name, value in list(wrong.items())[:8])
    assert not wrong, f"{head}\n  {kept}\n  {about['fit']}\n  {apart}"


if __name__ == "__main__":
    sys.exit(run(Fuzzer("tensorflow_training", "runs", check, make, peer="PEER")))
