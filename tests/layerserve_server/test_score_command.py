"""`layerserve score` with models on disk: results, bad input, and jobs that are killed and resumed."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layergraph
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layergraph import layers
from layerserve import Aborted, FailedPrecondition, InvalidArgument, InvalidTensor, MissingInput, Scorer
from layerserve.cli import main
from layerserve.scoring.files import job, readers, workers, writers
from layerserve.scoring.files.fragments import Fragment, find
from layerserve.scoring.files.locations import Location
from layerserve.scoring.files.worker import Done, Progress
from layerserve.scoring.files.writers import writer
from PIL import Image
from scoring_workers import InThisProcess


@pytest.fixture(scope="module", name="models")
def _models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    x, n = layergraph.Input((3,), name="x"), layergraph.Input((1,), name="n", dtype="int32")
    layergraph.Model([x, n], layers.Dense(2, name="y")(layers.Concatenate()([x, layers.Rescaling(1.0)(n)]))).save(
        folder / "numbers.keras"
    )
    pixels = layergraph.Input((4, 4, 3), name="pixels")
    layergraph.Model(pixels, layers.Dense(2, name="y")(layers.Flatten()(pixels))).save(folder / "images.keras")
    return folder


@pytest.fixture(scope="module", name="scorer")
def _scorer(models: Path) -> Scorer:
    return Scorer(models / "numbers.keras", columns=["key"])


@pytest.fixture(name="score")
def _score(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., job.Scored]:
    monkeypatch.setattr(job, "Workers", InThisProcess)

    def score(
        scorer: Scorer, source: Path, to: str = "out", *, resume: bool = False, overwrite: bool = False, **options: Any
    ) -> job.Scored:
        made = job.Job(scorer, find(Location(str(source))), Location(str(tmp_path / to)), **options)
        return made.run(workers=1, resume=resume, overwrite=overwrite)

    return score


def rows(count: int, start: int = 0) -> Any:
    x = np.random.default_rng(start).random((count, 3), "float32")
    keys = pa.array([f"k{at % 5}" for at in range(count)]).dictionary_encode()
    return pa.table(
        {
            "key": keys,
            "x": pa.FixedSizeListArray.from_arrays(x.ravel(), 3),
            "n": np.arange(start, start + count),
            "unused": np.zeros(count),
        }
    )


def bad_rows() -> Any:
    table = rows(8)
    x = table["x"].to_pylist()
    x[1], x[6] = None, [1, None, 2]
    n = [0, 1, 2, 1.5, 4, 5, 6, 7]
    return pa.table({"key": table["key"], "x": pa.array(x, pa.list_(pa.float32(), 3)), "n": pa.array(n)})


def expected(scorer: Scorer, table: Any) -> Any:
    return scorer(table)["y"].to_pylist()


def test_row_groups_of_a_folder_are_scored_in_order(
    scorer: Scorer, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ROWS", 20)
    (tmp_path / "in" / "b").mkdir(parents=True)
    (tmp_path / "in" / "_SUCCESS").write_bytes(b"")
    pq.write_table(rows(45), tmp_path / "in" / "a.parquet", row_group_size=15)
    pq.write_table(rows(5, 45), tmp_path / "in" / "b" / "c.parquet")
    done = score(scorer, tmp_path / "in", batch_size=8)
    assert (done.rows, done.rejected, done.parts) == (50, 0, 3)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["_manifest.json", *(f"part-00000{at}.parquet" for at in range(3))]
    made = pa.concat_tables(pq.read_table(tmp_path / "out" / name) for name in names[1:]).unify_dictionaries()
    given = pa.concat_tables([rows(45), rows(5, 45)])
    assert made["key"].to_pylist() == given["key"].to_pylist()
    np.testing.assert_allclose(made["y"].to_pylist(), expected(scorer, given), rtol=1e-5, atol=1e-6)
    found = pq.read_schema(tmp_path / "out" / names[1]).metadata
    assert found[b"layerserve.digest"].decode() == scorer.digest


def test_bad_rows_are_named_or_written_aside(scorer: Scorer, score: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(bad_rows(), tmp_path / "in" / "a.parquet", row_group_size=4)
    with pytest.raises(InvalidTensor, match=r"^a.parquet, row group 0, row 2, column 'x': got no value \(null\)"):
        score(scorer, tmp_path / "in")
    content = (tmp_path / "in" / "a.parquet").read_bytes()
    (tmp_path / "in" / "cut.parquet").write_bytes(content[:-9])
    with pytest.raises(InvalidArgument, match=r"^cut.parquet: can't be read, it may have been cut off"):
        score(scorer, tmp_path / "in", resume=True)
    done = score(scorer, tmp_path / "in", overwrite=True, on_error="skip")
    assert (done.rows, done.rejected) == (5, 4)
    rejected = pq.read_table(done.rejected_to).to_pylist()
    assert [(one["file"], one["row_group"], one["row"], one["column"]) for one in rejected] == [
        ("a.parquet", 0, 2, "x"),
        ("a.parquet", 0, 4, "n"),
        ("a.parquet", 1, 3, "x"),
        ("cut.parquet", None, 1, ""),
    ]
    assert rejected[1]["values"] == {
        "key": "k3",
        "x": rows(8)["x"].to_pylist()[3],
        "n": 1.5,
    }
    assert "1.5" in rejected[1]["reason"]


def test_a_damaged_row_group_is_named(scorer: Scorer, score: Any, tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(rows(400), path, row_group_size=200, compression="none", use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(1).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(InvalidTensor, match=r"in.parquet, row group 1, row 1: can't be read"):
        score(scorer, path)
    done = score(scorer, path, overwrite=True, on_error="skip")
    assert (done.rows, done.rejected) == (200, 200)


def test_csv_fields_are_read_as_the_inputs_need_them(models: Path, score: Any, tmp_path: Path) -> None:
    scorer = Scorer(models / "numbers.keras", columns=["key"], input_columns={"x": ["a", "b", "c"]})
    lines = ["key,a,b,c,n", '"00,1",1, 2.0,3e0,4', "k,1,2", "k,1,NA,3,4", "k,1,foo,3,4", "k2,1,2,3,4.0"]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    done = score(scorer, tmp_path / "in.csv", "out.csv", on_error="skip")
    assert (done.rows, done.rejected) == (2, 3)
    header, *made = (tmp_path / "out.csv").read_text().splitlines()
    assert header == '"key","y_0","y_1"'
    assert [line.rsplit(",", 2)[0] for line in made] == ['"00,1"', '"k2"']
    rejected = pq.read_table(done.rejected_to).to_pylist()
    assert [(one["row"], one["column"]) for one in rejected] == [(2, ""), (3, "b"), (4, "b")]
    # The parts are joined, and the manifest stays, so that --resume finds nothing left to do.
    assert json.loads((tmp_path / "out.csv.manifest.json").read_text())["complete"]
    assert score(scorer, tmp_path / "in.csv", "out.csv", on_error="skip", resume=True).resumed_parts == 1
    assert not (tmp_path / "out.csv.parts").exists()


def test_npz_in_and_out(scorer: Scorer, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "ROWS", 4)
    x = np.asfortranarray(np.random.default_rng(0).random((10, 3)))
    np.savez_compressed(tmp_path / "in.npz", x=x, n=np.arange(10), key=np.array(list("abcdefghij")), scalar=1)
    assert score(scorer, tmp_path / "in.npz", "out.npz").parts == 3
    made = np.load(tmp_path / "out.npz")
    assert "".join(made["key"]) == "abcdefghij"
    assert str(made["layerserve.model"]) == "numbers"
    np.testing.assert_allclose(made["y"], scorer({"x": x, "n": np.arange(10), "key": x})["y"], rtol=1e-5, atol=1e-6)


def test_images_are_decoded_and_damaged_ones_named(models: Path, score: Any, tmp_path: Path) -> None:
    scorer = Scorer(models / "images.keras", columns=["path"])
    (tmp_path / "in").mkdir()
    array = np.random.default_rng(0).integers(0, 256, (4, 4, 3), "uint8")
    Image.fromarray(array).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "a.png").write_bytes((tmp_path / "in" / "b.png").read_bytes()[:60])
    with pytest.raises(InvalidTensor, match=r"^a.png, row 1, column 'pixels': got a damaged image"):
        score(scorer, tmp_path / "in")
    done = score(scorer, tmp_path / "in", overwrite=True, on_error="skip")
    made = pq.read_table(tmp_path / "out").to_pylist()
    assert ([one["path"] for one in made], done.rejected) == (["b.png"], 1)
    exact = scorer({"path": ["b"], "pixels": array[np.newaxis]})["y"][0]
    np.testing.assert_allclose(made[0]["y"], exact, rtol=1e-5)


def test_images_are_decoded_as_the_settings_of_the_model_say(models: Path, score: Any, tmp_path: Path) -> None:
    pytest.importorskip("layerserve_server.extensions.images")
    (tmp_path / "images.keras").write_bytes((models / "images.keras").read_bytes())
    (tmp_path / "images.toml").write_text('inputs.pixels = { decode = "image", range = [0.0, 1.0] }')
    (tmp_path / "in").mkdir()
    array = np.random.default_rng(0).integers(0, 256, (4, 4, 3), "uint8")
    Image.fromarray(array).save(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "a.png").write_bytes((tmp_path / "in" / "b.png").read_bytes()[:60])
    scorer = Scorer(tmp_path / "images.keras", columns=["path"])
    done = score(scorer, tmp_path / "in", on_error="skip")
    exact = scorer({"path": ["b"], "pixels": array[np.newaxis] / 255})["y"][0]
    np.testing.assert_allclose(pq.read_table(tmp_path / "out")["y"].to_pylist(), [exact], rtol=1e-4, atol=1e-6)
    (rejected,) = pq.read_table(done.rejected_to).to_pylist()
    assert (rejected["file"], rejected["column"]) == ("a.png", "pixels")
    assert rejected["reason"].startswith("got a damaged image")


@pytest.mark.parametrize(
    ("columns", "error", "text"),
    [
        ({"key": ["a"], "n": [1]}, MissingInput, r"in.parquet: got the columns 'key', 'n', but .*--columns x=NAME"),
        ({"x": [["a"] * 3], "n": [1], "key": [0]}, InvalidTensor, "column 'x': got type list<.*string>, expected numb"),
        ({"x": [{"a": 1}], "n": [1], "key": [0]}, InvalidTensor, "column 'x': got type struct<.*>, expected numbers"),
    ],
)
def test_columns_that_dont_fit_are_refused_before_anything_is_written(
    scorer: Scorer, score: Any, tmp_path: Path, columns: Any, error: type[Exception], text: str
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(error, match=text):
        score(scorer, tmp_path / "in.parquet")
    assert not (tmp_path / "out").exists()


def test_a_result_is_neither_mixed_nor_overwritten(scorer: Scorer, score: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(rows(5), source)
    score(scorer, source)
    with pytest.raises(FailedPrecondition, match=r"isn't empty; pass --resume .* or --overwrite"):
        score(scorer, source)
    assert score(scorer, source, resume=True).resumed_parts == 1
    with pytest.raises(InvalidArgument, match=r"got batch_size 3, but the result is of batch_size 8192"):
        score(scorer, source, resume=True, batch_size=3)
    os.utime(tmp_path / "in.parquet", (1, 1))
    with pytest.raises(InvalidArgument, match=r"the input has changed files: in.parquet"):
        score(scorer, source, resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(FailedPrecondition, match=r"'thesis.txt', so it isn't a result"):
        score(scorer, source, "mine", overwrite=True)


def test_what_another_job_has_made_is_not_gone_on_with(models: Path, score: Any, tmp_path: Path) -> None:
    source, file = tmp_path / "in.parquet", tmp_path / "numbers.keras"
    pq.write_table(rows(5).append_column("m", pa.array(range(5))), source)
    shutil.copy(models / "numbers.keras", file)
    score(Scorer(file, columns=["key"]), source)

    def refused(scorer: Scorer, **options: Any) -> str:
        with pytest.raises(InvalidArgument, match="--resume: got") as error:
            score(scorer, source, resume=True, **options)
        return str(error.value)

    assert "got keep ['unused'], but the result is of keep ['key']" in refused(Scorer(file, columns=["unused"]))
    assert "got on_error 'skip'" in refused(Scorer(file, columns=["key"]), on_error="skip")
    assert "'n': ['m']" in refused(Scorer(file, columns=["key"], input_columns={"n": "m"}))
    trained = layergraph.load_model(file)
    trained.set_weights([weight + 1 for weight in trained.get_weights()])
    trained.save(file)
    assert "got digest" in refused(Scorer(file, columns=["key"]))


class EndsAtOnce(InThisProcess):
    """Ends a job after its first part."""

    def score(self, parts: Any) -> Any:
        for message in super().score(parts):
            yield message
            if isinstance(message, Done):
                raise KeyboardInterrupt


def test_a_file_that_can_be_read_only_at_the_second_start_ends_the_job(
    scorer: Scorer, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ROWS", 1)
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pq.write_table(rows(4), tmp_path / "in" / f"{name}.parquet", row_group_size=2)
    opened = readers._opened_parquet

    def away(file: Any) -> Any:
        if file.name == "a.parquet":
            raise PermissionError(13, "Permission denied")
        return opened(file)

    monkeypatch.setattr(job, "Workers", EndsAtOnce)
    monkeypatch.setattr(readers, "_opened_parquet", away)
    with pytest.raises(KeyboardInterrupt):
        score(scorer, tmp_path / "in", on_error="skip")
    monkeypatch.setattr(readers, "_opened_parquet", opened)
    monkeypatch.setattr(job, "Workers", InThisProcess)
    # Its parts would have other numbers than those that are done.
    with pytest.raises(InvalidArgument, match=r"has files that can be read now, and couldn't before: a.parquet"):
        score(scorer, tmp_path / "in", on_error="skip", resume=True)
    assert score(scorer, tmp_path / "in", on_error="skip", overwrite=True).rows == 8
    monkeypatch.setattr(readers, "_opened_parquet", away)
    with pytest.raises(InvalidArgument, match=r"has files that can't be read any more: a.parquet"):
        score(scorer, tmp_path / "in", on_error="skip", resume=True)


def test_a_joined_file_that_was_changed_is_no_result(scorer: Scorer, score: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(rows(5), source)
    assert score(scorer, source, "out.csv").rows == 5
    assert score(scorer, source, "out.csv", resume=True).resumed_parts == 1
    (tmp_path / "out.csv").write_text("cut")
    with pytest.raises(FailedPrecondition, match=r"out.csv' has 3 bytes, but had \d+ when the job ended"):
        score(scorer, source, "out.csv", resume=True)
    assert score(scorer, source, "out.csv", overwrite=True).rows == 5
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FailedPrecondition, match=r"folder.csv' is a folder, expected a file"):
        score(scorer, source, "folder.csv", overwrite=True)


def test_parts_that_can_not_be_joined_leave_nothing_beside_them(
    scorer: Scorer, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(rows(5), source)

    def full(kind: str, parts: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(writers, "join", full)
        with pytest.raises(OSError, match="No space left"):
            score(scorer, source, "out.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.csv.manifest.json", "out.csv.parts"]
    assert [path.name for path in (tmp_path / "out.csv.parts").iterdir()] == ["part-000000.csv"]
    assert score(scorer, source, "out.csv", resume=True).resumed_parts == 1


@pytest.mark.parametrize(
    "text", ['{"job": [], "parts": {}}', '{"job": {}, "parts": []}', '{"job": {}, "parts": {"0": 1}}']
)
def test_a_damaged_manifest_is_named(scorer: Scorer, score: Any, tmp_path: Path, text: str) -> None:
    pq.write_table(rows(5), tmp_path / "in.parquet")
    score(scorer, tmp_path / "in.parquet")
    (tmp_path / "out" / "_manifest.json").write_text(text)
    with pytest.raises(InvalidArgument, match=r"_manifest\.json' is damaged; pass --overwrite to start again"):
        score(scorer, tmp_path / "in.parquet", resume=True)


def test_a_path_with_colons_is_a_path(scorer: Scorer, score: Any, tmp_path: Path) -> None:
    pq.write_table(rows(5), tmp_path / "in::1.parquet")
    score(scorer, tmp_path / "in::1.parquet", "rows")
    score(scorer, tmp_path / "in::1.parquet", "rows::v2.csv")
    assert len((tmp_path / "rows::v2.csv").read_text().splitlines()) == 6
    score(scorer, tmp_path / "in::1.parquet", "rows::v2.csv", overwrite=True)
    assert (tmp_path / "rows" / "part-000000.parquet").exists()


def test_columns_of_several_types_are_written_aside_as_they_are(models: Path, score: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    x = pa.array([[0, 1, 2], None], pa.list_(pa.float32(), 3))
    id = pa.array([b"0" * 16, b"1" * 16], pa.uuid())
    keys = pa.array(["a", "b"], pa.string_view())
    for name, n in (("a", [1, 2]), ("b", [1.0, 2.5])):
        table = pa.table({"key": keys, "x": x, "n": n, "id": id})
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet")
    scorer = Scorer(models / "numbers.keras", columns=["key", "id"])
    done = score(scorer, tmp_path / "in", on_error="skip")
    assert (done.rows, done.rejected) == (2, 2)
    rejected = pa.concat_tables(pq.read_table(path) for path in sorted(Path(done.rejected_to).iterdir()))
    values = rejected["values"].to_pylist()
    assert [one["n"] for one in values] == ["2", "2.5"]
    assert [(one["key"], one["id"].bytes) for one in values] == [("b", b"1" * 16)] * 2


def test_a_csv_file_of_names_alone_has_no_rows(models: Path, score: Any, tmp_path: Path) -> None:
    scorer = Scorer(models / "numbers.keras", input_columns={"x": ["a", "b", "c"]})
    (tmp_path / "in.csv").write_text("a,b,c,n")
    assert score(scorer, tmp_path / "in.csv", "out.csv").rows == 0


def test_a_file_whose_name_is_not_utf8_is_named(scorer: Scorer, score: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / os.fsdecode(b"\xe4.parquet")).touch()
    with pytest.raises(InvalidArgument, match=r"a file whose name isn't UTF-8, b'\\xe4.parquet'; rename it"):
        score(scorer, tmp_path / "in")


@pytest.mark.parametrize("change", [Path.unlink, lambda path: os.utime(path, (1, 1))])
def test_a_file_that_changes_during_the_job_ends_it(
    scorer: Scorer, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        pq.write_table(rows(5), tmp_path / "in" / f"{name}.parquet")

    class Changes(InThisProcess):
        def score(self, parts: Any) -> Any:
            for message in super().score(parts):
                yield message
                if isinstance(message, Done):
                    change(tmp_path / "in" / "b.parquet")

    monkeypatch.setattr(job, "Workers", Changes)
    with pytest.raises(InvalidArgument, match=r"^b.parquet: the file was (removed|changed) during the job"):
        score(scorer, tmp_path / "in")


def test_a_job_that_ended_anywhere_is_resumed_to_the_same_files(
    scorer: Scorer, score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ROWS", 1)
    source = tmp_path / "in.parquet"
    pq.write_table(rows(40), source, row_group_size=10)
    score(scorer, source, "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("part-*")}

    for attempt in range(4):
        monkeypatch.setattr(job, "Workers", EndsAtOnce)
        with pytest.raises(KeyboardInterrupt):
            score(scorer, source, resume=attempt > 0)
        (tmp_path / "out" / ".tmp-left").write_bytes(b"half")
    # As if a part hadn't reached the disk.
    (tmp_path / "out" / "part-000002.parquet").write_bytes(b"half")
    monkeypatch.setattr(job, "Workers", InThisProcess)
    assert score(scorer, source, resume=True).resumed_parts == 3
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("part-*")} == whole
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_a_version_that_comes_during_a_job_is_not_in_its_result(
    score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "ROWS", 1)
    pq.write_table(rows(40), tmp_path / "in.parquet", row_group_size=10)
    folder = tmp_path / "m"
    for number in (1, 3):
        x, n = layergraph.Input((3,), name="x"), layergraph.Input((1,), name="n", dtype="int32")
        made = layergraph.Model([x, n], layers.Dense(2, name="y")(layers.Concatenate()([x, layers.Rescaling(1.0)(n)])))
        (tmp_path / "made" / str(number)).mkdir(parents=True)
        made.save(tmp_path / "made" / str(number) / "model.keras")
    shutil.copytree(tmp_path / "made" / "1", folder / "1")
    first = Scorer(folder, columns=["key"])

    class Comes(InThisProcess):
        def score(self, parts: Any) -> Any:
            for message in super().score(parts):
                yield message
                if isinstance(message, Done) and not (folder / "3").exists():
                    shutil.copytree(tmp_path / "made" / "3", folder / "3")
                    raise KeyboardInterrupt

    monkeypatch.setattr(job, "Workers", Comes)
    with pytest.raises(KeyboardInterrupt):
        score(first, tmp_path / "in.parquet")
    newest = Scorer(folder, columns=["key"])
    assert newest.version == 3
    with pytest.raises(InvalidArgument, match="--resume: got version 3, but the result is of version 1; pass the same"):
        score(newest, tmp_path / "in.parquet", resume=True)
    score(Scorer(folder, version=1, columns=["key"]), tmp_path / "in.parquet", resume=True)
    assert pq.read_table(tmp_path / "out")["y"].to_pylist() == expected(first, rows(40))


def test_dead_workers_are_replaced_but_not_for_ever(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, once = tmp_path / "in.parquet", tmp_path / "once"
    pq.write_table(rows(5), source)

    def score(to: str, program: str) -> job.Scored:
        monkeypatch.setattr(workers, "_PROGRAM", program)
        return job.Job(scorer, find(Location(str(source))), Location(str(tmp_path / to))).run(workers=1)

    kill = f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"
    dies = f"import pathlib; once = pathlib.Path({str(once)!r})\nif not once.exists():\n"
    dies += f"  once.touch(); (once.parent / 'out' / '.tmp-half').touch(); {kill}\n"
    assert score("out", dies + workers._PROGRAM).rows == 5
    assert not list((tmp_path / "out").glob(".tmp-*"))
    with pytest.raises(Aborted, match=r"^in.parquet, row groups 0 to 0: 3 workers died of it, .* SIGKILL"):
        score("other", kill)


def test_rows_that_a_dead_worker_has_read_do_not_count() -> None:
    made = workers.Workers(None, 1, None)  # type: ignore[arg-type]
    sent = b"".join(map(pickle.dumps, (Progress(3), Progress(2))))
    process: Any = SimpleNamespace(stdin=io.BytesIO(), stdout=io.BytesIO(sent))
    assert not made._scored(process, Fragment(0, ()))
    assert [made._messages.get_nowait() for _ in range(3)] == [Progress(3), Progress(2), Progress(-5)]


def test_the_command(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "Workers", InThisProcess)
    pq.write_table(rows(5), tmp_path / "in.parquet")

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["score", *arguments])
        return (status, *capsys.readouterr())

    line: Sequence[str] = [str(models / "numbers.keras"), str(tmp_path / "in.parquet"), str(tmp_path / "out")]
    status, text, _ = call(*line, "--keep", "key,unused", "--json")
    assert (status, json.loads(text)["rows"]) == (0, 5)
    assert pq.read_table(tmp_path / "out").column_names == ["key", "unused", "y"]
    assert call(*line, "--keep", "key,unused", "--resume")[1].startswith("numbers version 1: 5 rows to ")
    assert "doesn't exist; pass --address" in call("no/model.keras", *line[1:])[2]
    assert "expected INPUT=NAMES" in call(*line, "--overwrite", "--columns", "x")[2]


def test_lists_of_any_length_arent_csv() -> None:
    with pytest.raises(InvalidArgument, match=r"column 'y' has type list<.*>, which CSV can't hold; write Parquet"):
        writer("csv", None, pa.schema([("y", pa.list_(pa.float32()))]))  # type: ignore[arg-type]
