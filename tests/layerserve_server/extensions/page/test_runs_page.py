"""Runs, sweeps and changes on the page: what each part asks for, and what it shows of the reply."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from google.protobuf.message import Message
from layerserve.v1 import checkpoints_pb2, management_pb2, models_pb2, sweeps_pb2, training_pb2
from layerserve_server.access.caller import ANYONE
from layerserve_server.extensions.page import model_parts
from layerserve_server.extensions.page.extension import OPTIONAL
from layerserve_server.extensions.page.pages import duration
from layerserve_server.extensions.page.part import PARTS
from layerserve_server.extensions.page.rates import History
from layerserve_server.extensions.page.run_parts import MAX_CHARTS, curves
from layerserve_server.extensions.page.serving import Page
from layerserve_server.transport.http.exchange import HttpRequest, HttpRoute
from layerserve_server.transport.http.hosts import Hosts
from page_facts import Stub

PAGE = Page(Stub(), Hosts(), SimpleNamespace())


ROUTES = {route.path: route for route in PAGE.routes()}


def call(part: str, reply: Message, routes: Mapping[str, HttpRoute] = ROUTES, **fields: Any) -> tuple[bytes, str]:
    """The request that a part makes of its fields, and its HTML for a reply."""
    headers = {"host": "localhost", "x-layerserve-page": PAGE._guard.secret}
    route, text = routes[PARTS + part], urlencode(fields)
    query, body = ("", text) if route.verb == "POST" else (text, "")
    found = route.translate(HttpRequest({}, query, headers, body.encode(), ANYONE, True))
    return found.message, found.reply(reply.SerializeToString()).body.decode()


def series(*names: str) -> list[training_pb2.RunSeries]:
    return [training_pb2.RunSeries(name=name, positions=[1, 2], values=[2.0, 1.0]) for name in names]


@pytest.mark.parametrize(
    ("by", "by_step", "axis"), [("", False, "epoch"), ("epoch", False, "epoch"), ("step", True, "step")]
)
def test_curves_are_by_epoch_or_step(by: str, by_step: bool, axis: str) -> None:
    asked, text = call("curves", training_pb2.GetRunSeriesResponse(series=series("loss")), id="r", by=by)
    assert training_pb2.GetRunSeriesRequest.FromString(asked) == training_pb2.GetRunSeriesRequest(
        run_ids=["r"], max_points=400, by_step=by_step
    )
    assert f"loss 1 at {axis} 2" in text
    _, empty = call("curves", training_pb2.GetRunSeriesResponse(), id="r", by=by)
    assert f"No {axis} has ended yet" in empty
    _, run = call(
        "run", training_pb2.GetRunResponse(run={"id": "r", "state": training_pb2.RUN_STATE_FINISHED}), id="r", by=by
    )
    assert ("by=step" in run.split("data-part")[2]) == by_step
    assert "data-every" not in run.split("data-part")[2].split("</div>")[0], "it has ended"


def test_a_log_and_that_of_the_validation_data_are_one_chart_and_losses_come_first() -> None:
    found = curves(series("val_accuracy", "accuracy", "y_loss", "val_loss", "loss", "val_only"), "epoch")
    assert [(chart.title, [line.name for line in chart.lines]) for chart in found] == [
        ("loss", ["loss", "val_loss"]),
        ("y_loss", ["y_loss"]),
        ("accuracy", ["accuracy", "val_accuracy"]),
        ("only", ["val_only"]),
    ]
    assert len(curves(series(*(f"log{number}" for number in range(20))), "epoch")) == MAX_CHARTS


@pytest.mark.parametrize(("larger", "order"), [(False, [3, 0, 4, 1, 2]), (True, [4, 0, 3, 1, 2])])
def test_trials_are_shown_best_first(larger: bool, order: list[int]) -> None:
    values = (2.0, None, math.nan, 1.0, 3.0)
    trials = [
        sweeps_pb2.Trial(number=number, value=value, epochs=[1], history=[value or 0.0] if number < 4 else [])
        for number, value in enumerate(values)
    ]
    sweep = sweeps_pb2.Sweep(id="s", monitor="accuracy", larger_is_better=larger, trials=trials)
    asked, text = call("sweep", sweeps_pb2.GetSweepResponse(sweep=sweep), id="s")
    assert sweeps_pb2.GetSweepRequest.FromString(asked).sweep_id == "s"
    rows = [int(piece.split("<")[0]) for piece in text.split('<th scope="row">')[1:]]
    assert rows == order
    assert "accuracy of the best trials: trial" in text
    assert "trial 4 3" not in text, "it has no history"


def versions(text: str) -> list[str]:
    return [piece.split("<")[0] for piece in text.split('<th scope="row">')[1:]]


def test_the_versions_that_get_most_requests_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(model_parts, "History", lambda: History(lambda: now[0]))
    served = Stub()
    routes = {route.path: route for route in Page(served, Hosts(), SimpleNamespace()).routes()}
    ready = models_pb2.VERSION_STATE_READY
    reply = models_pb2.ListModelsResponse(versions=[{"name": "m", "version": one, "state": ready} for one in range(4)])
    served.requests = [10, 0, 50, 20]
    _, text = call("rates", reply, routes, name="m")
    assert versions(text) == ["2", "3", "0", "1"]
    assert "<h3>" not in text, "there are no rates yet"
    now[0] += 2.0
    served.requests = [14, 0, 50, 30]
    _, text = call("rates", reply, routes, name="m")
    assert versions(text) == ["3", "0", "2", "1"]
    assert [piece.split("<")[0] for piece in text.split("<h3>")[1:]] == ["Version 3", "Version 0", "Version 2"]


def test_runs_come_in_pages_of_a_model_or_all() -> None:
    run = training_pb2.Run(id="r", state=training_pb2.RUN_STATE_RUNNING, base={"name": "m", "version": 3})
    reply = training_pb2.ListRunsResponse(runs=[run], next_page_token="next")
    asked, text = call("runs", reply, name="m", page="this")
    assert training_pb2.ListRunsRequest.FromString(asked) == training_pb2.ListRunsRequest(
        model_name="m", page_size=30, page_token="this"
    )
    assert ("Runs of m" in text, "running" in text, "page=next" in text, ">Newest<" in text) == (True,) * 4
    _, text = call("runs", training_pb2.ListRunsResponse(runs=[run]))
    assert ("Runs of" in text, "Older" in text, ">Newest<" in text) == (False,) * 3


def test_kinds_of_runs_and_what_they_published_are_listed() -> None:
    base = {"name": "m", "version": 3}
    logs = [{"name": "loss", "value": 0.12345}]
    runs = [
        training_pb2.Run(id="a", kind=1, base=base, epochs=3, published={"name": "m", "version": 7}),
        training_pb2.Run(id="b", kind=2, base=base, logs=logs),
        training_pb2.Run(id="c", kind=3, base=base, publishable=True),
        training_pb2.Run(id="d", kind=1, base=base, withheld="no improvement"),
    ]
    _, text = call("runs", training_pb2.ListRunsResponse(runs=runs))
    rows = [re.sub("<[^>]+>", " ", row).split() for row in text.split("<tr>")[2:]]
    assert [row[:2] for row in rows] == [["a", "training"], ["b", "evaluation"], ["c", "online"], ["d", "training"]]
    assert " ".join(rows[0]).endswith("0 of 3 version 7")
    assert " ".join(rows[1]).endswith("\N{EN DASH} loss 0.1235")
    assert " ".join(rows[2]).endswith("\N{EN DASH} no, result kept")
    assert " ".join(rows[3]).endswith("0 of 0 withheld")
    assert '<a href="#model?name=m">version 7</a>' in text


def test_an_evaluation_has_results_instead_of_epochs_curves_and_checkpoints() -> None:
    logs = [{"name": "loss", "value": 0.5}, {"name": "accuracy", "value": 0.875}]
    run = training_pb2.Run(id="e", kind=2, state=training_pb2.RUN_STATE_FINISHED, logs=logs)
    _, page = call("run", training_pb2.GetRunResponse(run=run), id="e")
    assert ("Evaluation e" in page, "Curves" in page, "Checkpoints" in page) == (True, False, False)
    _, text = call("progress", training_pb2.GetRunResponse(run=run), id="e")
    assert '<th scope="row">accuracy</th><td class="n">0.875</td>' in text
    assert "Epochs" not in text
    run.state = training_pb2.RUN_STATE_RUNNING
    _, text = call("progress", training_pb2.GetRunResponse(run=run), id="e")
    # An evaluation can't be paused or ended early.
    assert re.findall('data-post="([A-Za-z]+)"', text) == ["CancelRun"]


def test_curves_of_runs_of_an_extension_are_by_step() -> None:
    _, text = call("run", training_pb2.GetRunResponse(run={"id": "o", "kind": 3}), id="o")
    assert ("by=step" in text, "By epoch" in text) == (True, False)


@pytest.mark.parametrize("there", [True, False])
def test_what_other_extensions_have_is_linked_where_they_are(there: bool) -> None:
    page = Page(Stub(), Hosts(), SimpleNamespace(), () if there else OPTIONAL)
    routes = {route.path: route for route in page.routes()}
    assert ('href="#sweeps"' in page.plain()["/ui"]("").body.decode()) == there
    _, text = call("runs", training_pb2.ListRunsResponse(), routes, name="m")
    assert ("#sweeps?name=m" in text, "#graph?name=m" in text) == (there, True)
    _, text = call("run", training_pb2.GetRunResponse(run={"id": "o", "sweep_id": "s"}), routes, id="o")
    assert ("#sweep?id=s" in text, "Checkpoints" in text) == (there, there)


FIELDS = {"name": "m", "version": 7, "label": "best", "id": "r", "checkpoint": "c"}
PUBLISHED = {"name": "m", "version": 9}


@pytest.mark.parametrize(
    ("part", "expected", "reply", "said"),
    [
        (
            "RollBack",
            management_pb2.RollBackRequest(name="m", version=7),
            management_pb2.RollBackResponse(version=6),
            "Rolled back: version 6 of 'm' is the default, and pinned",
        ),
        (
            "PinVersion",
            management_pb2.PinVersionRequest(name="m", version=7),
            management_pb2.PinVersionResponse(),
            "Version 7 of 'm' is the default, and pinned",
        ),
        (
            "UnpinVersion",
            management_pb2.UnpinVersionRequest(name="m"),
            management_pb2.UnpinVersionResponse(),
            "No version of 'm' is pinned",
        ),
        (
            "SetLabel",
            management_pb2.SetLabelRequest(name="m", version=7, label="best"),
            management_pb2.SetLabelResponse(),
            "Label 'best' points at version 7",
        ),
        (
            "RemoveLabel",
            management_pb2.RemoveLabelRequest(name="m", label="best"),
            management_pb2.RemoveLabelResponse(),
            "Label 'best' is removed",
        ),
        (
            "LoadModel",
            management_pb2.LoadModelRequest(name="m"),
            management_pb2.LoadModelResponse(),
            "Model 'm' is loaded",
        ),
        (
            "UnloadModel",
            management_pb2.UnloadModelRequest(name="m"),
            management_pb2.UnloadModelResponse(),
            "Model 'm' is unloaded",
        ),
        (
            "PauseRun",
            training_pb2.PauseRunRequest(run_id="r"),
            training_pb2.PauseRunResponse(),
            "Run r is being paused",
        ),
        ("ResumeRun", training_pb2.ResumeRunRequest(run_id="r"), training_pb2.ResumeRunResponse(), "Run r continues"),
        (
            "StopRun",
            training_pb2.StopRunRequest(run_id="r"),
            training_pb2.StopRunResponse(),
            "Run r ends early, and keeps its result",
        ),
        (
            "CancelRun",
            training_pb2.CancelRunRequest(run_id="r"),
            training_pb2.CancelRunResponse(),
            "Run r is being cancelled",
        ),
        (
            "PublishRun",
            training_pb2.PublishRunRequest(run_id="r", label="best"),
            training_pb2.PublishRunResponse(run={"published": PUBLISHED}),
            "Published as version 9 of 'm'",
        ),
        (
            "PublishCheckpoint",
            checkpoints_pb2.PublishCheckpointRequest(run_id="r", checkpoint_id="c", label="best"),
            checkpoints_pb2.PublishCheckpointResponse(published=PUBLISHED),
            "Published as version 9 of 'm'",
        ),
    ],
)
def test_each_change_is_one_call_and_is_confirmed(part: str, expected: Message, reply: Message, said: str) -> None:
    asked, text = call(part, reply, **FIELDS)
    assert type(expected).FromString(asked) == expected
    assert text.replace("&#39;", "'").strip() == f"<p>{said}.</p>"


def test_processes_that_have_not_made_a_change_yet_are_named() -> None:
    reply = management_pb2.UnloadModelResponse(change={"lagging": [f"worker {number}" for number in range(9)]})
    _, text = call("UnloadModel", reply, name="m")
    assert text.count("Not yet in worker") == 8


def test_times_have_three_digits_and_no_exponent():
    shown = [duration(seconds) for seconds in (0.0123, 0.9994, 0.9996, 5, 130)]
    assert shown == ["12.3 ms", "999 ms", "1 s", "5 s", "2.2 min"]
