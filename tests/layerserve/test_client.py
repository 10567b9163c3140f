"""Both clients against a real server on a real port."""

from __future__ import annotations

import inspect
import math
import re
import threading

import numpy as np
import pytest
from blocking import both_clients
from layerserve import (
    AsyncClient,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InvalidArgument,
    LabelNotFound,
    ModelNotFound,
    ModelNotReady,
    Overloaded,
    TensorSpec,
    Unavailable,
    UnknownOutput,
    VersionNotFound,
)

#: Values of the further arguments that methods need.
ARGUMENTS = {
    **{"version": 1, "path": "m.keras", "label": "a", "share": "5%", "inputs": [[1.0]], "x": [[1.0]], "y": [[1.0]]},
    **{"space": {"seed": [1, 2]}, "corrections": {}, "dataset": "0123abcd"},
}
OF_MODELS = [
    name
    for name, method in inspect.getmembers(Client, inspect.isfunction)
    if list(inspect.signature(method).parameters)[1:2] == ["model"]
    and inspect.signature(method).parameters["model"].default is inspect.Parameter.empty
]

#: Of a request in the server.
TIMES = ("queue", "compute", "total")


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_model_without_a_name_is_refused_before_anything_is_sent(client, server, name):
    given = list(inspect.signature(getattr(Client, name)).parameters.values())[2:]
    needed = [one.name for one in given if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    arguments = [ARGUMENTS[argument] for argument in needed]
    for wrong in ("", None, 3):
        with pytest.raises(InvalidArgument, match=f"model: got {wrong!r}, expected the name of a model"):
            list(getattr(client, name)(wrong, *arguments))  # a generator asks when it is read
    assert server.calls == []


def test_one_output_gives_an_array(client):
    result = client.predict("double", [[1, 2, 3]])
    assert isinstance(result, np.ndarray)
    assert result.dtype == np.float32
    assert result.tolist() == [[2.0, 4.0, 6.0]]
    result[0, 0] = 9  # the caller's to write into


def test_waiting_ends_when_the_server_serves(client, server):
    server.serving = False
    with pytest.raises(Unavailable, match="still loading"):
        client.wait_until_ready(timeout=0.3)
    threading.Timer(0.3, lambda: setattr(server, "serving", True)).start()
    client.wait_until_ready(timeout=20)


@both_clients
def test_a_prediction_has_its_times_if_it_asks_for_them(client, server):
    assert client.predict_named("double", [[1, 2, 3]]).timing == {}
    assert client.predict_named("double", [[1, 2, 3]], timing=True).timing == dict.fromkeys(TIMES, 0.0)
    # Those of several requests are added up.
    rows = [[1, 2, 3]] * 5
    assert client.predict_named("double", rows, batch_size=2, timing=True).timing == dict.fromkeys(TIMES, 0.0)


@both_clients
def test_waiting_for_a_server_that_is_gone_says_so(client, server):
    server.stop()
    with pytest.raises(Unavailable):
        client.wait_until_ready(timeout=0.5)


def test_several_outputs_give_a_dict_in_order(client):
    result = client.predict("two", {"left": [[1, 2]], "right": [[10, 20]]})
    assert list(result) == ["sum", "ids"]
    assert result["sum"].tolist() == [[11.0, 22.0]]
    result = client.predict("two", [[[1, 2]], [[10, 20]]], ["ids", "sum"])
    assert {name: array.tolist() for name, array in result.items()} == {"ids": [[1, 2]], "sum": [[11.0, 22.0]]}
    assert list(result) == ["ids", "sum"]


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ({"version": "1"}, "got version '1', expected an integer; a label is given as label=..."),
        ({"version": 2**63}, "got version 9223372036854775808, expected an integer"),
        ({"label": 1}, "got label 1, expected text"),
        ({"label": "\ud800"}, "expected text"),
    ],
)
def test_a_reference_of_another_type_is_named(client, reference, text):
    with pytest.raises(InvalidArgument, match=f"model 'double': .*{re.escape(text)}"):
        client.predict("double", [[1, 2, 3]], **reference)


