"""`layerserve checkpoint`: what is shown of checkpoints, and of the outputs of their models."""

from __future__ import annotations

import json
import re
import time

import numpy as np
import pytest
from layerserve.calls import methods
from layerserve.testing import FakeRun
from layerserve.v1 import checkpoints_pb2 as pb
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.v1.training_pb2 import TrainSpec
from layerserve.values.tensors import encode


@pytest.fixture
def kept(answer):
    """The checkpoints that the server has, and the requests that change them."""
    one = pb.Checkpoint(id="e2", epoch=2, bytes=512, best=True, logs=[{"name": "loss", "value": 0.25}])
    one.published.version = 5
    found, asked = [one], []
    reply = pb.PredictCheckpointResponse(outputs=[encode(np.array([[2.0, 4.0]], np.float32), "y")])
    answer(methods.METHODS["ListCheckpoints"], lambda *_: pb.ListCheckpointsResponse(checkpoints=found))
    answer(
        methods.METHODS["DeleteCheckpoint"], lambda request, _: asked.append(request) or pb.DeleteCheckpointResponse()
    )
    answer(methods.METHODS["PredictCheckpoint"], lambda request, _: asked.append(request) or reply)
    return found, asked


def test_checkpoints_are_listed(cli, kept):
    status, out, _ = cli("checkpoint list run-1")
    assert status == 0
    assert out.splitlines()[0].strip() == "Checkpoints of run run-1"
    row = out.splitlines()[-2].replace("│", " ").split()
    day = time.strftime("%Y-%m-%d", time.localtime(0))
    assert (row[:6], row[-1]) == (["e2", "(best)", "2", "loss=0.25", "512", day], "5")
    (one,) = json.loads(cli("checkpoint list run-1 --json")[1])["checkpoints"]
    assert (one["run_id"], one["id"], one["logs"], one["published"]) == ("run-1", "e2", {"loss": 0.25}, 5)
    kept[0].clear()
    assert cli("checkpoint list run-1") == (0, "no checkpoints\n", "")


def test_a_checkpoint_is_deleted(cli, kept):
    assert cli("checkpoint delete run-1/e2") == (0, "checkpoint run-1/e2 is deleted\n", "")
    assert json.loads(cli("checkpoint delete run-1/e2 --json")[1]) == {"deleted": "run-1/e2"}
    assert kept[1] == [pb.DeleteCheckpointRequest(run_id="run-1", checkpoint_id="e2")] * 2
    status, _, error = cli("checkpoint delete run-1")
    assert status == 1
    assert "got 'run-1', expected RUN/CHECKPOINT" in error


def test_a_model_of_a_checkpoint_predicts(cli, kept, tmp_path):
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    assert cli("train double --x x.npy --y x.npy --detach")[:2] == (0, "run-1\n")
    line = "checkpoint predict run-1/best -i x=x.npy --outputs y"
    assert cli(line) == (0, "y: float32 (1, 2)\n[[2. 4.]]\n", "")
    assert json.loads(cli(f"{line} --json")[1]) == {"checkpoint": "run-1/best", "outputs": {"y": [[2, 4]]}}
    assert cli(f"{line} -o y.npy") == (0, "y: float32 (1, 2)\nwritten to y.npy\n", "")
    assert np.load(tmp_path / "y.npy").tolist() == [[2, 4]]
    assert json.loads(cli(f"{line} -o y.npy --json")[1])["outputs"] == {}
    assert [(one.run_id, one.checkpoint_id, list(one.outputs)) for one in kept[1]] == [("run-1", "best", ["y"])] * 4


def test_outputs_of_a_checkpoint_are_written_to_files(cli, answer, tmp_path):
    reply = pb.PredictCheckpointResponse(outputs=[encode(np.array([[2.0, 4.0]], np.float32), "y")])
    answer(methods.METHODS["PredictCheckpoint"], lambda *_: reply)
    np.savez(tmp_path / "d.npz", x=np.ones((4, 3)), y=np.ones((4, 3)))
    cli("train double --x d.npz:x --y d.npz:y")
    line = "checkpoint predict run-1/last -i d.npz:x"
    assert cli(f"{line} -o y.npy")[:2] == (0, "y: float32 (1, 2)\nwritten to y.npy\n")
    assert np.load(tmp_path / "y.npy").tolist() == [[2.0, 4.0]]
    assert cli(f"{line} -o y.json")[0] == 0
    assert json.loads((tmp_path / "y.json").read_text()) == {"checkpoint": "run-1/last", "outputs": {"y": [[2.0, 4.0]]}}


def test_a_command_in_two_groups_is_refused_with_both(cli):
    assert "did you mean layerserve run publish or layerserve checkpoint publish?" in cli("publish run-1")[2]


@pytest.mark.parametrize("line", ["checkpoint list aa", "checkpoint delete aa/best"])
def test_digits_of_several_runs_are_refused(cli, server, line):
    ids = ["20261129-0915-aaaaaaaa", "20261129-0916-aabbbbbb"]
    for id in ids:
        server.runs[id] = FakeRun(id, TrainSpec(data=[{"path": "x.npy"}]), ModelSpec(name="double", version=1))
    assert "run 'aa': got the first digits of 2 runs" in cli(line)[2]


@pytest.mark.parametrize("line", ["checkpoint", "checkpoint list", "checkpoint publish"])
def test_help_has_the_look_of_others(cli, line):
    assert re.match(rf"Usage: layerserve {line} \[OPTIONS\]", cli(f"{line} --help")[1])
