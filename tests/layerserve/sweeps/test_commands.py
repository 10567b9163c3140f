"""`layerserve sweep`: search spaces on the command line, and what is shown of sweeps."""

from __future__ import annotations

import json

import pytest
from layerserve import InvalidArgument
from layerserve.calls import methods
from layerserve.sweeps import Range
from layerserve.sweeps.commands import read_space
from layerserve.training.options.arguments import TRAIN
from layerserve.v1 import sweeps_pb2 as pb
from layerserve.v1.sweeps_pb2 import CreateSweepResponse
from option_values import check_all, run_with_all_flags

TRIAL = pb.Trial(
    state=pb.TRIAL_STATE_FINISHED,
    settings=[{"name": "seed", "value": "7"}],
    run_id="run-7",
    value=0.25,
    epochs=[1],
    history=[0.25],
)
ENDED = pb.Sweep(
    id="s-1",
    state=pb.SWEEP_STATE_FINISHED,
    base={"name": "double", "version": 4},
    published={"version": 5},
    trials_total=1,
    trials_ended=1,
    monitor="loss",
    best=0,
    trials=[TRIAL],
)


@pytest.fixture
def sweep(answer):
    """The sweep that the server has."""
    found = pb.Sweep()
    found.CopyFrom(ENDED)
    answer(methods.CREATE_SWEEP, lambda *_: pb.CreateSweepResponse(sweep=found))
    answer(methods.GET_SWEEP, lambda *_: pb.GetSweepResponse(sweep=found))
    answer(methods.LIST_SWEEPS, lambda *_: pb.ListSweepsResponse(sweeps=[found] if found.id else []))
    answer(methods.CANCEL_SWEEP, lambda *_: pb.CancelSweepResponse(sweep=found))
    answer(methods.DELETE_SWEEP, lambda *_: pb.DeleteSweepResponse())
    return found


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1,2.5,adam,true,null", [1, 2.5, "adam", True, None]),
        ('a=[1, {"class_name": "SGD"}]', [1, {"class_name": "SGD"}]),
        ("a=x=y", ["x=y"]),
        ("a=1..8", Range(1, 8)),
        ("a=1..8:step=2", Range(1, 8, 2)),
        ("a=-1.5..2", Range(-1.5, 2)),
        ("a=1e-5..1e-2:log", Range(1e-5, 1e-2, log=True)),
    ],
)
def test_values_and_ranges_of_a_setting(text, values):
    found = read_space([text, "b=0"])
    assert found == {"a": values, "b": [0]}
    assert repr(found["a"]) == repr(values), "integers stay integers"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["a"], "--try a: expected NAME=VALUES, such as batch_size=16,32"),
        (["a="], "--try a=: expected NAME=VALUES"),
        (["=1"], "--try =1: expected NAME=VALUES"),
        (["a=1", "a=2"], "--try a=2: got 'a' twice, expected each setting once"),
        (["a=[1"], "--try a=[1: "),
        (["a=1..b"], "--try a=1..b: got 'b', expected a number"),
        (["a=1..2:linear"], "got 'linear', expected log or step=N"),
        (["a=1..2:step=x"], "got 'x', expected a number"),
    ],
)
def test_what_is_no_space_is_refused(arguments, text):
    with pytest.raises(InvalidArgument) as caught:
        read_space(arguments)
    assert text in str(caught.value)


def test_a_sweep_is_watched_to_its_end(cli, sweep):
    line = "sweep start double --x server:x.npy --y server:y.npy --try seed=7"
    status, out, error = cli(line)
    assert (status, error) == (0, "trial 0 of 1: finished, loss 0.25\n")
    assert "run-7" in out
    assert out.endswith("published double version 5\n")
    status, out, error = cli(f"{line} --json")
    assert (status, error, json.loads(out)["trials"][0]["settings"]) == (0, "", {"seed": 7})
    assert cli(f"{line} --detach") == (0, "s-1\n", "")
    assert json.loads(cli(f"{line} --detach --json")[1]) == {"sweep": "s-1"}
    status, _, error = cli(f"{line} --validation-x server:v.npy")
    assert status == 1
    assert "got one of --validation-x and --validation-y, expected both or none" in error


def test_sweeps_are_listed_and_shown(cli, sweep):
    status, out, _ = cli("sweep list")
    assert status == 0
    assert "s-1" in out
    assert [one["id"] for one in json.loads(cli("sweep list --json")[1])["sweeps"]] == ["s-1"]
    assert "run-7" in cli("sweep show s-1")[1]
    assert json.loads(cli("sweep show s-1 --json")[1])["version"] == 5
    sweep.ClearField("published")
    sweep.reason = "no improvement"
    assert cli("sweep show s-1")[1].endswith("not published: no improvement\n")
    sweep.Clear()
    assert cli("sweep list")[:2] == (0, "no sweeps\n")


def test_sweeps_are_cancelled_and_deleted(cli, sweep):
    assert cli("sweep cancel s-1") == (0, "sweep s-1 of double is finished\n", "")
    sweep.state = pb.SWEEP_STATE_RUNNING
    assert cli("sweep cancel s-1") == (0, "sweep s-1 of double is being cancelled\n", "")
    assert json.loads(cli("sweep cancel s-1 --json")[1])["state"] == "running"
    assert cli("sweep delete s-1") == (0, "sweep s-1 is deleted\n", "")
    assert json.loads(cli("sweep delete s-1 --json")[1]) == {"deleted": "s-1"}


def test_the_log_of_all_trials_is_plotted(cli, sweep, tmp_path):
    pytest.importorskip("matplotlib")
    assert cli("sweep plot s-1 a.svg")[0] == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
    status, _, error = cli("sweep plot s-1 a.txt")
    assert status == 1
    assert ".png" in error


def test_a_sweep_that_ends_later_is_being_cancelled(cli, sweep):
    assert cli("sweep cancel s-1")[1] == "sweep s-1 of double is finished\n"
    sweep.state = pb.SWEEP_STATE_RUNNING
    assert cli("sweep cancel s-1")[1] == "sweep s-1 of double is being cancelled\n"


def test_first_digits_of_the_id_of_a_sweep_are_enough(cli, answer):
    ids = ["20261129-0915-aaaa0001", "20261129-0916-bbbb0002"]
    answer(methods.LIST_SWEEPS, lambda *_: pb.ListSweepsResponse(sweeps=[pb.Sweep(id=id) for id in ids]))
    asked = []
    answer(methods.DELETE_SWEEP, lambda request, _: asked.append(request.sweep_id) or pb.DeleteSweepResponse())
    answer(methods.GET_SWEEP, lambda request, _: pb.GetSweepResponse(sweep=pb.Sweep(id=request.sweep_id)))
    assert cli("sweep delete bb") == (0, f"sweep {ids[1]} is deleted\n", "")
    assert asked == [ids[1]]
    status, _, err = cli("sweep delete 2026")
    assert status == 1
    assert err.endswith(f"sweep '2026': got the first digits of 2 sweeps, expected those of one: {', '.join(ids)}\n")


def test_every_flag_arrives(server, answer):
    asked = []
    answer(methods.CREATE_SWEEP, lambda request, _: asked.append(request.spec.train) or CreateSweepResponse())
    assert run_with_all_flags("sweep start double --detach --try seed=1,2", TRAIN, server.address) == 0
    check_all(asked[0], TRAIN)
