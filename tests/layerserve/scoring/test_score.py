"""Scoring of a dataset on a server, here the fake one: what is asked for, and what the command prints."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from layerserve import AsyncClient, Client, InvalidArgument
from layerserve.cli import main
from layerserve.testing import FakeServer
from layerserve.v1.scoring_pb2 import InputColumns, ScoreRequest


def asked(server: FakeServer) -> ScoreRequest:
    return next(request for method, request in reversed(server.calls) if method == "Score")


def test_the_arguments_arrive(server: FakeServer) -> None:
    with Client(server.address) as client:
        dataset = client.datasets.upload([[1.0]], [[1.0]])
        run = client.score(
            "double",
            dataset,
            to="s.csv",
            columns="id",
            input_columns={"x": ["a", "b"]},
            outputs="y",
            version=1,
            batch_size=7,
            on_error="skip",
            idempotency_key="k",
        )
        assert (run.wait().state, run.info().kind) == ("finished", "scoring")
        assert [one.name for one in run.files()] == ["s.csv"]
        assert client.runs(kind="scoring")[0].id == run.id
    expected = ScoreRequest(
        dataset=dataset.id,
        to="s.csv",
        columns=["id"],
        input_columns=[InputColumns(input="x", columns=["a", "b"])],
        outputs=["y"],
        batch_size=7,
        skip_bad_rows=True,
        idempotency_key="k",
    )
    expected.model.name, expected.model.version = "double", 1
    assert asked(server) == expected


def test_without_any_the_server_has_its_defaults(server: FakeServer) -> None:
    async def score() -> str:
        async with AsyncClient(server.address) as client:
            return (await client.score("double", dataset="0123abcd")).id

    assert asyncio.run(score()) in server.runs
    expected = ScoreRequest(dataset="0123abcd", to="scores.parquet")
    expected.model.name = "double"
    sent = asked(server)
    # Drawn, so that the call may be repeated.
    assert sent.idempotency_key
    sent.ClearField("idempotency_key")
    assert sent == expected


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"dataset": ""}, "dataset: got '', expected the id of a dataset"),
        ({"dataset": 3}, "dataset: got 3, expected the id of a dataset"),
        ({"to": None}, "to: got None, expected the name of a file or folder"),
        ({"on_error": "go on"}, "on_error: got 'go on', expected 'stop' or 'skip'"),
        ({"batch_size": 0}, "batch_size"),
        ({"idempotency_key": "a b"}, "idempotency_key: got 'a b', expected 1 to 128 letters"),
        ({"outputs": []}, "outputs: got an empty list"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(
    client: Client, server: FakeServer, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        client.score("double", **{"dataset": "0123abcd"} | arguments)
    assert server.calls == []


def test_the_command(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["score", "double", *arguments, "--address", server.address])
        return (status, *capsys.readouterr())

    line = ["--dataset", "0123abcd"]
    status, text, _ = call(*line, "--keep", "id,key", "--columns", "x=a,b", "--to", "s.npz", "--detach")
    assert (status, text.strip() in server.runs) == (0, True)
    request = asked(server)
    assert (request.to, list(request.columns)) == ("s.npz", ["id", "key"])
    assert list(request.input_columns) == [InputColumns(input="x", columns=["a", "b"])]
    status, text, _ = call(*line)
    assert (status, "rows to scores.parquet" in text, "layerserve run files run-2 --to" in text) == (0, True, True)
    status, text, _ = call(*line, "--json")
    assert json.loads(text.splitlines()[-1])["event"] == "finished"
    server.fail_training("a row is bad")
    assert "a row is bad" in call(*line)[2]
    assert "got --dataset and IN, --workers, expected one of the two" in flat(
        call("in.csv", *line, "--workers", "2")[2]
    )
    assert "got IN and --to, expected one of the two" in flat(call("in.csv", "out", "--to", "s")[2])
    assert "expected IN and OUT, or --dataset ID" in flat(call("in.csv")[2])


def flat(text: str) -> str:
    """Text without the frame and lines in which it is printed."""
    return " ".join(text.replace("│", " ").split())
