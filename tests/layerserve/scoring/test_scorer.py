"""Scorers by the address of a server, here the fake one: what comes out, what is pickled, which version computes."""

from __future__ import annotations

import pickle
import threading
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from clocks import replace_time
from layerserve import (
    Client,
    InvalidArgument,
    InvalidTensor,
    LayerNotFound,
    MissingInput,
    ModelMismatch,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    Scorer,
    TensorSpec,
    Unavailable,
    UnknownInput,
    VersionNotFound,
)
from layerserve.scoring import server_model
from layerserve.scoring.open_models import OpenModels
from layerserve.testing import FakeServer

ROWS = np.array([[1, 2], [3, 4], [5, 6]])


@pytest.fixture
def scorer(server: FakeServer) -> Scorer:
    # In the dtypes of the signature, as a model computes.
    held(server).function = lambda a: {"sum": a["left"] + a["right"].astype("float32"), "ids": a["left"].astype(int)}
    return Scorer(server.address, "two", columns=["id"])


def held(server: FakeServer) -> Any:
    return next(model for model in server.models if model.name == "two")


def batch() -> dict[str, Any]:
    return {"id": np.array(["a", "b", "c"]), "left": ROWS, "right": 10 * ROWS, "unused": np.zeros(3)}


def table() -> Any:
    lists = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), 2)
        for name, array in batch().items()
        if array.ndim > 1
    }
    return pa.table({"id": ["a", "b", "c"], **lists, "unused": [0, 0, 0]})


def test_a_dict_gets_the_outputs_beside_the_kept_columns(scorer: Scorer) -> None:
    scored = scorer(batch())
    assert list(scored) == ["id", "sum", "ids"]
    np.testing.assert_array_equal(scored["sum"], 11 * ROWS.astype("float32"))
    assert (scored["sum"].dtype, scored["ids"].dtype) == (np.float32, np.int64)


def test_a_table_gets_them_as_lists_with_the_model_in_its_metadata(scorer: Scorer) -> None:
    scored = scorer(table())
    assert scored.to_pydict() == {"id": ["a", "b", "c"], "sum": (11 * ROWS).tolist(), "ids": ROWS.tolist()}
    assert scored.schema.field("sum").type == pa.list_(pa.float32(), 2)
    facts = {key.decode(): value.decode() for key, value in scored.schema.metadata.items()}
    assert facts == scorer.metadata == {
        "layerserve.model": "two",
        "layerserve.version": "1",
        "layerserve.digest": scorer.digest,
    }  # fmt: skip
    part = scorer(table().to_batches()[0].slice(1))
    assert isinstance(part, pa.RecordBatch)
    assert part.to_pydict() == scored.slice(1).to_pydict()


def test_no_rows_give_no_rows_of_the_same_types(scorer: Scorer) -> None:
    assert scorer(table().slice(0, 0)).schema == scorer(table()).schema
    empty = scorer({name: array[:0] for name, array in batch().items()})
    assert {name: array.shape for name, array in empty.items()} == {"id": (0,), "sum": (0, 2), "ids": (0, 2)}


def test_what_it_is_is_fixed_when_it_is_made(server: FakeServer, scorer: Scorer) -> None:
    assert (scorer.model, scorer.version, len(scorer.digest)) == ("two", 1, 64)
    assert [spec.name for spec in scorer.inputs] == ["left", "right"]
    assert [spec.name for spec in scorer.outputs] == ["sum", "ids"]
    server.add_model("two", lambda a: {"sum": 0 * a["left"]}, scorer.inputs, scorer.outputs[:1], version=2)
    again = pickle.loads(pickle.dumps(scorer))
    assert (again.version, again.digest) == (1, scorer.digest)
    np.testing.assert_array_equal(again(batch())["sum"], 11 * ROWS)
    assert Scorer(server.address, "two").version == 2
    assert Scorer(server.address, "two", version=1).version == 1


def test_a_version_that_is_deleted_ends_it(server: FakeServer, scorer: Scorer) -> None:
    server.models.remove(held(server))
    with pytest.raises((VersionNotFound, ModelNotFound)):
        scorer(batch())


def test_a_file_that_is_replaced_ends_it(server: FakeServer, scorer: Scorer) -> None:
    """Also if it is replaced while the batch is computed, and in a process that opens the model later."""

    def replaced(arrays: dict[str, Any]) -> dict[str, Any]:
        held(server).file = b"other"
        return {"sum": arrays["left"], "ids": arrays["left"]}

    held(server).function = replaced
    for one in (scorer, pickle.loads(pickle.dumps(scorer))):
        with pytest.raises(ModelMismatch, match=f"got the digest [0-9a-f]{{64}}, expected {scorer.digest}"):
            one(batch())


