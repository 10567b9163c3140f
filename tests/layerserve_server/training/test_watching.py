"""Who watches a run is told of its end, and of the server's, whatever else happens."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from layerserve.v1 import tensor_pb2, training_pb2_grpc
from layerserve.v1 import training_pb2 as pb
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog

X = b"\0" * 8 * 3


def waiting_run(stub: Any) -> tuple[Any, str]:
    """A run whose process waits after its first step; the call that started it, and its id."""
    data = [pb.DataArray(role=role, dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[3, 2]) for role in (1, 2)]
    spec = pb.TrainSpec(
        model=tensor_pb2.ModelSpec(name="double"),
        data=data,
        description="wait",
        compile=pb.CompileSettings(optimizer='"sgd"', loss='"mse"'),
    )
    chunks = [pb.TrainRequest(chunk=pb.DataChunk(array=index, data=X)) for index in (0, 1)]
    call = stub.Train(iter([pb.TrainRequest(spec=spec), *chunks]), timeout=60)
    for response in call:
        if response.event.HasField("step"):
            return call, response.event.run_id
    raise AssertionError("the run ended before its first step")


def test_streams_of_a_run_are_closed_at_once_when_the_server_stops(put: Any, start: Any, connect: Any) -> None:
    put(version=1)
    app = start()
    stub = training_pb2_grpc.TrainingServiceStub(connect(app))
    training, run = waiting_run(stub)
    watch = stub.WatchRun(pb.WatchRunRequest(run_id=run), timeout=60)
    for response in watch:
        if response.event.HasField("step"):
            break
    grace = 50.0
    stopping = threading.Thread(target=app.stop, args=(grace,))
    stopping.start()
    for call in (watch, training):
        with pytest.raises(grpc.RpcError, match=f"attach to run '{run}' again after it has restarted") as raised:
            list(call)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    stopping.join(grace)
    assert not stopping.is_alive()


def test_the_end_of_a_run_is_told_although_it_can_not_be_written(
    put: Any, start: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: Any
) -> None:
    put(version=1)
    stub = training_pb2_grpc.TrainingServiceStub(connect(start()))
    training, run = waiting_run(stub)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(events, "append", full)
    (tmp_path / "models" / ".layerserve" / "runs" / run / "go").touch()
    *_, last = training
    assert last.event.WhichOneof("kind") == "finished"
    (record,) = [record for record in caplog.records if "can't write an event" in record.getMessage()]
    assert (record.getMessage(), record.run) == ("can't write an event of the run: No space left on device", run)
    (again,) = stub.WatchRun(pb.WatchRunRequest(run_id=run, from_sequence=last.event.sequence), timeout=60)
    assert again.event.WhichOneof("kind") == "finished"


@pytest.mark.parametrize(("damage", "end"), [("lost", "finished"), ("shortened", "finished"), ("invalid", "failed")])
def test_the_end_of_a_run_is_told_although_its_events_were_damaged_meanwhile(
    put: Any, start: Any, connect: Any, tmp_path: Path, damage: str, end: str
) -> None:
    put(version=1)
    app = start()
    stub = training_pb2_grpc.TrainingServiceStub(connect(app))
    training, run = waiting_run(stub)
    folder = tmp_path / "models" / ".layerserve" / "runs" / run
    file = folder / "events.jsonl"
    if damage == "lost":
        file.unlink()
    elif damage == "shortened":
        os.truncate(file, 10)
    else:
        with file.open("ab") as lines:
            lines.write(b"{}\n")
    (folder / "go").touch()
    *_, last = training
    assert last.event.WhichOneof("kind") == end
    *_, again = stub.WatchRun(pb.WatchRunRequest(run_id=run), timeout=60)
    assert again.event.WhichOneof("kind") == end
    # The next server finds it, too.
    if damage != "invalid":
        first, *_, again = EventLog.read(folder).copy()
        assert (type(first.what), type(again.what)) == (events.Accepted, events.Finished)
    # It no longer takes a place in the queue.
    assert not app.runs.table.list()[0].owned
