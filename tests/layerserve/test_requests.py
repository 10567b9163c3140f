"""Every option of a method reaches the first request of its call, alone and with all others."""

from __future__ import annotations

import inspect
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict
from layerserve import Client, TrainingRun
from layerserve.calls import async_channel, channel
from layerserve.calls import methods as m
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.run_selection import list_runs
from layerserve.v1.training_pb2 import ListRunsResponse, Run

X = np.ones((4, 3), np.float32)
ROWS = [[1.0, 2.0, 3.0]]
CHECKPOINT = "run-1/best"
WHERE = {"version": 1}, {"label": "stable"}
#: What every call of a method has, as it can't be left out, or is drawn at random.
ALWAYS = {"x": X, "y": X, "idempotency_key": "k"}
WEIGHTED = {"sample_weight": np.ones(4)}
NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)

#: By method of a client: the RPC whose request it fills, its arguments, and sets of options that go together.
METHODS: dict[str, tuple[m.Method[Any, Any], tuple[Any, ...], list[dict[str, Any]]]] = {
    "models": (m.LIST_MODELS, (), [{"name": "double"}]),
    "model": (m.GET_MODEL, ("double",), [*WHERE]),
    "predict": (m.PREDICT, ("double", ROWS), [{"outputs": ["y"], **one} for one in WHERE]),
    "predict_named": (m.PREDICT, ("double", ROWS), [{"outputs": "y", **one} for one in WHERE]),
    "node_shapes": (m.GET_NODE_SHAPES, ("double",), [{"layers": ("a", "b"), **one} for one in WHERE]),
    "download": (m.DOWNLOAD_MODEL, ("double", "."), [{"format": "keras3_h5", **one} for one in WHERE]),
    "runs": (
        m.LIST_RUNS,
        (),
        [
            {
                **{"model": "double", "state": ("running", "failed"), "kind": "evaluation", "metadata": {"a": "1"}},
                **{"caller": "ann", "created_after": NOON, "created_before": NOON, "limit": 7, "oldest_first": True},
            }
        ],
    ),
    "train": (m.TRAIN, ("double",), [{**ALWAYS, **WEIGHTED, "validation_data": (X, X), **one} for one in WHERE]),
    "evaluate": (m.EVALUATE, ("double",), [{**ALWAYS, **WEIGHTED, **one} for one in WHERE]),
    "sample_losses": (m.EVALUATE, ("double",), [{**ALWAYS, **WEIGHTED, **one} for one in WHERE]),
    "estimate": (
        m.ESTIMATE_RUN,
        ("double",),
        [{**ALWAYS, **WEIGHTED, "validation_data": (X, X), **one} for one in WHERE],
    ),
    "estimate_evaluation": (m.ESTIMATE_RUN, ("double",), [{**ALWAYS, **WEIGHTED, **one} for one in WHERE]),
    "predict_many": (m.PREDICT_STREAM, ("double", [ROWS]), [{"outputs": ["y"], **one} for one in WHERE]),
    "upload": (m.UPLOAD_MODEL, ("double", "m.keras"), [{"golden": "g.npz", "settings": "s.toml", "label": "best"}]),
    "upload_dataset": (m.UPLOAD_DATASET, ("d.csv",), [{"title": "t", "keep_seconds": 5.0, "shared": True}]),
    "roll_back": (m.ROLL_BACK, ("double",), [{"version": 1}]),
    "delete_version": (m.DELETE_VERSION, ("double", 1), [{"force": True}]),
    "delete_model": (m.DELETE_MODEL, ("double",), [{"force": True}]),
    "prepare": (m.PREDICT, ("double",), [{"outputs": ["y"], **one} for one in WHERE]),
    "sweeps": (m.LIST_SWEEPS, (), [{"model": "double"}]),
    "statistics": (m.GET_MODEL_STATISTICS, (), [{"model": "double"}]),
    "download_checkpoint": (m.DOWNLOAD_CHECKPOINT, ("r/best", "."), [{"state": True}, {"format": "keras3_h5"}]),
    "publish_checkpoint": (m.PUBLISH_CHECKPOINT, ("r/best",), [{"label": "best", "format": "keras3_h5"}]),
    "predict_checkpoint": (m.PREDICT_CHECKPOINT, (CHECKPOINT, ROWS), [{"outputs": ["y"]}]),
    "predict_checkpoint_named": (m.PREDICT_CHECKPOINT, (CHECKPOINT, ROWS), [{"outputs": ["y"]}]),
    "make_dataset": (
        m.MAKE_DATASET,
        ("double", {"request-1": [1.0]}),
        [{"uncorrected": True, "title": "t", "keep_seconds": 5.0, "shared": True, **one} for one in WHERE],
    ),
    "graph": (m.GET_NODE_SHAPES, ("double",), [*WHERE]),
    "series": (m.GET_RUN_SERIES, (["r"],), [{"names": ("loss",), "max_points": 9, "by": "step"}]),
}
#: The same for methods of a run.
OF_RUNS: dict[str, tuple[m.Method[Any, Any], tuple[Any, ...], list[dict[str, Any]]]] = {
    "update": (
        m.UPDATE_RUN,
        (),
        [
            {"priority": 7, "description": "later", "metadata": {"a": None}},
            {"priority": 0, "description": "", "metadata": {"a": None, "b": "2"}},
            {"metadata": {"b": "2"}},
        ],
    ),
    "publish": (m.PUBLISH_RUN, (), [{"label": "best", "expected_base_version": 1}]),
}
#: Options that change no request.
NEVER_SENT = {"timeout", "progress", "key"}
#: Options of many methods, which are in one table: `test_options` compares it with the contract.
IN_ONE_TABLE = {option.name for option in (*TRAIN, *EVALUATE)} - {"label"}
#: Options that take the place of others, or that the request doesn't hold alone: tests of these methods have them.
OTHERS = {
    "download": {"path"},
    "graph": {"rankdir", "limit"},
    "upload_dataset": {"sample_weight", "validation_data"},
    "wait_until_ready": {"model", "version", "label"},
    "train_online": {
        *("session", "version", "label", "replay_steps", "replay_share", "idle_seconds"),
        *("publish_every_seconds", "publish_every_steps"),
    },
    "sweep": {
        *("version", "label", "sample_weight", "validation_data", "method", "trials", "parallel"),
        "search_seed",
    },
}
TABLE = [
    pytest.param(of_run, name, method, arguments, options, id=f"{name} {' '.join(options)}")
    for of_run, table in ((False, METHODS), (True, OF_RUNS))
    for name, (method, arguments, sets) in table.items()
    for options in sets
]


