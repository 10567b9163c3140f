"""Text and tables through a real server: models of stock Keras are trained from columns of CSV and Parquet files.

The models and their losses are of tf.keras 2.15 and Keras 3.15: `lab/proofs/text_training_oracle.py train`, with the
data of `tests/fixtures/text_training`.
"""

from __future__ import annotations

import csv
import datetime
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from layerserve import Client, InvalidArgument, InvalidTensor, LayerserveError, PermissionDenied, ServerFile
from layerserve.cli import main
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from pyarrow import parquet

FIXTURES = Path(__file__).parents[1] / "fixtures" / "text_training"
MODELS = (("tf215", "classifier"), ("tf215", "tabular"), ("keras3", "tabular"))
#: As the oracle trains.
OPTIONS: dict[str, Any] = {"batch_size": 8, "epochs": 3, "shuffle": False, "seed": 0}
DATA = {name: json.loads((FIXTURES / f"{name}.json").read_text()) for name in ("reviews", "rides")}
#: The columns of a file whose names aren't those of the model.
RENAMED = {name: f"{name}, as given" for name in DATA["rides"]}


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, Client, Path]]:
    folder = tmp_path_factory.mktemp("files")
    for maker, name in MODELS:
        target = folder / "models" / f"{name}_{maker}" / "1"
        target.mkdir(parents=True)
        shutil.copy(FIXTURES / maker / f"{name}.keras", target / "model.keras")
    data = folder / "data"
    data.mkdir()
    for name, columns in DATA.items():
        _write_csv(data / f"{name}.csv", columns)
    _write_csv(data / "renamed.csv", {RENAMED[name]: values for name, values in DATA["rides"].items()})
    dates = [datetime.date.fromisoformat(day) for day in DATA["rides"]["day"]]
    cities = pyarrow.array(DATA["rides"]["city"]).dictionary_encode()
    parquet.write_table(pyarrow.table({**DATA["rides"], "day": dates, "city": cities}), data / "rides.parquet")
    np.save(data / "stars.npy", np.array(DATA["reviews"]["stars"], np.int64))
    whole = (data / "stars.npy").read_bytes()
    (data / "short.npy").write_bytes(whole[:-8])
    settings = Settings(
        path=folder / "models", host="127.0.0.1", grpc_port=0, metrics_port=-1, drain_seconds=0, training_nice=0,
        poll_seconds=0.1, data_root=data,
    )  # fmt: skip
    with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as client:
        yield app, client, data


def _write_csv(path: Path, columns: dict[str, list[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _check(run: Any, maker: str, name: str) -> None:
    run.wait()
    told = json.loads((FIXTURES / maker / "trained.json").read_text())[f"{name}.keras"]
    for log in (log for log in told if log.endswith("loss")):
        np.testing.assert_allclose(run.history[log], told[log], rtol=1e-4, err_msg=log)


def test_text_is_trained_from_a_column_as_in_keras(server: tuple[App, Client, Path]) -> None:
    _, client, _ = server
    reviews = ServerFile("reviews.csv")
    _check(client.train("classifier_tf215", reviews, reviews, **OPTIONS), "tf215", "classifier")


def test_categories_are_trained_from_columns_of_other_names_as_in_keras(server: tuple[App, Client, Path]) -> None:
    _, client, _ = server
    rides = ServerFile("renamed.csv", columns=RENAMED)
    _check(client.train("tabular_tf215", rides, rides, **OPTIONS), "tf215", "tabular")


def test_dates_of_a_file_and_arrays_are_trained_together_as_in_keras(server: tuple[App, Client, Path]) -> None:
    _, client, _ = server
    x = {name: ServerFile("rides.parquet", columns=[name]) for name in ("age", "city", "day", "distance")}
    y = {"price": ServerFile("rides.csv", "price"), "tip": np.array(DATA["rides"]["tip"])}
    seats = {"seat": np.array(DATA["rides"]["seat"])}
    _check(client.train("tabular_keras3", x | seats, y, **OPTIONS), "keras3", "tabular")


def test_the_command_line_sends_the_columns_of_its_own_file(
    server: tuple[App, Client, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    app, _, data = server
    told = json.loads((FIXTURES / "keras3" / "trained.json").read_text())["tabular.keras"]["loss"]
    line = "train tabular_keras3 --version 1 --epochs 3 --batch-size 8 --no-shuffle --publish no --json"
    address = ["--address", f"127.0.0.1:{app.grpc_port}"]
    assert main([*line.split(), "--data", str(data / "rides.parquet"), *address]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    np.testing.assert_allclose([one["logs"]["loss"] for one in events if one["event"] == "epoch"], told, rtol=1e-4)


@pytest.mark.parametrize(
    ("x", "y", "error", "text"),
    [
        ("text", "short.npy", InvalidTensor, "the file is shorter than its array: got 472 bytes, expected 480"),
        ("text", "stars.npy:k", InvalidArgument, "a .npy file has one array, expected no key"),
        ("nope", "stars.npy", InvalidArgument, "unknown column 'nope'; the file has 'text', 'stars'"),
        ("text", "reviews.csv:text", InvalidTensor, "y 'stars': got dtype string, expected numbers, such as"),
        ("text", "../stars.npy", PermissionDenied, "expected a path below the data root"),
        ("text", "rides.csv:tip,city", InvalidTensor, "got columns of numbers and of text ('city'), expected one kind"),
    ],
)
def test_what_can_not_be_read_is_refused_when_the_run_begins(
    server: tuple[App, Client, Path], x: str, y: str, error: type[LayerserveError], text: str
) -> None:
    _, client, _ = server
    before = len(client.runs())
    path, _, key = y.partition(":")
    with pytest.raises(error) as caught:
        client.train("classifier_tf215", ServerFile("reviews.csv", x), ServerFile(path, key))
    assert text in str(caught.value)
    assert len(client.runs()) == before


def test_a_wrong_field_is_named_by_row_and_column_unless_it_is_filled(server: tuple[App, Client, Path]) -> None:
    _, client, data = server
    ages = [*DATA["rides"]["age"][:41], "", *DATA["rides"]["age"][42:]]
    _write_csv(data / "gap.csv", {**DATA["rides"], "age": ages})
    gap = ServerFile("gap.csv")
    with pytest.raises(InvalidArgument, match=r"'gap\.csv', column 'age', row 42: got an empty field"):
        client.train("tabular_tf215", gap, gap)
    filled = ServerFile("gap.csv", fill=DATA["rides"]["age"][41])
    whole = ServerFile("rides.csv")
    logs = [client.evaluate("tabular_tf215", file, file, version=1) for file in (filled, whole)]
    assert logs[0] == logs[1]


def test_columns_that_can_not_be_meant_are_refused_by_the_client(server: tuple[App, Client, Path]) -> None:
    with pytest.raises(InvalidArgument, match="got key and columns, expected one of the two"):
        ServerFile("rides.csv", "age", columns=["age"])
    _, client, _ = server
    with pytest.raises(InvalidArgument, match="got columns by name for one array"):
        client.train("classifier_tf215", {"text": ServerFile("r.csv", columns={"text": "text"})}, np.zeros(3))
