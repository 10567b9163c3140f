"""Calls about checkpoints, and the rights for them, through a real port."""

from __future__ import annotations

import errno
import os

import grpc
import pytest
from layerserve.v1 import checkpoints_pb2, checkpoints_pb2_grpc, tensor_pb2
from layerserve_server.access.caller import Caller
from layerserve_server.access.quota import Quota
from layerserve_server.training.run_folder.checkpoints import Checkpoint, KeptCheckpoints
from layerserve_server.training.run_folder.layout import KEPT
from remembered_access import World
from trainers import Trainer, spec


def test_who_may_do_what_with_checkpoints(put, start, connect, tmp_path):
    allowed = World(put, start, connect, tmp_path, 0, named=False).allowed()

    def who(method):
        return {token for token, _, one in allowed if one.endswith(f"/{method}")}

    managers = {"friend-who-manages", "stranger-who-manages", "stranger-who-may-all"}
    reads = {"owner-who-reads", "friend", "stranger-who-reads", "stranger", None}
    assert who("ListCheckpoints") == reads | managers
    assert who("DownloadCheckpoint") == who("PredictCheckpoint") == {"owner-who-reads"} | managers


def refused(ask, *arguments, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        ask(*arguments, **fields)
    return caught.value.code(), caught.value.details()


@pytest.fixture(name="kept")
def _kept(put, start, connect, tmp_path):
    """A client of a server with a run that has kept the checkpoint "e1", and the run's id."""
    put("double")
    app = start()
    channel = connect(app)
    trainer = Trainer(app, channel, tmp_path)
    run_id = trainer.train(spec(publish=False))[0].run_id
    (tmp_path / "state").write_bytes(b"1234")
    KeptCheckpoints(trainer.runs_folder / run_id / KEPT).put(Checkpoint("e1", 1, 0, 4, 12.5), tmp_path / "state")
    return checkpoints_pb2_grpc.CheckpointServiceStub(channel), run_id


def test_a_checkpoint_that_can_not_be_removed_or_downloaded_is_refused(kept, monkeypatch):
    def remove(self, id):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    stub, run_id = kept
    monkeypatch.setattr(KeptCheckpoints, "remove", remove)
    request = checkpoints_pb2.DeleteCheckpointRequest(run_id=run_id, checkpoint_id="e1")
    code, text = refused(stub.DeleteCheckpoint, request, timeout=30)
    assert (code, text) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "the checkpoint can't be removed: Read-only file system",
    )

    def download(**fields):
        request = checkpoints_pb2.DownloadCheckpointRequest(run_id=run_id, checkpoint_id="e1", **fields)
        return refused(lambda *asked, **options: list(stub.DownloadCheckpoint(*asked, **options)), request, timeout=30)

    wrong = grpc.StatusCode.INVALID_ARGUMENT
    assert download(content=9) == (wrong, "content: got 9, expected one of CheckpointContent")
    state = {"content": checkpoints_pb2.CHECKPOINT_CONTENT_STATE, "format": 1}
    assert download(**state) == (wrong, "format: got one for the state, expected none")


def test_rows_of_predictions_count_for_the_quota(kept, monkeypatch):
    stub, run_id = kept
    monkeypatch.setattr(Caller, "quota", Quota("shop", 5.0, 60.0))
    array = tensor_pb2.Tensor(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[6, 1], data=bytes(24))
    request = checkpoints_pb2.PredictCheckpointRequest(run_id=run_id, checkpoint_id="e1", inputs=[array])
    # The trainer of tests keeps no model: the call is refused once its rows are taken.
    assert refused(stub.PredictCheckpoint, request, timeout=30)[0] is not grpc.StatusCode.RESOURCE_EXHAUSTED
    code, text = refused(stub.PredictCheckpoint, request, timeout=30)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert text.startswith("caller 'shop': its quota of 5 rows per minute is used up")
