"""Servers of a model with a run and two datasets, to which random things happen, and what each caller may do."""

from __future__ import annotations

import io
import json
import random
import shutil
from hashlib import sha256

import grpc
import numpy as np
from layerserve.errors import REASON_KEY
from layerserve.v1 import (
    checkpoints_pb2,
    datasets_pb2,
    graph_pb2,
    management_pb2,
    models_pb2,
    online_pb2,
    prediction_pb2,
    tensor_pb2,
    training_pb2,
)
from layerserve.values import tensors
from tokens import bearer, write_tokens

EVENTS_EACH = 5
#: Rights, models and names: callers of a model that names some, by the token.
CALLERS = {
    "owner": '["train"]',
    "owner-who-reads": '["predict", "read", "train"]',
    "friend-who-trains": '["train"]',
    "friend": '["predict", "read", "train"]',
    "friend-who-manages": '["predict", "read", "train", "manage"]',
    "stranger-who-predicts": '["predict"]',
    "stranger-who-reads": '["read"]',
    "stranger-who-trains": '["train"]',
    "stranger": '["predict", "read", "train"]',
    "stranger-who-manages": '["manage"]',
    "stranger-who-may-all": '["predict", "read", "train", "manage"]',
    "of-other-models": '["predict", "read", "train", "manage"]\nmodels = ["other*"]',
}
NAMED = 'callers = ["owner*", "friend*"]\n'
REFUSED = {"forbidden", "unauthenticated", "run_not_found", "model_not_found", "dataset_not_found", "version_not_found"}
#: What a caller gets who isn't refused, but finds the model out of order.
NOTHING = {"model_not_ready", "unavailable"}


