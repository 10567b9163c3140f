from __future__ import annotations

import hashlib

import pytest
from layerserve.calls.methods import DOWNLOAD_CHECKPOINT
from layerserve.v1.checkpoints_pb2 import Checkpoint, DownloadCheckpointResponse

CONTENT = b"model"


@pytest.mark.parametrize(
    ("id", "file", "expected"),
    [
        ("e1", "model.keras", "run-1-e1.keras"),
        ("e1", "model.h5", "run-1-e1.h5"),
        ("e1", "e1.ckpt", "run-1-e1.ckpt"),
        ("../e1", "model.ke/ras", "run-1-___e1.keras"),
        ("e1", "model.a b", "run-1-e1.keras"),
    ],
)
def test_into_a_directory_a_checkpoint_is_named_after_its_run(client, answer, tmp_path, id, file, expected):
    def send(request, context):
        yield DownloadCheckpointResponse(checkpoint=Checkpoint(id=id), file=file)
        yield DownloadCheckpointResponse(data=CONTENT, sha256=hashlib.sha256(CONTENT).hexdigest())

    answer(DOWNLOAD_CHECKPOINT, send)
    saved = client.checkpoints.download("run-1/last", tmp_path)
    assert saved == tmp_path / expected
    assert saved.read_bytes() == CONTENT