class Recorded(Exception):
    """Ends a call whose request is known."""


@pytest.fixture
def request_of(client, server, tmp_path, monkeypatch):
    """The first request of an RPC in a call, as values by the paths of its fields; what comes before it is answered."""
    # Paths are below it; "." is a folder.
    for name in ("m.keras", "g.npz", "s.toml", "d.csv"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    run = client.train("double", X, X)
    found: list[Any] = []
    wanted: list[m.Method[Any, Any]] = []

    def note(method, request):
        if method is wanted[-1]:
            if isinstance(request, bytes):
                request = method.request.FromString(request)
            found.append(next(iter(request)) if method.streams_requests else request)
            raise Recorded

    def noted(send):
        def recorded(self, method, request, *rest, **options):
            note(method, request)
            return send(self, method, request, *rest, **options)

        return recorded

    for kind in (channel.Channel, async_channel.AsyncChannel):
        for name in ("call", "open"):
            monkeypatch.setattr(kind, name, noted(getattr(kind, name)))

    def ended(made, method):
        """Makes what a method has only prepared."""
        return list(made) if method is m.PREDICT_STREAM else made(ROWS)

    def filled(of_run, name, method, arguments, options):
        wanted.append(method)
        with pytest.raises(Recorded):
            ended(getattr(run if of_run else client, name)(*arguments, **options), method)
        return dict(_leaves(MessageToDict(found.pop(), preserving_proto_field_name=True)))

    return filled


def _leaves(value: Any, path: str = "") -> Any:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value


@pytest.mark.parametrize(("of_run", "name", "method", "arguments", "options"), TABLE)
def test_an_option_reaches_the_request_alone_and_with_all_others(request_of, of_run, name, method, arguments, options):
    required = {key: value for key, value in options.items() if key in ALWAYS}
    plain = request_of(of_run, name, method, arguments, required)
    together = request_of(of_run, name, method, arguments, options)
    expected = dict(plain)
    for option, value in options.items():
        if option in required:
            continue
        alone = request_of(of_run, name, method, arguments, {**required, option: value})
        changed = {path: value for path, value in alone.items() if plain.get(path) != value}
        assert changed, f"{option} changes nothing"
        if any(isinstance(one, list) for one in changed.values()):
            changed = {path: one for path, one in changed.items() if not isinstance(one, list)}
            assert all(_within(one, together[path]) for path, one in alone.items() if isinstance(one, list))
        expected.update(changed)
    assert {path: one for path, one in together.items() if not isinstance(one, list)} == {
        path: one for path, one in expected.items() if not isinstance(one, list)
    }


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


def _within(part: list[Any], whole: list[Any]) -> bool:
    return all(one in whole for one in part)


def test_every_option_of_a_method_has_an_entry():
    left = {}
    for kind, table in ((Client, METHODS), (TrainingRun, OF_RUNS)):
        for name, function in inspect.getmembers(kind, inspect.isfunction):
            options = {
                key
                for key, one in inspect.signature(function).parameters.items()
                if one.default is not one.empty and key not in NEVER_SENT and not name.startswith("_")
            }
            known = {key for one in table.get(name, (None, (), []))[2] for key in one}
            left[name] = options - known - IN_ONE_TABLE - ALWAYS.keys()
    assert {name: options for name, options in left.items() if options} == OTHERS