class World:
    """Servers of one repository, and what callers have made there."""

    def __init__(self, put, start, connect, tmp_path, seed, *, named):
        self.random = random.Random(seed)
        self.put, self.start, self.connect = put, start, connect
        self.models, self.state = tmp_path / "models", tmp_path / "models" / ".layerserve"
        self.aside = tmp_path / "aside"
        self.options = {
            "tokens": write_tokens(
                tmp_path / "tokens.toml", {name: f"rights = {rights}" for name, rights in CALLERS.items()}
            ),
            "allow_anonymous": "predict,read,train",
        }
        self.named, self.unreadable, self.forgotten = named, False, False
        put("double")
        put("parked")
        (self.models / "parked" / "serving.json").write_text('{"loaded": false}')
        if named:
            for model in ("double", "parked"):
                (self.models / model / "layerserve.toml").write_text(NAMED)
        self.servers = []
        #: Errors by which the server says that it has a defect.
        self.defects = []
        self.open()
        self.run = self.trained("owner-who-reads")
        (self.state / "runs" / self.run / "files").mkdir(exist_ok=True)
        (self.state / "runs" / self.run / "files" / "log.csv").write_text("loss\n1\n")
        self.datasets = [self.uploaded("owner-who-reads", shared=shared) for shared in (False, True)]

    # Servers.

    def open(self):
        app = self.start(**self.options)
        self.servers.append((app, self.connect(app)))

    @property
    def channel(self):
        return self.servers[0][1]

    def restart(self):
        for app, _ in self.servers:
            app.stop()
        self.servers = []
        self.open()

    def another(self):
        """Another server on the same folder and state."""
        if len(self.servers) < 2:
            self.open()

    def scan(self):
        for app, _ in self.servers:
            app.repository.scan()
            app.runs.table.scan()

    # What callers make.

    def trained(self, token):
        array = {"dtype": tensors.dtype_enum("float32"), "shape": [2, 2]}
        spec = training_pb2.TrainSpec(
            model={"name": "double"},
            data=[
                training_pb2.DataArray(role=role, **array)
                for role in (training_pb2.DATA_ROLE_X, training_pb2.DATA_ROLE_Y)
            ],
            description="train",
            compile={"optimizer": '"sgd"', "loss": '"mse"'},
        )
        sent = [training_pb2.TrainRequest(spec=spec)]
        sent += [training_pb2.TrainRequest(chunk={"array": one, "data": b"\0" * 16}) for one in (0, 1)]
        events = list(self.stream("TrainingService/Train", sent, training_pb2.TrainResponse, token))
        assert events[-1].event.HasField("finished"), events[-1]
        return events[0].event.run_id

    def uploaded(self, token, *, shared):
        file = io.BytesIO()
        np.savez(file, x=np.full((2, 2), float(shared), np.float32))
        content = file.getvalue()
        declared = {
            "format": datasets_pb2.DATASET_FORMAT_NPZ,
            "bytes": len(content),
            "sha256": sha256(content).digest(),
            "shared": shared,
        }
        sent = [
            datasets_pb2.UploadDatasetRequest(declaration=declared),
            datasets_pb2.UploadDatasetRequest(chunk={"data": content}),
        ]
        replies = list(self.stream("DatasetService/UploadDataset", sent, datasets_pb2.UploadDatasetResponse, token))
        return replies[-1].dataset.id

    def stream(self, method, sent, reply, token):
        call = self.channel.stream_stream(
            f"/layerserve.v1.{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return call(iter(sent), metadata=bearer(token), timeout=60)

    # Events.

    def happen(self):
        name = self.random.choice([name for name in dir(self) if name.startswith("event_")])
        getattr(self, name)()
        self.scan()
        return name

    def event_settings_are_wrong(self):
        path = self.models / "double" / "layerserve.toml"
        if path.parent.is_dir() and not path.is_dir():
            path.write_text("callers = [")
            self.unreadable = True

    def event_settings_are_lost(self):
        path = self.models / "double" / "layerserve.toml"
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)

    def event_settings_are_empty(self):
        """As a full disk leaves them."""
        path = self.models / "double" / "layerserve.toml"
        if path.is_file():
            path.write_text("")

    def event_settings_are_a_folder(self):
        self.event_settings_are_lost()
        if (self.models / "double").is_dir():
            (self.models / "double" / "layerserve.toml").mkdir()
            self.unreadable = True

    def event_labels_are_wrong(self):
        if (self.models / "double").is_dir():
            (self.models / "double" / "labels.json").write_text('{"stable": ')
            self.unreadable = True

    def event_what_calls_have_set_is_wrong(self):
        if (self.models / "double").is_dir():
            (self.models / "double" / "serving.json").write_text('{"loaded": 3}')
            self.unreadable = True
        (self.models / "parked" / "serving.json").write_text("{")

    def event_remembered_callers_are_wrong(self):
        if (path := self.state / "callers" / "double.json").exists():
            path.write_text("{")
            self.unreadable = True

    def event_remembered_callers_are_lost(self):
        if not (self.models / "double" / "1").exists():
            shutil.rmtree(self.state / "callers", ignore_errors=True)
            # From now on nothing says whose a model is that comes without its settings. Its run still does.
            self.forgotten = True
            self.restart()

    def event_remembered_callers_are_lost_while_a_server_runs(self):
        shutil.rmtree(self.state / "callers", ignore_errors=True)
        self.scan()
        self.restart()

    def event_the_run_is_half_there(self):
        path = self.state / "runs" / self.run / "request.json"
        values = json.loads(path.read_text())
        values.pop(self.random.choice(["caller", "callers"]), None)
        path.write_text(json.dumps(values))
        # Those who manage the model may do all with what has no owner.
        self.unreadable = True

    def event_the_dataset_is_damaged(self):
        (self.state / "datasets" / self.datasets[0] / "dataset.json").write_text('{"id": ')

    def event_the_model_is_deleted(self):
        request = management_pb2.DeleteModelRequest(name="double", force=True)
        self.admitted("ManagementService/DeleteModel", request, "friend-who-manages")

    def event_the_folder_is_moved(self):
        if (self.models / "double").is_dir() and not self.aside.exists():
            (self.models / "double").rename(self.aside)

    def event_the_folder_is_restored(self):
        if self.aside.exists() and not self.forgotten:
            shutil.rmtree(self.models / "double", ignore_errors=True)
            self.aside.rename(self.models / "double")

    def event_the_model_is_renamed(self):
        path = self.models / "double" / "layerserve.toml"
        if path.is_file() and path.stat().st_size and not (self.models / "twice").exists():
            (self.models / "double").rename(self.models / "twice")

    def event_the_model_is_made_again(self):
        if not (self.models / "double" / "1").exists() and not self.forgotten:
            self.put("double")

    def event_the_result_is_published(self):
        for token in CALLERS:
            self.admitted("TrainingService/PublishRun", training_pb2.PublishRunRequest(run_id=self.run), token)

    def event_the_server_is_restarted(self):
        self.restart()

    def event_another_server_is_started(self):
        self.another()

    # What callers may do.

    def tries(self):
        """Calls that change nothing, by a name that says what they are about."""
        run = {"run_id": self.run}
        parked = tensor_pb2.ModelSpec(name="parked")
        inputs = [tensors.encode(np.ones((1, 2), np.float32), "x")]
        yield "parked", "PredictionService/Predict", prediction_pb2.PredictRequest(model=parked, inputs=inputs)
        for name in ("double", "twice"):
            model = tensor_pb2.ModelSpec(name=name)
            yield "model", "PredictionService/Predict", prediction_pb2.PredictRequest(model=model, inputs=inputs)
            yield "model", "ModelService/DownloadModel", models_pb2.DownloadModelRequest(model=model)
            yield "model", "ModelService/GetModel", models_pb2.GetModelRequest(model=model)
            yield "model", "GraphService/GetNodeShapes", graph_pb2.GetNodeShapesRequest(model=model)
            # No model has such a label.
            label = management_pb2.RemoveLabelRequest(name=name, label="none")
            yield "model", "ManagementService/RemoveLabel", label
        one = training_pb2
        for method, request in {
            "GetRun": one.GetRunRequest(**run),
            "WatchRun": one.WatchRunRequest(**run),
            "GetRunSeries": one.GetRunSeriesRequest(run_ids=[self.run]),
            "ListRunFiles": one.ListRunFilesRequest(**run),
            "DownloadRunFile": one.DownloadRunFileRequest(**run, name="log.csv"),
            "CancelRun": one.CancelRunRequest(**run),
            "PauseRun": one.PauseRunRequest(**run),
            "StopRun": one.StopRunRequest(**run),
            "ResumeRun": one.ResumeRunRequest(**run),
            "UpdateRun": one.UpdateRunRequest(**run),
        }.items():
            yield "run", f"TrainingService/{method}", request
        for method, request in {
            "ListCheckpoints": checkpoints_pb2.ListCheckpointsRequest(**run),
            "DownloadCheckpoint": checkpoints_pb2.DownloadCheckpointRequest(**run, checkpoint_id="last"),
            "PublishCheckpoint": checkpoints_pb2.PublishCheckpointRequest(**run, checkpoint_id="last"),
            "PredictCheckpoint": checkpoints_pb2.PredictCheckpointRequest(**run, checkpoint_id="last"),
            "DeleteCheckpoint": checkpoints_pb2.DeleteCheckpointRequest(**run, checkpoint_id="last"),
        }.items():
            yield "run", f"CheckpointService/{method}", request
        resume = online_pb2.TrainOnlineRequest(resume={"run_id": self.run})
        yield "run", "OnlineTrainingService/TrainOnline", resume
        for kind, dataset in zip(("private dataset", "shared dataset"), self.datasets, strict=True):
            yield kind, "DatasetService/GetDataset", datasets_pb2.GetDatasetRequest(dataset_id=dataset)

    def admitted(self, method, request, token):
        """Whether a call isn't refused, and finds what it is about."""
        return self.is_admitted(self.call(method, request, token, self.channel))

    def call(self, method, request, token, channel):
        """A call that is under way. Any method takes one message, whether or not it would take more."""
        method = channel.unary_stream(f"/layerserve.v1.{method}")
        return method(request.SerializeToString(), metadata=bearer(token), timeout=30)

    def is_admitted(self, call):
        try:
            next(call, None)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
                self.defects.append(error.details())
            reasons = {str(value) for key, value in call.trailing_metadata() or () if key == REASON_KEY}
            return not reasons & (REFUSED | NOTHING)
        finally:
            call.cancel()
        return True

    def allowed(self, known=frozenset()):
        """What each caller may do now, on any of the servers; what is known isn't tried."""
        found = set()
        for _, channel in self.servers:
            for token in (*CALLERS, None):
                # At once: they change nothing.
                calls = [
                    ((token, about, method), self.call(method, request, token, channel))
                    for about, method, request in self.tries()
                    if (token, about, method) not in known | found
                ]
                found |= {what for what, call in calls if self.is_admitted(call)}
                found |= {(token, "lists", one) for one in self.listed(channel, token)}
        return found

    def listed(self, channel, token):
        """What a caller finds in lists."""
        runs = self.list_of(channel, token, "TrainingService/ListRuns", training_pb2.ListRunsResponse)
        if found := [one for one in runs.runs if one.id == self.run]:
            yield "runs"
            # Its content: not every caller who sees a run may read it.
            if any(one.description for one in found):
                yield "runs with descriptions"
        datasets = self.list_of(channel, token, "DatasetService/ListDatasets", datasets_pb2.ListDatasetsResponse)
        yield from (f"dataset {self.datasets.index(one.id)}" for one in datasets.datasets)

    def list_of(self, channel, token, method, reply):
        """The reply of a method that lists something; an empty one if the caller may not ask."""
        call = channel.unary_unary(f"/layerserve.v1.{method}", response_deserializer=reply.FromString)
        try:
            return call(b"", metadata=bearer(token), timeout=30)
        except grpc.RpcError:
            return reply()


def manages(token):
    return token in ("stranger-who-manages", "stranger-who-may-all", "friend-who-manages")


def assert_nobody_gets_more(world):
    """Lets things happen. What is admitted after each must have been admitted before the first."""
    before = world.allowed()
    happened = []
    for _ in range(EVENTS_EACH):
        happened.append(world.happen())
        more = world.allowed(known=before) - before
        if world.unreadable:
            # What can't be read is open to those who manage the model.
            more = {one for one in more if not manages(one[0])}
        assert not more, (happened, sorted(more, key=str))
