"""Trains models of text and categories that stock Keras made through a server, text in: `make -C lab text-training`.

    make -C lab text-training PEERS="--peer 'Keras 2.15=/opt/tf215/bin/python' --peer ..."

Each peer, a command that starts an interpreter with TensorFlow, makes a text classifier and a tabular model
(text_training_oracle.py), saves them in every form that it has, and trains them. The same files are trained by a server
of its own process: from CSV and Parquet files below its data root, by the names of the columns, and from arrays. The
losses must be those of the peer, and what is published must open in the peer and predict what the server predicts.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from layerserve import Client, LayerserveError, ServerFile
from pyarrow import parquet

TOLERANCE = 1e-4
ORACLE = Path(__file__).with_name("text_training_oracle.py")
#: As the oracle trains.
OPTIONS: dict[str, Any] = {"batch_size": 8, "epochs": 3, "shuffle": False, "seed": 0}
WORDS = [
    "good",
    "bad",
    "film",
    "fun",
    "café",
    "dull",
    "long",
    "über",
    '"quoted"',
    "a,b",
    "line\nbreak",
    "Good!",
    "BAD.",
]
CITIES = ["berlin", "oslo", "łódź", "rome", ""]
ROWS = 60


def tables() -> dict[str, dict[str, list[Any]]]:
    """The data of both models: texts of any length, categories in and out of the vocabulary, dates."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(ROWS)]
    distances = random.gamma(2, 3, ROWS).round(3)
    return {
        "reviews": {"text": texts, "stars": random.integers(0, 3, ROWS).tolist()},
        "rides": {
            "age": random.integers(10, 90, ROWS).astype(float).tolist(),
            "city": random.choice(CITIES, ROWS).tolist(),
            "day": [f"2026-11-{day:02}" for day in random.integers(1, 29, ROWS)],
            "distance": distances.tolist(),
            "seat": random.choice([1, 2, 3, 4], ROWS).tolist(),
            "price": (distances * 0.3 + random.normal(size=ROWS) * 0.1).round(3).tolist(),
            "tip": random.integers(0, 2, ROWS).tolist(),
        },
    }


def write_data(folder: Path) -> None:
    """Writes the data as JSON, for the oracle, and as CSV and Parquet, for the server. Days are dates in Parquet."""
    for name, columns in tables().items():
        (folder / f"{name}.json").write_text(json.dumps(columns))
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        table = pyarrow.table(columns)
        if "day" in columns:
            days = table["day"].cast(pyarrow.date32())
            table = table.set_column(table.schema.get_field_index("day"), "day", days)
            cities = table["city"].dictionary_encode()
            table = table.set_column(table.schema.get_field_index("city"), "city", cities)
        parquet.write_table(table, folder / f"{name}.parquet", row_group_size=17)


@contextmanager
def server(models: Path, data: Path) -> Iterator[Client]:
    command = [sys.executable, "-m", "layerserve_server", str(models), "--data-root", str(data), "--grpc-port", "0"]
    command += ["--metrics-port", "-1", "--tuning-seconds", "0", "--training-nice", "0", "--poll-seconds", "0.1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"gRPC on \S+:(\d+)", line):
                threading.Thread(target=process.stderr.read, daemon=True).start()
                with Client(f"127.0.0.1:{found[1]}", timeout=300) as client:
                    yield client
                return
        raise SystemExit("the server doesn't start")
    finally:
        process.terminate()
        process.wait()


def sources(kind: str, suffix: str) -> tuple[Any, Any]:
    """x and y for `train`: columns of a file by name, or arrays."""
    if suffix == "arrays":
        columns = {
            name: np.array(values) for name, values in tables()["reviews" if kind == "classifier" else "rides"].items()
        }
        if kind == "classifier":
            return columns["text"], columns["stars"]
        targets = {name: columns.pop(name) for name in ("price", "tip")}
        return columns, targets
    if kind == "classifier":
        return ServerFile(f"reviews{suffix}"), ServerFile(f"reviews{suffix}")
    file = ServerFile(f"rides{suffix}")
    return file, file


def worst(history: dict[str, list[float]], expected: dict[str, list[float]]) -> float:
    """The largest difference of the losses, relative to the loss. Metrics have names that differ between Kerases."""
    losses = [name for name in expected if name.endswith("loss")]
    return max(
        float(np.max(np.abs(np.array(history[name]) - expected[name]) / np.abs(expected[name]))) for name in losses
    )


def oracle(command: list[str], *arguments: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*command, str(ORACLE), *arguments], env=environment, check=True, stderr=subprocess.DEVNULL)


