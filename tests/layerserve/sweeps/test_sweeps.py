"""Sweeps by both clients: what is asked of the server, what it answers, and what is refused before it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import DeadlineExceeded, InvalidArgument, ServerFile, TrainingCancelled, TrainingFailed
from layerserve.calls import methods
from layerserve.sweeps import Range, SweepInfo, Trial
from layerserve.sweeps import sweep as module
from layerserve.v1 import sweeps_pb2 as pb

X, Y = ServerFile("x.npy"), ServerFile("y.npy")
SEEDS = {"seed": [1, 2]}


def trial(number, value=None, state=pb.TRIAL_STATE_FINISHED, **fields):
    settings = [{"name": "seed", "value": str(number)}]
    return pb.Trial(number=number, state=state, settings=settings, run_id=f"run-{number}", value=value, **fields)


ENDED = pb.Sweep(
    id="s-1",
    state=pb.SWEEP_STATE_FINISHED,
    base={"name": "double", "version": 4},
    published={"version": 5},
    method=pb.SWEEP_METHOD_GRID,
    trials_total=4,
    trials_ended=4,
    monitor="loss",
    best=2,
    created_time={"seconds": 1},
    description="why",
    trials=[
        trial(0, 0.5, epochs=[1, 2], history=[0.75, 0.5], seconds=2.5),
        trial(1, 0.125, pb.TRIAL_STATE_CANCELLED),
        trial(2, 0.25, epochs=[1], history=[0.25]),
        trial(3, None, pb.TRIAL_STATE_FAILED, reason="no disk"),
    ],
)


@pytest.fixture
def asked(answer):
    """The server's answers: each method gives the sweep that has ended. Gives the requests."""
    requests = []

    def add(method, **reply):
        answer(method, lambda request, context: requests.append(request) or method.reply(**reply))

    add(methods.METHODS["CreateSweep"], sweep=ENDED)
    add(methods.METHODS["GetSweep"], sweep=ENDED)
    add(methods.METHODS["ListSweeps"], sweeps=[ENDED])
    add(methods.METHODS["CancelSweep"], sweep=ENDED)
    add(methods.METHODS["DeleteSweep"])
    return requests


def test_a_whole_dataset_is_the_data_of_all_trials(client, asked):
    pytest.importorskip("layerserve.datasets.api")
    dataset = client.datasets.upload(x=np.ones((4, 3)), y=np.ones(4))
    client.sweeps.create("double", dataset, None, SEEDS)
    ((*_, request),) = [asked]
    assert {array.dataset for array in request.spec.train.data} == {dataset.id}
    assert len(request.spec.train.data) == 2


def test_a_space_has_values_and_ranges(client, asked):
    space = {
        "seed": [np.int64(1), 2],
        "optimizer": ("adam", {"class_name": "SGD"}),
        "optimizer.learning_rate": Range(1e-5, 1e-2, log=True),
        "batch_size": Range(16, 64, 16),
        "epochs": Range(1, 3.0),
    }
    sweep = client.sweeps.create("double", X, Y, space, method="grid", trials=7, parallel=2)
    assert sweep.id == "s-1"
    spec = asked[-1].spec
    assert {one.name: one.values for one in spec.dimensions if one.values} == {
        "seed": "[1, 2]",
        "optimizer": '["adam", {"class_name": "SGD"}]',
    }
    assert {one.name: one.range for one in spec.dimensions if one.HasField("range")} == {
        "optimizer.learning_rate": pb.Range(low=1e-5, high=1e-2, log=True),
        "batch_size": pb.Range(low=16, high=64, step=16, integer=True),
        "epochs": pb.Range(low=1, high=3),
    }
    assert (spec.method, spec.trials, spec.parallel) == (pb.SWEEP_METHOD_GRID, 7, 2)
    assert not spec.HasField("seed")
    assert [(one.path, one.dataset) for one in spec.train.data] == [("x.npy", ""), ("y.npy", "")]


def test_what_is_not_given_is_left_to_the_server(client, asked):
    client.sweeps.create("double", X, Y, SEEDS, search_seed=0)
    spec = asked[-1].spec
    assert (spec.method, spec.trials, spec.parallel, spec.seed) == (pb.SWEEP_METHOD_RANDOM, 0, 0, 0)
    assert spec.HasField("seed")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"space": {"seed": "12"}}, r"space\['seed'\]: got '12', expected a list of values or a Range"),
        ({"space": {"seed": {"a": 1}}}, "expected a list of values or a Range"),
        ({"space": {"seed": 3}}, r"space\['seed'\]: got 3, expected a list of values or a Range"),
        ({"space": {"seed": [object()]}}, r"space\['seed'\]: Object of type object is not JSON"),
        ({"space": {"seed": Range("1", 2)}}, "range: got '1', expected a number"),
        ({"space": {"seed": Range(1, 2, True)}}, "range: got True, expected a number"),
        ({"method": "bayes"}, "method: got 'bayes', expected 'random' or 'grid'"),
        ({"trials": 0}, "trials: got 0, expected a whole number from 1"),
        ({"trials": 2**31}, "trials: got 2147483648, expected a whole number from 1"),
        ({"parallel": True}, "parallel: got True, expected a whole number from 1"),
        ({"parallel": 2.5}, "parallel: got 2.5, expected a whole number from 1"),
        (
            {"y": np.ones((2, 3), "float32")},
            "got an array, expected data on the server, as all trials read it: a dataset, as of client.datasets.upload",
        ),
    ],
)
def test_what_is_wrong_is_refused_before_it_is_sent(client, asked, changed, text):
    with pytest.raises(InvalidArgument, match=text):
        client.sweeps.create("double", **{"x": X, "y": Y, "space": SEEDS, **changed})
    assert asked == []


