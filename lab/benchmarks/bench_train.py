"""Training speed: examples a second of layergraph, a plain torch loop and Keras, side by side in one run.

Each measurement is a process of its own; the columns take turns, round by round, and medians are shown with their ratio
to layergraph. With `--clock cpu` the seconds are those of the processor, for machines that others use as well.

    python lab/benchmarks/bench_train.py                                # layergraph, plain torch, Keras on torch
    python lab/benchmarks/bench_train.py --tensorflow ~/tf/bin/python   # also Keras 3 on TensorFlow
    python lab/benchmarks/bench_train.py --tf-keras ~/tf215/bin/python  # also tf.keras 2.15
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Arrays = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Row:
    """A model and its data; `build` takes a Keras-like namespace, `plain` gives a torch module with its losses.

    epochs   epochs in a call of fit
    own      arguments of layergraph's fit alone
    lacking  columns that can't do this
    """

    batch: int
    steps: int
    optimizer: str
    data: Callable[[int], tuple[Arrays, Arrays]]
    build: Callable[[Any], Any]
    loss: Any
    plain: Callable[[], tuple[Any, Callable[[Any, Any], Any]]]
    epochs: int = 1
    own: Mapping[str, Any] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()


# Models.


def _mlp(k: Any) -> Any:
    x = k.Input((784,))
    h = k.layers.Dense(64, activation="relu")(x)
    h = k.layers.Dense(64, activation="relu")(h)
    return k.Model(x, k.layers.Dense(10, activation="softmax")(h))


def _plain_mlp() -> Any:
    import torch
    from torch import nn

    module = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return module, lambda outputs, labels: torch.nn.functional.cross_entropy(outputs, labels[0])


def _mlp_data(rows: int) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, 784)).astype("float32")], [rng.integers(0, 10, rows)]


def _headline(k: Any) -> Any:
    main = k.Input((100,), dtype="int32", name="main_input")
    h = k.layers.LSTM(32)(k.layers.Embedding(10000, 512)(main))
    aux_output = k.layers.Dense(1, activation="sigmoid", name="aux_output")(h)
    aux = k.Input((5,), name="aux_input")
    h = k.layers.concatenate([h, aux])
    for _ in range(3):
        h = k.layers.Dense(64, activation="relu")(h)
    return k.Model([main, aux], [k.layers.Dense(1, activation="sigmoid", name="main_output")(h), aux_output])


def _plain_headline() -> Any:
    import torch
    from torch import nn

    class Headline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10000, 512)
            self.lstm = nn.LSTM(512, 32, batch_first=True)
            self.aux = nn.Linear(32, 1)
            self.hidden = nn.Sequential(
                nn.Linear(37, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()
            )
            self.main = nn.Linear(64, 1)

        def forward(self, words: Any, other: Any) -> Any:
            last = self.lstm(self.embedding(words))[1][0][0]
            return self.main(self.hidden(torch.cat([last, other], -1))), self.aux(last)

    entropy = nn.BCEWithLogitsLoss()
    return Headline(), lambda outputs, labels: entropy(outputs[0], labels[0]) + 0.2 * entropy(outputs[1], labels[1])


def _headline_data(rows: int) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (rows, 1)).astype("float32")
    words = rng.integers(1, 10000, (rows, 100)).astype("int32")
    return [words, rng.standard_normal((rows, 5)).astype("float32")], [labels, labels]


def _conv(k: Any) -> Any:
    x = k.Input((28, 28, 1))
    h = k.layers.MaxPooling2D()(k.layers.Conv2D(32, 3, activation="relu")(x))
    h = k.layers.MaxPooling2D()(k.layers.Conv2D(64, 3, activation="relu")(h))
    return k.Model(x, k.layers.Dense(10, activation="softmax")(k.layers.Flatten()(h)))


def _plain_conv() -> Any:
    import torch
    from torch import nn

    module = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(1600, 10),
    )  # fmt: skip
    return module, lambda outputs, labels: torch.nn.functional.cross_entropy(outputs, labels[0])


def _conv_data(rows: int) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, 28, 28, 1)).astype("float32")], [rng.integers(0, 10, rows)]


def _tweets(k: Any) -> Any:
    a, b = k.Input((280, 256), name="a"), k.Input((280, 256), name="b")
    shared = k.layers.LSTM(64)
    h = k.layers.concatenate([shared(a), shared(b)])
    return k.Model([a, b], k.layers.Dense(1, activation="sigmoid")(h))


def _plain_tweets() -> Any:
    import torch
    from torch import nn

    class Tweets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(256, 64, batch_first=True)
            self.out = nn.Linear(128, 1)

        def forward(self, a: Any, b: Any) -> Any:
            return self.out(torch.cat([self.lstm(a)[1][0][0], self.lstm(b)[1][0][0]], -1))

    entropy = nn.BCEWithLogitsLoss()
    return Tweets(), lambda outputs, labels: entropy(outputs, labels[0])


def _tweets_data(rows: int) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((rows, 280, 256)).astype("float32") for _ in range(2)]
    return inputs, [rng.integers(0, 2, (rows, 1)).astype("float32")]


def _wide(k: Any) -> Any:
    x = k.Input((1024,))
    h = x
    for _ in range(3):
        h = k.layers.Dense(1024, activation="relu")(h)
    return k.Model(x, k.layers.Dense(10, activation="softmax")(h))


def _wide_lora(k: Any) -> Any:
    model = _wide(k)
    for layer in model.layers[1:-1]:
        layer.enable_lora(8)
    return model


def _plain_wide() -> Any:
    import torch
    from torch import nn

    hidden = [part for _ in range(3) for part in (nn.Linear(1024, 1024), nn.ReLU())]
    module = nn.Sequential(*hidden, nn.Linear(1024, 10))
    return module, lambda outputs, labels: torch.nn.functional.cross_entropy(outputs, labels[0])


def _plain_wide_lora() -> Any:
    """As by PEFT: the frozen product plus that of the two small matrices."""
    import torch
    from torch import nn

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = nn.Linear(1024, 1024)
            self.whole.weight.requires_grad_(False)
            self.a = nn.Linear(1024, 8, bias=False)
            self.b = nn.Linear(8, 1024, bias=False)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.whole(x) + self.b(self.a(x)))

    module = nn.Sequential(Adapted(), Adapted(), Adapted(), nn.Linear(1024, 10))
    return module, lambda outputs, labels: torch.nn.functional.cross_entropy(outputs, labels[0])


def _wide_data(rows: int) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, 1024)).astype("float32")], [rng.integers(0, 10, rows)]


def _frozen(k: Any) -> Any:
    """Six frozen convolutions and a head."""
    x = k.Input((48, 48, 3))
    h = x
    for filters in (32, 32, 64, 64, 128, 128):
        h = k.layers.Conv2D(filters, 3, strides=2 if filters == 64 else 1, padding="same", use_bias=False)(h)
        h = k.layers.ReLU()(k.layers.BatchNormalization()(h))
    trunk = k.Model(x, k.layers.GlobalAveragePooling2D()(h))
    trunk.trainable = False
    images = k.Input((48, 48, 3))
    return k.Model(images, k.layers.Dense(10, activation="softmax")(trunk(images)))


def _plain_frozen() -> Any:
    import torch
    from torch import nn

    parts: list[Any] = []
    channels = 3
    for filters in (32, 32, 64, 64, 128, 128):
        stride = 2 if filters == 64 else 1
        parts += [nn.Conv2d(channels, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters).eval(), nn.ReLU()]
        channels = filters
    trunk = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten()).requires_grad_(False)
    return nn.Sequential(trunk, nn.Linear(128, 10)), lambda outputs, labels: torch.nn.functional.cross_entropy(
        outputs, labels[0]
    )


def _frozen_data(rows: int) -> tuple[Arrays, Arrays]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, 48, 48, 3)).astype("float32")], [rng.integers(0, 10, rows)]


_SPARSE, _BINARY = "sparse_categorical_crossentropy", "binary_crossentropy"
ROWS = {
    "mlp sgd 32": Row(32, 600, "sgd", _mlp_data, _mlp, _SPARSE, _plain_mlp),
    "mlp 32": Row(32, 600, "adam", _mlp_data, _mlp, _SPARSE, _plain_mlp),
    "mlp 256": Row(256, 150, "adam", _mlp_data, _mlp, _SPARSE, _plain_mlp),
    "headline 32": Row(32, 10, "rmsprop", _headline_data, _headline, [_BINARY, _BINARY], _plain_headline),
    "conv 64": Row(64, 40, "adam", _conv_data, _conv, _SPARSE, _plain_conv),
    "tweets 32": Row(32, 4, "rmsprop", _tweets_data, _tweets, _BINARY, _plain_tweets),
    "wide 64": Row(64, 20, "adam", _wide_data, _wide, _SPARSE, _plain_wide),
    "wide lora 64": Row(64, 20, "adam", _wide_data, _wide_lora, _SPARSE, _plain_wide_lora, lacking=("tf.keras",)),
    "frozen 32": Row(32, 3, "adam", _frozen_data, _frozen, _SPARSE, _plain_frozen, epochs=5),
    "frozen kept 32": Row(
        32, 3, "adam", _frozen_data, _frozen, _SPARSE, _plain_frozen, epochs=5, own={"cache_frozen": True}
    ),
}


# Columns.


def _like_keras(k: Any, row: Row, inputs: Arrays, labels: Arrays, **own: Any) -> Callable[[], None]:
    model = row.build(k)
    weights = {"loss_weights": [1.0, 0.2]} if isinstance(row.loss, list) else {}
    model.compile(optimizer=row.optimizer, loss=row.loss, **weights)
    x, y = (given if len(given) > 1 else given[0] for given in (inputs, labels))

    def epoch() -> None:
        model.fit(x, y, batch_size=row.batch, epochs=row.epochs, verbose=0, **own)

    return epoch


def _layergraph(row: Row, inputs: Arrays, labels: Arrays) -> Callable[[], None]:
    import layergraph

    return _like_keras(layergraph, row, inputs, labels, **row.own)


def _keras(row: Row, inputs: Arrays, labels: Arrays) -> Callable[[], None]:
    try:
        import keras
    except ImportError:
        from tensorflow import keras
    return _like_keras(keras, row, inputs, labels)


def _plain(row: Row, inputs: Arrays, labels: Arrays) -> Callable[[], None]:
    """A loop as written by hand: shuffled rows, outputs before the last activation, torch's own optimizers."""
    import torch

    module, loss_of = row.plain()
    optimizers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
    optimizer = optimizers[row.optimizer]([one for one in module.parameters() if one.requires_grad], lr=0.001)
    x = [torch.from_numpy(a.transpose(0, 3, 1, 2).copy() if a.ndim == 4 else a) for a in inputs]
    y = [torch.from_numpy(a) for a in labels]

    def epoch() -> None:
        for _ in range(row.epochs):
            one_epoch()

    def one_epoch() -> None:
        order = torch.randperm(len(x[0]))
        total = torch.zeros(())
        for start in range(0, len(order), row.batch):
            rows = order[start : start + row.batch]
            loss = loss_of(module(*(a[rows] for a in x)), [a[rows] for a in y])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        float(total)

    return epoch


