"""`layerserve run`: the list of runs, one run, and ids of which the first digits are enough."""

from __future__ import annotations

import json

import numpy as np
import pytest
from layerserve.cli.whole_ids import whole_id
from layerserve.testing.fake_run import FakeRun
from layerserve.v1 import training_pb2 as pb
from layerserve.v1.tensor_pb2 import ModelSpec

FIRST, SECOND, THIRD = "20261129-0915-aaaa0001", "20261129-0916-aabb0002", "20261130-1200-20260003"


@pytest.fixture
def add(server):
    """Adds finished runs of these ids."""

    def add(*ids):
        for id in ids:
            spec = pb.TrainSpec(epochs=1, description=f"of {id}", data=[{"path": "x.npy"}])
            run = FakeRun(id, spec, ModelSpec(name="double", version=1))
            run.tell(accepted=pb.RunAccepted())
            run.state = pb.RUN_STATE_FINISHED
            server.runs[id] = run

    return add


def test_the_newest_twenty_runs_are_listed_and_how_to_see_more(cli, add):
    add(*(f"20261129-0915-{number:08x}" for number in range(20)))
    status, out, err = cli("run list")
    assert (status, out.count("of 20261129"), err) == (0, 20, "")
    add("20261201-0000-00000000")
    status, out, err = cli("run list")
    assert (status, out.count("of 2026")) == (0, 20)
    assert "20261201" in out
    assert err == "these are the newest 20 runs; see all with --limit 0\n"
    assert cli("run list --limit 2 --oldest-first")[2] == "these are the oldest 2 runs; see all with --limit 0\n"
    status, out, err = cli("run list --limit 0")
    assert (out.count("of 2026"), err) == (21, "")


def test_json_says_whether_there_are_further_runs(cli, add):
    add(FIRST, SECOND)
    _, out, err = cli("run list --json --limit 1")
    assert ([run["id"] for run in json.loads(out)["runs"]], json.loads(out)["more"], err) == ([SECOND], True, "")
    assert json.loads(cli("run list --json --limit 2")[1])["more"] is False


def test_a_run_is_shown(cli, add):
    add(FIRST)
    status, out, _ = cli(f"run show {FIRST}")
    assert status == 0
    rows = dict(map(str.strip, line.strip("│").split("│")) for line in out.splitlines() if "│" in line)
    assert (rows["Run"], rows["State"], rows["Description"]) == (FIRST, "finished", f"of {FIRST}")
    assert "Metadata" not in rows
    assert json.loads(cli(f"run show {FIRST} --json")[1])["id"] == FIRST


@pytest.mark.parametrize(
    ("given", "found"),
    [(FIRST, FIRST), ("20261129-0915", FIRST), ("aaaa", FIRST), ("aab", SECOND), ("20261130", THIRD)],
)
def test_first_or_random_digits_are_enough(cli, add, given, found):
    add(FIRST, SECOND, THIRD)
    assert json.loads(cli(f"run show {given} --json")[1])["id"] == found


def test_digits_of_several_runs_are_refused_with_the_candidates(cli, add, server):
    add(FIRST, SECOND, THIRD)
    for line in ("run delete aa", "run cancel aa", "run plot aa"):
        status, _, err = cli(line)
        assert status == 1
        assert err == (
            f"layerserve: run 'aa': got the first digits of 2 runs, expected those of one: {SECOND}, {FIRST}\n"
        )
    # The date of all, and the random digits of the third.
    assert "3 runs" in cli("run show 2026")[2]
    assert len(server.runs) == 3
    add(*(f"20261129-0915-{number:08x}" for number in range(20)))
    assert cli("run show 20261129")[2].endswith(" and 12 more\n")


def test_a_whole_id_is_sent_as_it_is(cli, add, server):
    add(FIRST)
    cli(f"run show {FIRST}")
    assert "ListRuns" not in [name for name, _ in server.calls]
    assert "unknown run 'zz'" in cli("run show zz")[2]


def test_an_id_of_another_form_is_whole_though_others_begin_with_it():
    ids = ["run-1", "run-10"]
    assert [whole_id("run", given, lambda: ids) for given in ("run-1", "run-10", "")] == ["run-1", "run-10", ""]


@pytest.mark.parametrize("line", ["train double --x x.npy --y x.npy --detach", "evaluate double --x x.npy --y x.npy"])
def test_a_checkpoint_to_go_on_from_is_named_by_the_first_digits_of_its_run(cli, add, server, line):
    np.save("x.npy", np.ones((4, 3)))
    add(FIRST)
    cli(f"{line} --from-checkpoint aaaa/best")
    assert server.runs["run-1"].spec.from_checkpoint == f"{FIRST}/best"
