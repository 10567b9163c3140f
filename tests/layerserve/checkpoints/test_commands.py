"""`layerserve checkpoint`: what is shown of checkpoints, and of the outputs of their models."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from layerserve.calls import methods
from layerserve.v1 import checkpoints_pb2 as pb
from layerserve.values.tensors import encode


@pytest.fixture
def kept(answer):
    """The checkpoints that the server has, and the requests that change them."""
    one = pb.Checkpoint(id="e2", epoch=2, bytes=512, best=True, logs=[{"name": "loss", "value": 0.25}])
    one.published.version = 5
    found, asked = [one], []
    reply = pb.PredictCheckpointResponse(outputs=[encode(np.array([[2.0, 4.0]], np.float32), "y")])
    answer(methods.LIST_CHECKPOINTS, lambda *_: pb.ListCheckpointsResponse(checkpoints=found))
    answer(methods.DELETE_CHECKPOINT, lambda request, _: asked.append(request) or pb.DeleteCheckpointResponse())
    answer(methods.PREDICT_CHECKPOINT, lambda request, _: asked.append(request) or reply)
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