def test_a_sweep_is_found_listed_cancelled_and_deleted(client, asked):
    sweep = client.sweeps.get("s-1")
    assert sweep.info() == sweep.cancel() == client.sweeps.list("double")[0] == client.sweeps.list()[0]
    sweep.delete()
    assert asked == [
        *[pb.GetSweepRequest(sweep_id="s-1")] * 2,
        pb.CancelSweepRequest(sweep_id="s-1"),
        pb.ListSweepsRequest(model_name="double"),
        pb.ListSweepsRequest(),
        pb.DeleteSweepRequest(sweep_id="s-1"),
    ]


def test_the_best_trials_come_first_in_a_table(client, asked):
    info = client.sweeps.get("s-1").info()
    assert info.ended
    assert info.best_trial is not None
    assert info.best_trial.number == 2
    table = info.table()
    assert table.title == "double: sweep s-1, 4 of 4 trials"
    assert table.columns == ("#Trial", "State", "seed", "#loss", "#Epochs", "#Seconds", "Run")
    assert [row[:5] for row in table.rows] == [
        ("2", "finished (best)", "2", "0.25", "1"),
        ("0", "finished", "0", "0.5", "2"),
        ("1", "cancelled", "1", "0.125", "0"),
        ("3", "failed: no disk", "3", "", "0"),
    ]
    (row,) = client.sweeps.list().table().rows
    assert row[:7] == ("s-1", "double", "4", "grid", "finished", "4/4", "5")
    assert row[8] == "why"


@pytest.mark.parametrize(
    ("state", "raised"), [(pb.SWEEP_STATE_FAILED, TrainingFailed), (pb.SWEEP_STATE_CANCELLED, TrainingCancelled)]
)
def test_waiting_ends_with_the_sweep(client, answer, monkeypatch, state, raised):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    states = [pb.SWEEP_STATE_RUNNING, 99, pb.SWEEP_STATE_FINISHED]

    def look(request, context):
        return pb.GetSweepResponse(sweep={"id": "s-1", "state": states.pop(0), "reason": "no disk"})

    answer(methods.METHODS["GetSweep"], look)
    states.insert(0, pb.SWEEP_STATE_RUNNING)
    sweep = client.sweeps.get("s-1")
    assert sweep.wait().state == "finished"
    states.append(state)
    with pytest.raises(raised) as caught:
        sweep.wait()
    assert caught.value.run_id == "s-1"


def test_one_waits_for_a_sweep_as_long_as_one_likes(client, answer, monkeypatch):
    """A sweep that has ended when it is looked at again, after the first wait's timeout."""
    monkeypatch.setattr("layerserve.sweeps.sweep.LOOK_SECONDS", 0.3)
    states = iter([pb.SWEEP_STATE_RUNNING] * 2)

    def get(request, context):
        return pb.GetSweepResponse(sweep=pb.Sweep(id="s", state=next(states, pb.SWEEP_STATE_FINISHED)))

    answer(methods.METHODS["GetSweep"], get)
    sweep = client.sweeps.get("s")
    with pytest.raises(DeadlineExceeded):
        sweep.wait(timeout=0.1)
    assert sweep.wait().state == "finished"


def test_the_best_trial_of_a_sweep_stands_out():
    pytest.importorskip("matplotlib")
    trials = [Trial(n, "finished", {}, f"r{n}", 1.0, {1: 1.0, 2: 0.5 + n}, "", 1.0) for n in range(3)]
    trials.append(Trial(3, "failed", {}, "r3", None, {}, "no", 1.0))
    info = SweepInfo("s", "finished", "m", 1, 2, "", "random", 4, 4, "loss", False, 1, trials, None, None, 0, "", "")
    (lines,) = info.curves().panels.values()
    assert [(line.label, line.strong, line.faint) for line in lines] == [
        ("", False, True),
        ("trial 1 (best)", True, False),
        ("", False, True),
    ]
    assert "<svg" in info._repr_html_()
