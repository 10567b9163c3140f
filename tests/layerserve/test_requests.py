from __future__ import annotations

from datetime import datetime, timezone

import pytest
from google.protobuf.json_format import MessageToDict
from layerserve import Client, TrainingRun
from layerserve.calls import methods as m
from layerserve.training.run_selection import list_runs
from layerserve.v1.training_pb2 import ListRunsResponse, Run
from sent_requests import ALWAYS, ROWS, WEIGHTED, WHERE, Table, X, cases, check_options, without_entry

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

SCORED = {
    **{"to": "s.csv", "columns": ["id"], "input_columns": {"x": ["a"]}, "outputs": ["y"], "batch_size": 7},
    "on_error": "skip",
    "idempotency_key": "k",
}
EXPLAINED = {"target": 2, "output": "y", "to": ["x"], "baselines": X[:1], "n_steps": 7}
METHODS: Table = {
    "models": (m.METHODS["ListModels"], (), [{"name": "double"}]),
    "model": (m.METHODS["GetModel"], ("double",), [*WHERE]),
    "predict": (m.METHODS["Predict"], ("double", ROWS), [{"outputs": ["y"], **one} for one in WHERE]),
    "predict_named": (m.METHODS["Predict"], ("double", ROWS), [{"outputs": "y", **one} for one in WHERE]),
    "explain": (m.METHODS["Explain"], ("double", ROWS), [{**EXPLAINED, **one} for one in WHERE]),
    "node_shapes": (m.METHODS["GetNodeShapes"], ("double",), [{"layers": ("a", "b"), **one} for one in WHERE]),
    "download": (m.METHODS["DownloadModel"], ("double", "."), [{"format": "keras3_h5", **one} for one in WHERE]),
    "runs": (
        m.METHODS["ListRuns"],
        (),
        [
            {
                **{"model": "double", "state": ("running", "failed"), "kind": "evaluation", "metadata": {"a": "1"}},
                **{"caller": "ann", "created_after": NOON, "created_before": NOON, "limit": 7, "oldest_first": True},
            }
        ],
    ),
    "train": (
        m.METHODS["Train"],
        ("double",),
        [{**ALWAYS, **WEIGHTED, "validation_data": (X, X), **one} for one in WHERE],
    ),
    "evaluate": (m.METHODS["Evaluate"], ("double",), [{**ALWAYS, **WEIGHTED, **one} for one in WHERE]),
    "sample_losses": (m.METHODS["Evaluate"], ("double",), [{**ALWAYS, **WEIGHTED, **one} for one in WHERE]),
    "score": (m.METHODS["Score"], ("double", "0123abcd"), [{**SCORED, **one} for one in WHERE]),
    "predict_many": (m.METHODS["PredictStream"], ("double", [ROWS]), [{"outputs": ["y"], **one} for one in WHERE]),
    "upload": (
        m.METHODS["UploadModel"],
        ("double", "m.keras"),
        [{"golden": "g.npz", "settings": "s.toml", "label": "best"}],
    ),
    "roll_back": (m.METHODS["RollBack"], ("double",), [{"version": 1}]),
    "delete_version": (m.METHODS["DeleteVersion"], ("double", 1), [{"force": True}]),
    "delete_model": (m.METHODS["DeleteModel"], ("double",), [{"force": True}]),
    "prepare": (m.METHODS["Predict"], ("double",), [{"outputs": ["y"], **one} for one in WHERE]),
    "statistics": (m.METHODS["GetModelStatistics"], (), [{"model": "double"}]),
    "graph": (m.METHODS["GetNodeShapes"], ("double",), [*WHERE]),
    "series": (m.METHODS["GetRunSeries"], (["r"],), [{"names": ("loss",), "max_points": 9, "by": "step"}]),
}
OF_RUNS: Table = {
    "update": (
        m.METHODS["UpdateRun"],
        (),
        [
            {"priority": 7, "description": "later", "metadata": {"a": None}},
            {"priority": 0, "description": "", "metadata": {"a": None, "b": "2"}},
            {"metadata": {"b": "2"}},
        ],
    ),
    "publish": (m.METHODS["PublishRun"], (), [{"label": "best", "expected_base_version": 1}]),
}

#: Options that take the place of others, or that the request doesn't hold alone: tests of these methods have them.
OTHERS = {
    "download": {"path"},
    "graph": {"rankdir", "limit"},
    "predict_named": {"timing"},  # it is metadata
    "sequence": {"version", "label"},
    "wait_until_ready": {"model", "version", "label"},
}


@pytest.mark.parametrize(("name", "method", "arguments", "options"), cases(METHODS))
def test_options_of_the_client_arrive(client, request_of, name, method, arguments, options):
    check_options(request_of, getattr(client, name), method, arguments, options)


@pytest.mark.parametrize(("name", "method", "arguments", "options"), cases(OF_RUNS))
def test_options_of_runs_arrive(client, request_of, name, method, arguments, options):
    run = client.train("double", X, X)
    check_options(request_of, getattr(run, name), method, arguments, options)


def test_every_option_of_a_method_has_an_entry():
    assert without_entry(Client, METHODS) | without_entry(TrainingRun, OF_RUNS) == OTHERS


def test_each_page_of_runs_is_asked_for_with_the_same_filters():
    chosen = ("double", ("failed",), "training", {"a": "1"}, "ann", NOON, NOON, 600)
    flow = list_runs(*chosen, oldest_first=True)
    asked = [MessageToDict(next(flow).request)]
    step = flow.send(ListRunsResponse(runs=[Run(id="r")] * 300, next_page_token="2"))
    asked.append(MessageToDict(step.request))
    with pytest.raises(StopIteration) as ended:
        flow.send(ListRunsResponse(runs=[Run(id="r")] * 300, next_page_token="3"))
    assert len(ended.value.value) == 600
    assert [(one.pop("pageToken", ""), one.pop("pageSize")) for one in asked] == [("", 500), ("2", 300)]
    assert asked[0] == asked[1]
    assert len(asked[0]) == 8