COLUMNS: dict[str, Callable[[Row, Arrays, Arrays], Callable[[], None]]] = {
    "layergraph": _layergraph,
    "plain torch": _plain,
    "keras-torch": _keras,
    "keras-tensorflow": _keras,
    "tf.keras": _keras,
}
#: Columns that need a Python with TensorFlow.
TENSORFLOW = ("keras-tensorflow", "tf.keras")


def measure(column: str, row: Row, threads: int, clock: str) -> float:
    """Examples a second of the best of three calls of fit, after one to warm up."""
    if column not in TENSORFLOW:
        import torch

        torch.set_num_threads(threads)
        # As a run's process does it, before torch starts threads: `fit` alone reaches its own thread.
        torch.set_flush_denormal(column == "layergraph")
    inputs, labels = row.data(row.batch * row.steps)
    epoch = COLUMNS[column](row, inputs, labels)
    seconds = time.process_time if clock == "cpu" else time.perf_counter
    epoch()
    spent = []
    for _ in range(3):
        began = seconds()
        epoch()
        spent.append(seconds() - began)
    return row.batch * row.steps * row.epochs / min(spent)


def _in_a_process(python: str, column: str, row: str, options: argparse.Namespace) -> float:
    backend = "tensorflow" if column in TENSORFLOW else "torch"
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        environment[name] = str(options.threads)
    command = [python, __file__, "--measure", column, row, "--threads", str(options.threads), "--clock", options.clock]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{column}, {row}: {done.stderr[-2000:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument(
        "--columns",
        nargs="+",
        choices=[column for column in COLUMNS if column not in TENSORFLOW],
        default=list(COLUMNS)[:3],
    )
    parser.add_argument("--tensorflow", help="a Python with Keras 3 and TensorFlow, for the column keras-tensorflow")
    parser.add_argument("--tf-keras", help="a Python with TensorFlow 2.15, for the column tf.keras")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--measure", nargs=2, metavar=("COLUMN", "ROW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        column, row = options.measure
        print(json.dumps(measure(column, ROWS[row], options.threads, options.clock)))
        return
    pythons = {"keras-tensorflow": options.tensorflow, "tf.keras": options.tf_keras}
    columns = [*options.columns, *(column for column, python in pythons.items() if python)]
    print(f"examples per {options.clock} second, {options.threads} threads, median of {options.rounds} rounds")
    print(f"| model, batch | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for row in options.rows:
        found: dict[str, list[float]] = {column: [] for column in columns}
        for _ in range(options.rounds):
            for column in (each for each in columns if each not in ROWS[row].lacking):
                found[column].append(_in_a_process(pythons.get(column) or sys.executable, column, row, options))
        medians = {column: statistics.median(values) if values else math.nan for column, values in found.items()}
        own = medians.get("layergraph")
        cells = [
            "-"
            if math.isnan(value)
            else f"{value:,.0f}" + (f" ({own / value:.2f}x)" if own and column != "layergraph" else "")
            for column, value in medians.items()
        ]
        print(f"| {row} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