@pytest.mark.parametrize("way", ["predict", "predict_many", "prepare"])
def test_a_name_gives_an_array_and_a_list_of_names_a_dict(client, way):
    """However many names there are, and whether or not the model has more than one output."""

    def ask(model, inputs, outputs):
        if way == "predict":
            return client.predict(model, inputs, outputs)
        if way == "prepare":
            return client.prepare(model, outputs)(inputs)
        (result,) = client.predict_many(model, [inputs], outputs)
        return result

    pair = [[[1, 2]], [[10, 20]]]
    assert ask("two", pair, "hidden").tolist() == [[1.0, 2.0]]
    for names in (["hidden"], ("hidden",)):
        found = ask("two", pair, names)
        assert {name: array.tolist() for name, array in found.items()} == {"hidden": [[1.0, 2.0]]}
    assert list(ask("two", pair, ["hidden", "ids"])) == ["hidden", "ids"]
    assert list(ask("double", [[1, 2, 3]], ["y"])) == ["y"]
    for outputs in ("y", None):
        assert ask("double", [[1, 2, 3]], outputs).tolist() == [[2.0, 4.0, 6.0]]


def test_the_mapping_says_which_version_answered(client):
    prediction = client.predict_named("double", [[1, 2, 3]], version=1)
    assert (prediction.model, prediction.version, list(prediction)) == ("double", 1, ["y"])


def test_a_label_chooses_a_version(client, server):
    x = TensorSpec("x", (None, 3), "float32")
    y = TensorSpec("y", (None, 3), "float32")
    server.add_model("double", lambda a: {"y": -a["x"]}, [x], [y], version=2)
    assert client.predict("double", [[1, 2, 3]]).tolist() == [[-1.0, -2.0, -3.0]]
    assert client.predict("double", [[1, 2, 3]], label="stable").tolist() == [[2.0, 4.0, 6.0]]


@both_clients
def test_messages_may_be_larger_than_grpcs_limit(client):
    rows = np.ones((600_000, 3), np.float32)  # 7 MB
    assert client.predict("double", rows).sum() == 2 * rows.size


def test_zero_rows_give_zero_rows(client):
    assert client.predict("double", np.zeros((0, 3))).shape == (0, 3)


@both_clients
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.predict("dooble", [[1, 2, 3]]), ModelNotFound),
        (lambda c: c.predict("double", [[1, 2, 3]], version=9), VersionNotFound),
        (lambda c: c.predict("double", [[1, 2, 3]], label="beta"), LabelNotFound),
        (lambda c: c.predict("double", [[1, 2, 3]], "z"), UnknownOutput),
        (lambda c: c.predict("broken", [1]), ModelNotReady),
        (lambda c: c.predict("", [1]), InvalidArgument),
        (lambda c: c.model("dooble"), ModelNotFound),
        (lambda c: c.node_shapes("broken"), ModelNotReady),
        (lambda c: c.predict("double", [[1, 2, 3]], timeout=0), InvalidArgument),
    ],
)
def test_errors_are_typed(client, call, error):
    with pytest.raises(error):
        call(client)


def test_the_text_of_an_error_is_the_servers(client):
    with pytest.raises(UnknownOutput, match="unknown output 'z'; it has y") as caught:
        client.predict("double", [[1, 2, 3]], "z")
    assert caught.value.code == "unknown_output"
    assert caught.value.__cause__ is None


@both_clients
def test_an_overloaded_server_says_when_to_try_again(client, server):
    server.fail_next(Overloaded("queue is full", metadata={"x-other": "1"}))
    with pytest.raises(Overloaded, match="queue is full") as caught:
        client.predict("double", [[1, 2, 3]])
    assert caught.value.metadata["x-other"] == "1"
    assert sum(method == "Predict" for method, _ in server.calls) == 1


