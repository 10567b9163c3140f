"""What a run of scoring does in its process: its files are those of the command, however it was interrupted."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layergraph import layers
from layerserve import Aborted, Scorer
from layerserve.scoring.files import job, readers
from layerserve.scoring.files.fragments import find
from layerserve.scoring.files.locations import Location
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    UnknownDatasetError,
    UnknownOutputError,
)
from layerserve_server.extensions.scoring import program
from layerserve_server.extensions.scoring.kind import SCORING, ScoringOptions
from layerserve_server.extensions.scoring.program import execute
from layerserve_server.extensions.scoring.scoring_job import scoring_job
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import Finished, Resumed, Started, Step
from layerserve_server.training.process.reporting import Position
from layerserve_server.training.request import DataArray, Role, RunRequest
from layerserve_server.training.run_folder.control import ControlFile
from layerserve_server.training.run_folder.result import Interruption, RunResult
from PIL import Image
from scoring_workers import InThisProcess

ID = "ab" * 32


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "m" / "3" / "model.keras"
    path.parent.mkdir(parents=True)
    x = layergraph.Input((3,), name="x")
    layergraph.Model(x, layers.Dense(2, name="y")(x)).save(path)
    return path


@pytest.fixture(name="niceness")
def _niceness() -> list[int]:
    """What the program asks to have added to its niceness."""
    return []


@pytest.fixture(name="run")
def _run(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, niceness: list[int]
) -> Callable[..., RunRequest]:
    """Makes a run's folder, `tmp_path/runs/run`, with a dataset of 40 rows in four parts. Returns the request."""
    monkeypatch.setattr(readers, "ROWS", 1)
    monkeypatch.setattr(job, "Workers", InThisProcess)
    # It would lower the priority of the tests, and of their whole session.
    monkeypatch.setattr(program, "lower_priority", niceness.append)

    def make(table: Any = None, suffix: str = "parquet", **options: Any) -> RunRequest:
        folder, content = tmp_path / "runs" / "run", tmp_path / "datasets" / ID
        (folder / "base").mkdir(parents=True)
        os.link(model, folder / "base" / "model.keras")
        content.mkdir(parents=True)
        if suffix == "parquet":
            pq.write_table(rows() if table is None else table, content / "content.parquet", row_group_size=10)
        else:
            np.savez(content / "content.npz", **table)
        data = DataFile(str(tmp_path / "datasets"), f"{ID}/content.{suffix}", ID)
        request = RunRequest(
            model="m",
            version=3,
            data=(DataArray(Role.X, "", "", (40,), data, mapped=True),),
            kind=SCORING,
            kind_options=asdict(ScoringOptions(**{"to": "s.parquet", "columns": ["key"], "rows": 40} | options)),
            nice=7,
            publish=False,
        )
        request.write(folder)
        return RunRequest.read(folder)

    return make


def rows() -> Any:
    x = np.random.default_rng(0).random((40, 3), "float32")
    return pa.table({"key": np.arange(40), "x": pa.FixedSizeListArray.from_arrays(x.ravel(), 3)})


def done(folder: Path, request: RunRequest) -> RunResult:
    return execute(folder / "runs" / "run", request, Position())


def of_command(model: Path, folder: Path, to: str) -> Path:
    scorer = Scorer(model, columns=["key"])
    source = find(Location(str(folder / "datasets" / ID / "content.parquet")))
    job.Job(scorer, source, Location(str(folder / to))).run(workers=1)
    return folder / to


@pytest.mark.parametrize("to", ["s.parquet", "s.csv", "s.npz"])
def test_the_result_is_that_of_the_command(run: Any, model: Path, tmp_path: Path, to: str, niceness: list[int]) -> None:
    table = rows().append_column("text", pa.array(["a"] * 40))
    if to == "s.csv":
        table = table.select(["key", "x"])
    request = run(table, to=to)
    result = done(tmp_path, request)
    assert (result.kind, result.logs, niceness) == ("scored", {"rows": 40, "rejected": 0}, [7])
    files = tmp_path / "runs" / "run" / "files"
    assert sorted(path.name for path in files.iterdir()) == [to, f"{to}.manifest.json"]
    assert (files / to).read_bytes() == of_command(model, tmp_path, to).read_bytes()
    made = json.loads((files / f"{to}.manifest.json").read_text())
    assert (made["job"]["model"], made["job"]["version"], made["complete"]) == ("m", 3, True)


