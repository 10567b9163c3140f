"""Requests to sweeps, sessions, datasets and checkpoints that ask for gigabytes in a few bytes."""

from __future__ import annotations

import json
from collections import Counter

from attacks.check import Check, Scene
from attacks.messages import MODEL, UPLOAD_DATASET, dataset_declaration, training
from layerserve.calls import methods
from layerserve.v1 import checkpoints_pb2, datasets_pb2, online_pb2, sweeps_pb2
from layerserve.v1 import training_pb2 as pb
from layerserve.v1.tensor_pb2 import DATA_TYPE_FLOAT32, ModelSpec, Tensor

from attack.trainings import expect_refusals, first_answer

#: Text of this many characters.
LONG = "x" * 4_000_000


def _sweep(*dimensions: tuple[str, str], trials: int = 4, parallel: int = 1, **fields: object) -> bytes:
    spec = sweeps_pb2.SweepSpec(
        train=_with_dataset(),
        dimensions=[sweeps_pb2.Dimension(name=name, values=values) for name, values in dimensions],
        trials=trials,
        parallel=parallel,
        **fields,  # type: ignore[arg-type]
    )
    return sweeps_pb2.CreateSweepRequest(spec=spec).SerializeToString()


def _range(low: float, high: float, step: float = 0.0, **fields: object) -> bytes:
    values = sweeps_pb2.Range(low=low, high=high, step=step, **fields)  # type: ignore[arg-type]
    dimension = sweeps_pb2.Dimension(name="optimizer.learning_rate", range=values)
    spec = sweeps_pb2.SweepSpec(train=_with_dataset(), dimensions=[dimension], method=sweeps_pb2.SWEEP_METHOD_GRID)
    return sweeps_pb2.CreateSweepRequest(spec=spec).SerializeToString()


def _with_dataset() -> pb.TrainSpec:
    spec = training()
    for array in spec.data:
        array.dataset = "0" * 64
    return spec


def _session(**fields: object) -> bytes:
    spec = online_pb2.OnlineSpec(model=ModelSpec(name=MODEL), **fields)  # type: ignore[arg-type]
    return online_pb2.TrainOnlineRequest(id=1, spec=spec).SerializeToString()


def _made(**fields: object) -> bytes:
    return datasets_pb2.MakeDatasetRequest(model=ModelSpec(name=MODEL), **fields).SerializeToString()  # type: ignore[arg-type]


def _tensors(count: int) -> list[Tensor]:
    return [Tensor(name="x", dtype=DATA_TYPE_FLOAT32, shape=[2**40, 2**40])] * count