@both_clients
def test_calls_that_find_the_server_unavailable_are_repeated(client, server):
    server.fail_next(Unavailable("draining", metadata={"grpc-retry-pushback-ms": "1"}), times=3)
    assert client.predict("double", [[1, 2, 3]]).shape == (1, 3)
    assert sum(method == "Predict" for method, _ in server.calls) == 4


@both_clients
def test_a_defect_of_the_server_is_internal(client, server):
    x = TensorSpec("x", (None,), "float32")
    server.add_model("bad", lambda a: 1 / 0, [x], [x])
    with pytest.raises(Exception, match="ZeroDivisionError") as caught:
        client.predict("bad", [1])
    assert type(caught.value).__name__ == "Internal"


@both_clients
def test_a_timeout_counts_from_the_callers_side(client, server):
    release = threading.Event()
    x = TensorSpec("x", (None,), "float32")
    server.add_model("slow", lambda a: release.wait(20) and {"x": a["x"]}, [x], [x])
    with pytest.raises(DeadlineExceeded):
        client.predict("slow", [1], timeout=0.05)
    release.set()


def test_models_are_described(client):
    assert [(info.name, info.state, info.reason) for info in client.models()] == [
        ("broken", "failed", "file is truncated"),
        ("double", "ready", ""),
        ("shared", "ready", ""),
        ("two", "ready", ""),
    ]
    assert [info.name for info in client.models("two")] == ["two"]
    info = client.model("double", label="stable")
    assert (info.version, info.labels, info.served_by_default) == (1, ("stable",), True)
    assert info.inputs == (TensorSpec("x", (None, 3), "float32"),)


@pytest.mark.parametrize("make", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("address", "options", "text"),
    [
        ("", {}, "expected host:port"),
        ("http://localhost:8500", {}, "tls=True"),
        ("localhost:8500", {"timeout": 0}, "timeout: got 0"),
        ("localhost:8500", {"timeout": math.nan}, "timeout: got nan"),
    ],
)
def test_a_client_refuses_what_it_cannot_connect_with(make, address, options, text):
    with pytest.raises(InvalidArgument, match=text):
        make(address, **options)


def test_no_server_is_unavailable_and_named():
    with (
        Client("127.0.0.1:1") as client,
        pytest.raises(
            Unavailable, match=r"^server 127\.0\.0\.1:1: can't connect to 127\.0\.0\.1:1: Connection refused$"
        ),
    ):
        client.predict("double", [1], timeout=20)


@both_clients
def test_a_closed_client_says_so(client, server):
    client.models()
    client.close()
    with pytest.raises(ClientClosed, match=server.address):
        client.models()


def test_a_token_is_sent_with_each_call(server):
    with Client(server.address, token="secret") as client:
        client.models()
    assert server.metadata[-1]["authorization"] == "Bearer secret"
    assert str(server.metadata[-1]["user-agent"]).startswith("layerserve-python")


@both_clients
@pytest.mark.parametrize("way", ["predict", "predict_named", "predict_many", "prepare"])
def test_the_key_of_a_caller_is_sent_with_its_predictions(client, server, way):
    def send(key):
        if way == "predict_many":
            return list(client.predict_many("double", [[[1.0]]], key=key))
        if way == "prepare":
            return client.prepare("double")([[1.0]], key=key)
        return getattr(client, way)("double", [[1.0]], key=key)

    for key in ("user 7", None):
        send(key)
        assert server.metadata[-1].get("layerserve-key") == key
    for wrong in ("", " 7", "ä", "a\nb", 7):
        with pytest.raises(InvalidArgument, match=r"key: got .*, expected a text of printable ASCII characters"):
            send(wrong)


def test_threads_share_a_client(server):
    results: dict[int, list[list[float]]] = {}

    def work(number: int) -> None:
        results[number] = client.predict("double", [[number, 0, 0]]).tolist()

    with Client(server.address) as client:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {number: [[2.0 * number, 0.0, 0.0]] for number in range(8)}