def test_a_run_goes_on_where_it_was_and_each_row_is_there_once(
    run: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request, folder = run(to="s"), tmp_path / "runs" / "run"
    expected = of_command(model, tmp_path, "s")

    class Ends(InThisProcess):
        """The process is killed in its third part, or a call pauses the run."""

        def score(self, parts: Any) -> Iterator[Any]:
            for count, message in enumerate(super().score(parts)):
                if count == 3:
                    monkeypatch.setattr(job, "Workers", InThisProcess)
                    if not killed:
                        ControlFile(folder).set(pause=True)
                    else:
                        raise KeyboardInterrupt
                yield message

    for killed in (True, False):
        monkeypatch.setattr(job, "Workers", Ends)
        position = Position()
        with pytest.raises(KeyboardInterrupt if killed else Interruption):
            execute(folder, request, position)
        assert position.step == (10 if killed else 30)
        assert not (folder / "files").exists()
    ControlFile(folder).set(pause=False)
    done(tmp_path, request)
    assert {path.name: path.read_bytes() for path in (folder / "files" / "s").glob("part-*")} == {
        path.name: path.read_bytes() for path in expected.glob("part-*")
    }
    log = EventLog.read(folder)
    assert [event.what.step for event in log.all() if isinstance(event.what, Resumed)] == [10, 30]
    assert [event.what.rows for event in log.all() if isinstance(event.what, Started)] == [40] * 3
    assert log.newest(Step) == Step(1, 1, 40, 40, {})
    assert log.newest(Finished) is None
    # Killed before it could say that it was done.
    assert done(tmp_path, request).logs["rows"] == 40


def test_bad_rows_end_the_run_or_are_written_aside(run: Any, tmp_path: Path) -> None:
    table = rows().set_column(1, "x", pa.array([[1, 2, 3], None] * 20, pa.list_(pa.float32(), 3)))
    request = run(table)
    place = f"^dataset {ID[:12]}, row group 0, row 2, column 'x': got no value"
    with pytest.raises(InvalidTensorError, match=place):
        done(tmp_path, request)
    (tmp_path / "runs" / "run").rename(tmp_path / "runs" / "other")
    (tmp_path / "datasets" / ID).rename(tmp_path / "datasets" / "other")
    result = done(tmp_path, run(table, skip_bad_rows=True))
    assert result.logs == {"rows": 20, "rejected": 20}
    rejected = pq.read_table(tmp_path / "runs" / "run" / "files" / "s.parquet.rejected")
    assert rejected["row"].to_pylist()[:2] == [2, 4]


@pytest.mark.parametrize(
    ("table", "options", "error", "text"),
    [
        ({"key": [1], "z": [1]}, {}, MissingInputError, "got the columns 'key', 'z', but model 'm' needs 'x': 'x' is"),
        ({"key": [1], "x": [["a"] * 3]}, {}, InvalidTensorError, "column 'x': got type list<.*>, expected numbers"),
        ({"x": [[1.0, 2, 3]]}, {}, InvalidRequestError, "'key' to keep is missing"),
        (None, {"outputs": ["nope"]}, UnknownOutputError, "nope"),
        (None, {"to": "s.png"}, InvalidRequestError, "OUT: got 's.png', expected a folder, or a .parquet"),
    ],
)
def test_what_does_not_fit_is_told_before_the_run(
    run: Any, tmp_path: Path, table: Any, options: Any, error: type[Exception], text: str
) -> None:
    request = run(None if table is None else pa.table(table), **options)
    with pytest.raises(error, match=text) as raised:
        scoring_job(tmp_path / "runs" / "run", request)
    assert str(tmp_path) not in str(raised.value)


def test_a_dataset_that_is_gone_is_named(run: Any, tmp_path: Path) -> None:
    request = run()
    (tmp_path / "datasets" / ID / "content.parquet").unlink()
    with pytest.raises(UnknownDatasetError, match=f"dataset '{ID}' has been deleted"):
        done(tmp_path, request)


def test_arrays_of_a_dataset_are_found_by_the_names_that_training_uses(run: Any, tmp_path: Path) -> None:
    request = run({"x/x": np.ones((40, 3)), "y/y": np.arange(40)}, "npz", columns=["y/y"])
    assert done(tmp_path, request).logs["rows"] == 40


def test_a_run_whose_workers_die_can_be_resumed(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dies(InThisProcess):
        def score(self, parts: Any) -> Any:
            raise Aborted("3 workers died of it")

    monkeypatch.setattr(job, "Workers", Dies)
    result = done(tmp_path, run())
    assert (result.kind, result.reason, result.resumable) == ("failed", "3 workers died of it", True)


def test_images_are_decoded_as_the_settings_of_the_model_say(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("layerserve_server.extensions.images")
    pixels = layergraph.Input((4, 4, 3), name="pixels")
    array = np.random.default_rng(0).integers(0, 256, (4, 4, 3), "uint8")
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    table = pa.table({"key": [1], "pixels": [content.getvalue()]})
    settings = 'inputs.pixels = { decode = "image", range = [0.0, 1.0] }\ndefault_version = 1'
    request = run(table, settings=settings, rows=1)
    base = tmp_path / "runs" / "run" / "base" / "model.keras"
    base.unlink()
    layergraph.Model(pixels, layers.GlobalAveragePooling2D(name="y")(pixels)).save(base)
    done(tmp_path, request)
    made = pq.read_table(tmp_path / "runs" / "run" / "files" / "s.parquet")["y"].to_pylist()
    np.testing.assert_allclose(made, [(array / 255).mean((0, 1))], rtol=1e-4)