def test_a_server_that_is_busy_or_restarts_is_asked_again(
    server: FakeServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A channel's own retries have real pauses.
    monkeypatch.setattr(server_model, "Client", partial(Client, retries=0))
    scorer: Scorer = request.getfixturevalue("scorer")
    slept: list[float] = []
    replace_time(monkeypatch, server_model, monotonic=lambda: sum(slept), sleep=slept.append)
    scorer(batch())
    for error in (Overloaded("the queue is full"), Unavailable("the server is stopping")):
        for method in ("Predict", "GetModel"):
            server.fail_next(error, method, times=12)
            slept.clear()
            np.testing.assert_array_equal(scorer(batch())["sum"], 11 * ROWS)
            assert 0.5 < sum(slept) < server_model.PATIENCE
    server.fail_next(Overloaded("the queue is full"), times=1000)
    slept.clear()
    with pytest.raises(Overloaded, match="the queue is full"):
        scorer(batch())
    assert sum(slept) > server_model.PATIENCE - 20


def test_it_is_small_and_has_no_connection(scorer: Scorer) -> None:
    scorer(batch())
    content = pickle.dumps(scorer)
    assert len(content) < 2000
    assert b"grpc" not in content
    assert "version=1" in repr(scorer)


def test_a_process_opens_a_model_once(server: FakeServer, scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(server_model, "Client", lambda *a, **k: opened.append(a) or pytest.fail("opened again"))
    for one in (scorer, pickle.loads(pickle.dumps(scorer)), pickle.loads(pickle.dumps(scorer))):
        one(batch())
    assert opened == []


def test_threads_wait_for_the_one_that_opens() -> None:
    class Model:
        pass

    models, made, barrier = OpenModels(), [], threading.Barrier(4)

    def open_model() -> Any:
        made.append(Model())
        return made[-1]

    def ask() -> None:
        barrier.wait()
        found.append(models.get("key", open_model))

    found: list[Any] = []
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(map(id, found))) == 1
    assert models.get("other", open_model) is not found[0]


@pytest.mark.parametrize(
    ("left_out", "error", "text"),
    [
        (
            "left",
            MissingInput,
            "columns 'id', 'right', 'unused', but model 'two' needs 'left', 'right': 'left' is miss",
        ),
        ("id", InvalidArgument, "got the columns 'left', 'right', 'unused'; 'id' to keep is missing"),
    ],
)
def test_missing_columns_are_told_with_those_there_are(
    scorer: Scorer, left_out: str, error: type[Exception], text: str
) -> None:
    given = batch()
    del given[left_out]
    with pytest.raises(error, match=text):
        scorer(given)


def test_inputs_may_come_from_columns_of_other_names(server: FakeServer) -> None:
    scorer = Scorer(server.address, "two", input_columns={"left": "a", "right": ["b", "c"]})
    scored = scorer({"a": ROWS, "b": ROWS[:, 0], "c": ROWS[:, 1]})
    np.testing.assert_array_equal(scored["sum"], 2 * ROWS)
    with pytest.raises(MissingInput, match="needs 'a', 'b', 'c': 'b', 'c' are missing"):
        scorer({"a": ROWS})
    with pytest.raises(UnknownInput, match="input_columns: unknown input 'lift'; did you mean 'left'"):
        Scorer(server.address, "two", input_columns={"lift": "a"})
    with pytest.raises(InvalidArgument, match="got no column for input 'left'"):
        Scorer(server.address, "two", input_columns={"left": []})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([1, 2], "batch: got list, expected a dict of arrays, a RecordBatch"),
        ({"left": ROWS, "right": ROWS[:1]}, "got left has 3, right has 1, expected the same number"),
        ({"left": 1, "right": ROWS}, "column 'left': got int, expected an array of rows"),
        (pa.table([[[1, 2]]] * 4, names=["id", "left", "left", "right"]), "got 2 columns 'left', expected one"),
    ],
)
def test_wrong_batches_are_refused(scorer: Scorer, given: Any, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        scorer(given)


def test_values_that_do_not_fit_are_refused(scorer: Scorer) -> None:
    with pytest.raises(InvalidTensor, match=r"'right': got float64 with a value of 0\.5, expected int32"):
        scorer({**batch(), "right": ROWS / 2})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"model": "two", "columns": ["sum"]}, InvalidArgument, "got 'sum', but outputs of model 'two' have this name"),
        ({"model": "two", "columns": ["id", "id"]}, InvalidArgument, "expected each name once"),
        ({"model": "two", "outputs": []}, InvalidArgument, "outputs: got an empty list"),
        ({"model": "two", "outputs": ["nope"]}, LayerNotFound, "unknown layer 'nope'"),
        ({"model": "two", "version": 7}, VersionNotFound, "7"),
        ({"model": "nope"}, ModelNotFound, "nope"),
        ({"model": "broken"}, ModelNotReady, "truncated"),
        ({}, InvalidArgument, "model: got None, expected the name of one of the models of .*: .*double"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    server: FakeServer, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        Scorer(server.address, **arguments)


def test_rows_that_depend_on_one_another_are_refused(server: FakeServer) -> None:
    held(server).independent_rows = False
    with pytest.raises(InvalidArgument, match="'two': its outputs aren't computed row by row"):
        Scorer(server.address, "two")


def test_a_source_is_a_path_that_exists_or_an_address(tmp_path: Path) -> None:
    for wrong in ("models", "/nope/m.keras", "http://localhost:8500"):
        with pytest.raises(
            InvalidArgument, match="expected a path that exists, or the address of a server as host:port"
        ):
            Scorer(wrong)
    with pytest.raises(InvalidArgument, match=r"path '.*m\.keras' doesn't exist"):
        Scorer(tmp_path / "m.keras")
    with pytest.raises(Unavailable):
        Scorer("localhost:1", "m", timeout=5)


def test_some_outputs_need_some_inputs_only(server: FakeServer) -> None:
    """A server knows which, and says so."""
    spec = TensorSpec("y", (None, 3), "float32")
    assert Scorer(server.address, "double", outputs="y").outputs == (spec,)
    with pytest.raises(MissingInput, match="missing input 'x'"):
        Scorer(server.address, "double", outputs="y")({"z": ROWS})