_RATES = "optimizer.learning_rate"
SWEEP, ONLINE, MAKE = methods.CREATE_SWEEP.path, methods.TRAIN_ONLINE.path, methods.MAKE_DATASET.path
#: Path and message by what is wrong with them.
REQUESTS: dict[str, tuple[str, bytes]] = {
    "a grid of 10**12 trials": (SWEEP, _sweep(*[(f"metadata.k{n}", json.dumps(list(range(1000)))) for n in range(4)])),
    "a grid of a million values": (SWEEP, _sweep((_RATES, json.dumps([0.1] * 1_000_000)))),
    "2**31 - 1 trials": (SWEEP, _sweep((_RATES, "[0.1, 0.2]"), trials=2**31 - 1, parallel=2**31 - 1)),
    "-1 trials": (SWEEP, _sweep((_RATES, "[0.1]"), trials=-1, parallel=-1)),
    "100,000 dimensions": (SWEEP, _sweep(*[(f"d{number}", "[1]") for number in range(100_000)])),
    "a dimension with a name of megabytes": (SWEEP, _sweep((LONG, "[1]"))),
    "a dimension of attributes": (SWEEP, _sweep(("optimizer.__class__.__init__", "[1]"))),
    "deep JSON of values": (SWEEP, _sweep((_RATES, "[" * 100_000 + "]" * 100_000))),
    "values of NaN": (SWEEP, _sweep((_RATES, "[NaN, Infinity, 1e999]"))),
    "a range of 10**300 steps": (SWEEP, _range(0.0, 1.0, 1e-300)),
    "a range of NaN": (SWEEP, _range(float("nan"), float("inf"), float("nan"))),
    "a range of logarithms of 0": (SWEEP, _range(0.0, 1.0, log=True)),
    "a range that is reversed": (SWEEP, _range(1e308, -1e308, integer=True)),
    "a sweep by the number 99": (SWEEP, _sweep((_RATES, "[0.1]"), method=99)),
    "a sweep of nothing": (SWEEP, b""),
    "a replay of 2**31 - 1 steps": (ONLINE, _session(replay_steps=2**31 - 1, replay_share=1.0)),
    "a replay of NaN": (ONLINE, _session(replay_steps=-1, replay_share=float("nan"))),
    "publishing each 1e-300 seconds": (ONLINE, _session(publish_every_seconds=1e-300)),
    "publishing each -1 steps": (ONLINE, _session(publish_every_steps=-1)),
    "a session idle for NaN seconds": (ONLINE, _session(idle_seconds=float("nan"))),
    "a session idle for 1e308 seconds": (ONLINE, _session(idle_seconds=1e308)),
    "100,000 patterns of a session": (ONLINE, _session(freeze=["*a*" * 20] * 100_000)),
    "a session's description of megabytes": (ONLINE, _session(description=LONG)),
    "deep JSON of a session's weights": (ONLINE, _session(class_weight="[" * 100_000)),
    "a session of another's run": (
        ONLINE,
        online_pb2.TrainOnlineRequest(resume=online_pb2.OnlineResume(run_id="../../x")).SerializeToString(),
    ),
    "a step before a session": (
        ONLINE,
        online_pb2.TrainOnlineRequest(step=online_pb2.OnlineStep(number=2**62, x=_tensors(1))).SerializeToString(),
    ),
    "a dataset of 2**62 bytes": (UPLOAD_DATASET, dataset_declaration(bytes=2**62)),
    "a dataset of -1 bytes": (UPLOAD_DATASET, dataset_declaration(bytes=-1)),
    "a dataset kept for NaN seconds": (UPLOAD_DATASET, dataset_declaration(keep_seconds=float("nan"))),
    "a dataset with a title of megabytes": (UPLOAD_DATASET, dataset_declaration(title=LONG)),
    "a dataset with a digest of megabytes": (UPLOAD_DATASET, dataset_declaration(sha256=bytes(4_000_000))),
    "a chunk at 2**62": (
        UPLOAD_DATASET,
        datasets_pb2.UploadDatasetRequest(chunk=datasets_pb2.DatasetChunk(offset=2**62, data=b"x")).SerializeToString(),
    ),
    "100,000 corrections": (MAKE, _made(corrections=[datasets_pb2.Correction(request_id="x")] * 100_000)),
    "a correction of petabytes": (MAKE, _made(corrections=[datasets_pb2.Correction(targets=_tensors(1))])),
    "a dataset outside": (
        methods.GET_DATASET.path,
        datasets_pb2.GetDatasetRequest(dataset_id="../../../etc/passwd").SerializeToString(),
    ),
    "a checkpoint outside": (
        methods.DOWNLOAD_CHECKPOINT.path,
        checkpoints_pb2.DownloadCheckpointRequest(run_id="../..", checkpoint_id="../../x").SerializeToString(),
    ),
    "a prediction of petabytes by a checkpoint": (
        methods.PREDICT_CHECKPOINT.path,
        checkpoints_pb2.PredictCheckpointRequest(run_id="x", inputs=_tensors(100)).SerializeToString(),
    ),
    "a series of 2**31 - 1 points": (
        methods.GET_RUN_SERIES.path,
        pb.GetRunSeriesRequest(run_ids=["x"] * 100_000, max_points=2**31 - 1).SerializeToString(),
    ),
}
#: What may be done as it is asked for: it costs the session alone, which keeps batches up to a number of bytes.
HARMLESS = (
    "a replay of 2**31 - 1 steps",
    "a session idle for 1e308 seconds",
    "publishing each 1e-300 seconds",
    "a session's description of megabytes",
)


def ask(address: tuple[str, int], name: str) -> Counter[str]:
    """One of these requests: how it ends, or "accepted"."""
    path, request = REQUESTS[name]
    return first_answer(address, name, request, path, unary=path not in (ONLINE, UPLOAD_DATASET))


def _requests(scene: Scene) -> Counter[str]:
    futures = [scene.pool.submit(ask, scene.server.address, name) for name in REQUESTS]
    return expect_refusals(scene, futures, HARMLESS)


CHECKS = [Check("sweeps, sessions and datasets that ask for gigabytes", 8, _requests, memory=200.0)]