def compare(name: str, command: list[str], data: Path, folder: Path) -> bool:
    """Compares with one peer, and prints its rows. Returns whether all is as it should be."""
    oracle(command, "train", str(data), str(folder))
    trained = json.loads((folder / "trained.json").read_text())
    forms = {path: told for path, told in trained.items() if path != "version"}
    repository = folder / "repository"
    for path, told in forms.items():
        if isinstance(told, str):
            print(f"| {name} | {path} | its Keras can't: {told[:90]!r} |  |  |", flush=True)
            continue
        target = repository / path.replace(".", "_") / "1"
        target.mkdir(parents=True)
        suffix = Path(path).suffix
        if suffix == ".saved_model":
            shutil.copytree(folder / path, target, dirs_exist_ok=True)
        else:
            shutil.copy(folder / path, target / f"model{suffix}")
    rows: dict[str, tuple[list[str], np.ndarray[Any, Any] | None]] = {}
    good = True
    with server(repository, data) as client:
        for path, told in forms.items():
            if not isinstance(told, str):
                rows[path] = train(client, path, told, repository, folder)
    oracle(command, "open", str(data), str(folder))
    opened = json.loads((folder / "opened.json").read_text())
    for path, (cells, predicted) in rows.items():
        cell, same = published_cell(path, opened, predicted, folder)
        trained_alike = all(re.fullmatch(r"[\d.e+-]+", found) and float(found) < TOLERANCE for found in cells)
        if not trained_alike and not any(folder.glob(f"{path}.own*.npz")):
            cells, cell, same, trained_alike = ["refused"] * len(cells), "its Keras can't open its own file", True, True
        good &= same and trained_alike
        print(f"| {name} | {path} | {' | '.join(cells)} | {cell} |", flush=True)
    return good


def published_cell(
    path: str, opened: dict[str, str], predicted: np.ndarray[Any, Any] | None, folder: Path
) -> tuple[str, bool]:
    """Compares what the peer predicts with the published file. Returns a cell of the table, and whether it is right."""
    published = next((told for told in opened if told.startswith(path + ".published")), None)
    if published is None or predicted is None:
        return "nothing published", False
    if opened[published]:
        return f"not opened: {opened[published][:200]!r}", False
    theirs = predictions(folder / f"{published}.npz")
    found = float(np.max(np.abs(theirs - predicted)))
    if found < TOLERANCE:
        return f"{found:.1e}", True
    # Some releases lose a mask or a mean when they open a file. What they saved themselves must lose the same.
    owns = [predictions(own) for own in folder.glob(f"{path}.own*.npz")]
    nearest = min((float(np.max(np.abs(theirs - own))) for own in owns), default=np.inf)
    return f"{found:.1e}; from its own file {nearest:.1e}", nearest < TOLERANCE


def predictions(path: Path) -> np.ndarray[Any, Any]:
    with np.load(path) as found:
        return np.concatenate([found[key].ravel() for key in found.files])


def train(
    client: Client, path: str, told: dict[str, list[float]], repository: Path, folder: Path
) -> tuple[list[str], np.ndarray[Any, Any] | None]:
    """Trains a model from each source. Returns the differences of the losses, and what the last result predicts."""
    model, kind = path.replace(".", "_"), path.partition(".")[0]
    cells = []
    version = None
    for source in (".csv", ".parquet", "arrays"):
        try:
            run = client.train(model, *sources(kind, source), version=1, **OPTIONS)
            run.wait()
        except LayerserveError as error:
            cells.append(str(error)[:300])
            continue
        version = run.version
        cells.append(f"{worst(run.history, told):.1e}")
    if version is None:
        return cells, None
    (file,) = (found for found in (repository / model / str(version)).iterdir() if found.stem == "model")
    shutil.copy(file, folder / f"{path}.published{file.suffix}")
    x, _ = sources(kind, "arrays")
    x = {"text": x[:, None]} if kind == "classifier" else {key: value[:, None] for key, value in x.items()}
    outputs = client.predict_named(model, x, version=version)
    return cells, np.concatenate([np.asarray(outputs[key]).ravel() for key in outputs])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND", help="a Python with TensorFlow")
    arguments = parser.parse_args()
    if not arguments.peer:
        parser.error("no peer is given")
    print("| Keras | file | losses from CSV | from Parquet | from arrays | published, opened by the same Keras |")
    print("|---|---|---|---|---|---|")
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        data.mkdir()
        write_data(data)
        for number, peer in enumerate(arguments.peer):
            name, _, command = peer.partition("=")
            folder = Path(temporary) / str(number)
            folder.mkdir()
            good &= compare(name, shlex.split(command), data, folder)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
