"""Messages: every field that a caller sends arrives, and every field that it gets has its value."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_calls import CallObserver, FakeCall, event_batches_here
from layerserve.v1 import graph_pb2, models_pb2, tensor_pb2
from layerserve.v1 import training_pb2 as pb
from layerserve.values.table_files.table import Selection
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import InvalidRequestError, UnknownLayerError
from layerserve_server.repository.entry import Description
from layerserve_server.repository.version_states import State
from layerserve_server.services import graph, messages, model_version, run_replies, run_requests
from layerserve_server.services.run_requests import RunDefaults
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import EventWriter
from layerserve_server.training.from_checkpoint import Start
from layerserve_server.training.request import EVALUATION, TRAINING, Budget, DataArray, Role, RunRequest, View
from layerserve_server.training.run_folder.checkpoints import Checkpoint
from layerserve_server.training.run_kind import RunKind
from layerserve_server.training.runs.run import Run, RunState
from whole_messages import whole

DEFAULTS = RunDefaults(threads=3, device="cuda", nice=7, checkpoint_seconds=12.5, data_root=Path("/data"))


# What callers ask for.

DATA = [
    pb.DataArray(role=pb.DATA_ROLE_X, name="a", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[6, 2]),
    pb.DataArray(role=pb.DATA_ROLE_Y, path="y.npz", key="k"),
    pb.DataArray(role=pb.DATA_ROLE_Y, dataset="0123", key="k"),
]
ARRAYS = (
    DataArray(Role.X, "a", "float32", (6, 2)),
    DataArray(Role.Y, "", "", (), DataFile("/data", "y.npz"), Selection(key="k")),
    DataArray(Role.Y, "", "", (), DataFile("", "", "0123"), Selection(key="k")),
)
COMPILE = pb.CompileSettings(optimizer='"sgd"', loss='{"y": "mse"}')


def test_every_setting_of_a_run_arrives():
    spec = whole(
        pb.TrainSpec(
            model=tensor_pb2.ModelSpec(name="m"),
            compile=COMPILE,
            data=DATA,
            epochs=2,
            batch_size=3,
            shuffle=False,
            seed=0,
            validation_split=0.25,
            publish=True,
            publish_label="best",
            description="why",
            class_weight='{"0": 1, "3": 2.5}',
            freeze=["a*"],
            callbacks='["TerminateOnNaN"]',
            publish_choice=pb.PUBLISH_CHOICE_BEST,
            monitor="loss",
            monitor_mode="min",
            publish_if_improved="accuracy",
            priority=-4,
            steps_per_epoch=5,
            checkpoint_seconds=0.0,
            nan_policy=pb.NAN_POLICY_CONTINUE,
            budget=pb.Budget(seconds=7.5, memory_bytes=8, disk_bytes=9),
            workers=2,
            format=tensor_pb2.MODEL_FORMAT_KERAS2_H5,
            view=whole(pb.DataView(splits='{"a": 1}', split="a", validation="b", seed=0)),
            from_checkpoint="r0/e2",
            checkpoints=pb.CheckpointPolicy(every_epochs=3, every_steps=4, keep=5, keep_best=6),
            idempotency_key="once",
            metadata={"team": "search"},
            expected_base_version=4,
            on_conflict=pb.CONFLICT_POLICY_REBASE,
            lora='{"rank": 2}',
            precision=pb.PRECISION_MIXED_BFLOAT16,
        )
    )
    assert run_requests.training_request(spec, "m", 4, DEFAULTS) == RunRequest(
        model="m",
        version=4,
        data=ARRAYS,
        compile={"optimizer": "sgd", "loss": {"y": "mse"}},
        epochs=2,
        batch_size=3,
        shuffle=False,
        seed=0,
        validation_split=0.25,
        class_weight={0: 1.0, 3: 2.5},
        publish="best",
        publish_label="best",
        description="why",
        threads=3,
        device="cuda",
        nice=7,
        workers=2,
        kind=TRAINING,
        freeze=("a*",),
        callbacks=("TerminateOnNaN",),
        monitor="loss",
        monitor_mode="min",
        publish_if_improved="accuracy",
        priority=-4,
        steps_per_epoch=5,
        checkpoint_seconds=0.0,
        on_nan="continue",
        budget=Budget(7.5, 8, 9),
        format="keras2_h5",
        view=View({"a": 1.0}, "a", "b", 0),
        from_checkpoint="r0/e2",
        checkpoint_every_epochs=3,
        checkpoint_every_steps=4,
        keep_checkpoints=5,
        keep_best_checkpoints=6,
        idempotency_key="once",
        metadata={"team": "search"},
        expected_base_version=4,
        on_conflict="rebase",
        lora={"rank": 2},
        precision="mixed_bfloat16",
    )


#: A run whose every option differs from the default.
PARENT = replace(
    run_requests.training_request(
        pb.TrainSpec(
            compile=pb.CompileSettings(optimizer='"sgd"', loss='"mse"', metrics='["mae"]'),
            **{"batch_size": 3, "shuffle": False, "seed": 7, "class_weight": '{"0": 2}', "freeze": ["a*"]},
            **{"validation_split": 0.25, "priority": 3, "publish_label": "best", "steps_per_epoch": 5},
        ),
        "m",
        2,
        DEFAULTS,
    ),
    epochs=9,
)


def start(folder, request=PARENT):
    return Start(folder / "r0", Checkpoint("e2", 2, 0, 10, 1.0), request)


def test_a_run_that_goes_on_has_of_its_parent_how_to_train_unless_it_says_otherwise(tmp_path):
    given = pb.TrainSpec(data=DATA, epochs=2, batch_size=4, compile=pb.CompileSettings(optimizer='"adam"'))
    found = run_requests.training_request(given, "m", 4, DEFAULTS, start(tmp_path))
    assert (found.version, found.from_checkpoint, found.epochs, found.batch_size) == (2, "r0/e2", 2, 4)
    assert (found.shuffle, found.seed, found.class_weight, found.steps_per_epoch) == (False, 7, {0: 2.0}, 5)
    assert (found.freeze, found.validation_split) == (("a*",), 0.25)
    assert found.compile == {"optimizer": "adam", "loss": "mse", "metrics": ["mae"]}
    # What isn't about how to train is its own.
    assert (found.priority, found.publish_label, found.description, found.data) == (0, None, "", ARRAYS)


def test_a_new_loss_begins_without_the_metrics_of_the_parents(tmp_path):
    given = pb.TrainSpec(compile=pb.CompileSettings(loss='"mae"'))
    found = run_requests.training_request(given, "m", 4, DEFAULTS, start(tmp_path))
    assert found.compile == {"optimizer": "sgd", "loss": "mae"}


@pytest.mark.parametrize(
    ("role", "name"),
    [(pb.DATA_ROLE_VALIDATION_X, "validation_split"), (pb.DATA_ROLE_SAMPLE_WEIGHT, "class_weight")],
)
def test_data_that_excludes_an_option_of_the_parent_leaves_it_out(tmp_path, role, name):
    given = pb.TrainSpec(data=[pb.DataArray(role=role, path="x.npy")])
    found = run_requests.training_request(given, "m", 4, DEFAULTS, start(tmp_path))
    assert not getattr(found, name)


def test_an_evaluation_of_a_checkpoint_measures_as_its_run_does(tmp_path):
    found = run_requests.evaluation_request(pb.EvaluateSpec(), "m", 4, DEFAULTS, start(tmp_path))
    assert (found.version, found.from_checkpoint, found.batch_size) == (2, "r0/e2", 32)
    assert (found.compile, found.freeze) == (PARENT.compile, ("a*",))
    assert (found.validation_split, found.steps_per_epoch, found.class_weight) == (0.0, None, None)


def test_what_a_run_leaves_out_is_kerass_default_or_the_servers():
    request = run_requests.training_request(pb.TrainSpec(), "m", 4, DEFAULTS)
    assert 0 <= request.seed < 2**31
    assert request == RunRequest(
        "m",
        4,
        (),
        epochs=1,
        batch_size=32,
        shuffle=True,
        seed=request.seed,
        publish=True,
        threads=3,
        device="cuda",
        nice=7,
        workers=1,
        checkpoint_seconds=12.5,
        on_nan="stop",
    )
    seeds = {run_requests.training_request(pb.TrainSpec(), "m", 4, DEFAULTS).seed for _ in range(4)}
    assert len(seeds) > 1


@pytest.mark.parametrize(
    ("fields", "publish"),
    [
        ({}, True),
        ({"publish": True}, True),
        ({"publish": False}, False),
        ({"publish_choice": pb.PUBLISH_CHOICE_BEST}, "best"),
        ({"publish_choice": pb.PUBLISH_CHOICE_LAST}, True),
        ({"publish": False, "publish_choice": pb.PUBLISH_CHOICE_LAST}, False),
    ],
)
def test_what_is_published_is_said_by_two_fields(fields, publish):
    assert run_requests.training_request(pb.TrainSpec(**fields), "m", 4, DEFAULTS).publish == publish


def test_every_setting_of_an_evaluation_arrives():
    spec = whole(
        pb.EvaluateSpec(
            model=tensor_pb2.ModelSpec(name="m"),
            compile=COMPILE,
            data=DATA,
            batch_size=3,
            description="why",
            sample_losses=True,
            view=pb.DataView(seed=0),
            from_checkpoint="r0/e2",
            idempotency_key="once",
            metadata={"team": "search"},
        )
    )
    assert run_requests.evaluation_request(spec, "m", 4, DEFAULTS) == RunRequest(
        "m",
        4,
        ARRAYS,
        {"optimizer": "sgd", "loss": {"y": "mse"}},
        batch_size=3,
        publish=False,
        description="why",
        threads=3,
        device="cuda",
        nice=7,
        sample_losses=True,
        kind=EVALUATION,
        view=View(split_seed=0),
        from_checkpoint="r0/e2",
        idempotency_key="once",
        metadata={"team": "search"},
    )
    assert run_requests.evaluation_request(pb.EvaluateSpec(), "m", 4, DEFAULTS).batch_size == 32


@pytest.mark.parametrize("role", [role for role in pb.DataRole.values() if role])
def test_every_role_of_an_array_is_known_by_its_name(role):
    name = pb.DataRole.Name(role).removeprefix("DATA_ROLE_").lower()
    assert run_requests._array(pb.DataArray(role=role, path="x.npy"), "/data").role.value == name


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"callbacks": '{"a": 1}'}, "callbacks: expected a list"),
        ({"callbacks": '"a"'}, "callbacks: expected a list"),
        ({"callbacks": "["}, "callbacks: '['"),
        ({"class_weight": '{"a": 1}'}, "class_weight: expected an object"),
        ({"class_weight": '{"0": []}'}, "class_weight: expected an object"),
        ({"class_weight": "[1]"}, "class_weight: expected an object"),
        ({"class_weight": "x" * 500}, "class_weight: 'xxx"),
        (
            {"publish": False, "publish_choice": pb.PUBLISH_CHOICE_BEST},
            "publish_choice: given for a run that doesn't publish its result",
        ),
        ({"publish_choice": 7}, "publish_choice: got 7, expected one of PublishChoice"),
    ],
)
def test_settings_that_are_none_are_told(fields, text):
    with pytest.raises(InvalidRequestError) as caught:
        run_requests.training_request(pb.TrainSpec(**fields), "m", 1, DEFAULTS)
    assert str(caught.value).startswith(text)
    assert len(str(caught.value)) < 250


# Replies about runs.


def one_run(folder, *happened, **changes):
    fields = {"epochs": 2, "seed": 5, "description": "why", "priority": -1, "workers": 3, **changes}
    writer = EventWriter(folder)
    for what in happened:
        writer.write(what)
    writer.close()
    log = EventLog(folder)
    log.refresh()
    request = RunRequest("m", 4, (), **fields)
    return Run("r1", folder, request, log, RunKind(name=request.kind, slots=1, off=""))


LOGS = {"loss": 0.5, "mae": 2.0}
LOG_VALUES = [pb.LogValue(name="loss", value=0.5), pb.LogValue(name="mae", value=2.0)]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            events.Accepted("m", 4, 10),
            {"accepted": pb.RunAccepted(base=tensor_pb2.ModelSpec(name="m", version=4), data_bytes=10)},
        ),
        (events.Queued(2), {"queued": pb.RunQueued(ahead=2)}),
        (events.Queued(0), {"queued": pb.RunQueued()}),
        (events.Started(1, 2, 3), {"started": pb.RunStarted(epochs=1, steps_per_epoch=2, rows=3)}),
        (
            events.Step(1, 2, 3, 4, LOGS),
            {"step": pb.StepProgress(epoch=1, epochs=2, step=3, steps_per_epoch=4, logs=LOG_VALUES)},
        ),
        (events.Epoch(1, 2, LOGS, 0.25), {"epoch": pb.EpochEnd(epoch=1, epochs=2, logs=LOG_VALUES, seconds=0.25)}),
        (events.Log("text"), {"log": {"text": "text"}}),
        (events.Log(""), {"log": {}}),
        (
            events.Finished(3, LOGS, 1.5),
            {
                "finished": pb.RunFinished(
                    published=tensor_pb2.ModelSpec(name="m", version=3), logs=LOG_VALUES, seconds=1.5
                )
            },
        ),
        (events.Finished(0, {}, 1.5, "worse"), {"finished": pb.RunFinished(seconds=1.5, withheld="worse")}),
        (events.Finished(0, {}, 1.5, "", "pinned"), {"finished": pb.RunFinished(seconds=1.5, kept_back="pinned")}),
        (
            events.Failed("why", 1, 2, resumable=True),
            {"failed": pb.RunFailed(reason="why", epoch=1, step=2, resumable=True)},
        ),
        (events.Cancelled(3), {"cancelled": pb.RunCancelled(epoch=3)}),
        (events.Resumed(3, 4), {"resumed": pb.RunResumed(epoch=3, step=4)}),
        (
            events.Checkpoint("e3s4", 3, 4, 500),
            {"checkpoint": pb.CheckpointKept(checkpoint_id="e3s4", epoch=3, step=4, bytes=500)},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_event_arrives_whole(tmp_path, what, message):
    run = one_run(tmp_path, what)
    (event,) = run.log.events
    expected = pb.TrainEvent(run_id="r1", sequence=0, time=messages.timestamp(event.time), **message)
    assert run_replies.event_message(run, event) == expected
    assert abs(expected.time.ToNanoseconds() / 1e9 - time.time()) < 60


def test_a_run_is_described_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(run_replies, "remaining_seconds", lambda run: 7.5)
    run = one_run(
        tmp_path,
        events.Accepted("m", 4, 10),
        events.Queued(0),
        events.Started(2, 5, 30),
        events.Epoch(1, 2, {"loss": 9.0}, 0.1),
        events.Step(2, 2, 3, 5, LOGS),
        events.Resumed(2, 1),
        from_checkpoint="r0/e3",
        caller="ann",
        metadata={"team": "search"},
        idempotency_key="once",
        part_of="s1",
        part=2,
    )
    accepted, _, started = (event.time for event in run.log.events[:3])
    described = run_replies.run_message(run, owner="host a, process 1")
    assert described == whole(
        pb.Run(
            id="r1",
            state=pb.RUN_STATE_RUNNING,
            base=tensor_pb2.ModelSpec(name="m", version=4),
            epochs_done=1,
            epochs=2,
            steps_done=1,
            steps_per_epoch=5,
            logs=LOG_VALUES,
            created_time=messages.timestamp(accepted),
            started_time=messages.timestamp(started),
            seed=5,
            description="why",
            kind=pb.RUN_KIND_TRAINING,
            resumed=1,
            priority=-1,
            workers=3,
            owner="host a, process 1",
            best=pb.LogValue(name="loss", value=9.0),
            best_epoch=1,
            remaining_seconds=7.5,
            parent="r0",
            from_checkpoint="e3",
            caller="ann",
            metadata={"team": "search"},
            idempotency_key="once",
            sweep_id="s1",
            trial=2,
        ),
        *("published", "reason", "ended_time", "resumable", "withheld", "publishable", "stopped", "kept_back"),
    )


@pytest.mark.parametrize(
    ("what", "fields"),
    [
        (
            events.Finished(7, LOGS, 1.0),
            {
                "state": pb.RUN_STATE_FINISHED,
                "published": tensor_pb2.ModelSpec(name="m", version=7),
                "epochs_done": 1,
                "logs": LOG_VALUES,
            },
        ),
        (
            events.Failed("killed", 2, 3, resumable=True),
            {
                "state": pb.RUN_STATE_FAILED,
                "reason": "killed",
                "resumable": True,
                "epochs_done": 1,
                "logs": LOG_VALUES[:1],
            },
        ),
        (events.Cancelled(2), {"state": pb.RUN_STATE_CANCELLED, "epochs_done": 1, "logs": LOG_VALUES[:1]}),
    ],
    ids=["finished", "failed", "cancelled"],
)
def test_a_run_is_described_when_it_has_ended(tmp_path, what, fields):
    (tmp_path / "base").mkdir()
    before = (events.Started(2, 5, 30), events.Epoch(1, 2, {"loss": 0.5}, 0.1))
    message = run_replies.run_message(one_run(tmp_path, *before, what, kind=EVALUATION))
    for name, value in {"kind": pb.RUN_KIND_EVALUATION, "steps_done": 0, **fields}.items():
        got = getattr(message, name)
        assert (list(got) if isinstance(value, list) else got) == value, name
    assert message.ended_time.ToNanoseconds() > 0
    assert message.HasField("published") == ("published" in fields)


@pytest.mark.parametrize(
    ("own", "theirs", "prefix"),
    [
        (run_replies.STATES, RunState, "RUN_STATE_"),
        (model_version.STATES, State, "VERSION_STATE_"),
    ],
)
def test_states_have_the_same_names_on_the_wire(own, theirs, prefix):
    enum = {"RUN_STATE_": pb.RunState, "VERSION_STATE_": models_pb2.VersionState}[prefix]
    assert {member: enum.Name(number) for member, number in own.items()} == {
        member: prefix + member.name for member in theirs
    }


@pytest.mark.parametrize(
    ("name", "number"), [*((k.removeprefix("RUN_KIND_").lower(), n) for k, n in pb.RunKind.items()), ("own", 0)]
)
def test_a_kind_that_the_contract_has_is_named(name, number):
    assert run_replies.kind_number(RunRequest("m", 1, (), kind=name)) == number


# Replies about models.


def test_a_version_is_described_whole():
    one = Description(
        name="m",
        version=4,
        state=State.READY,
        reason="its file has changed",
        labels=("a", "b"),
        inputs=(SimpleNamespace(name="x", shape=(None, 2), dtype="float32"),),
        outputs=(SimpleNamespace(name="y", shape=(3,), dtype="int64"),),
        path=Path("/secret/m/4/model.h5"),
        file_bytes=17,
        keras_version="2.15.0",
        parameter_count=18,
        ready_time=1.5,
        training_run="r1",
        compiled=True,
        engines=(SimpleNamespace(rows=8, engine="onnx", milliseconds={"eager": 2.0, "onnx": 1.0}, difference=0.25),),
        choosing_engine=True,
        default=True,
        pinned=True,
        memory_bytes=19,
        used_time=2.5,
        canary_share=0.05,
        independent_rows=True,
        digest="abc",
    )
    assert model_version.model_version(one) == whole(
        models_pb2.ModelVersion(
            name="m",
            version=4,
            state=models_pb2.VERSION_STATE_READY,
            reason="its file has changed",
            labels=["a", "b"],
            inputs=[tensor_pb2.TensorSpec(name="x", dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[-1, 2])],
            outputs=[tensor_pb2.TensorSpec(name="y", dtype=tensor_pb2.DATA_TYPE_INT64, shape=[3])],
            file="model.h5",
            file_size_bytes=17,
            keras_version="2.15.0",
            parameter_count=18,
            ready_time=messages.timestamp(1.5),
            training_run="r1",
            compiled=True,
            served_by_default=True,
            choosing_engine=True,
            pinned=True,
            memory_bytes=19,
            independent_rows=True,
            digest="abc",
            last_used=messages.timestamp(2.5),
            canary_share=0.05,
            engines=[
                models_pb2.EngineChoice(
                    rows=8, engine="onnx", milliseconds={"eager": 2.0, "onnx": 1.0}, difference=0.25
                )
            ],
        )
    )


def tensor(layer, node):
    return SimpleNamespace(
        layer=layer,
        node_index=node,
        tensor_index=2,
        shape=(None, 3),
        dtype="float32",
        argument="inputs[1]",
        masked=True,
    )


TABLE = [
    SimpleNamespace(
        path="a", name="a", class_name="InputLayer", nodes=[], parameter_count=0, trainable=False, nested_outputs=[]
    ),
    SimpleNamespace(
        path="inner/b",
        name="b",
        class_name="Dense",
        nodes=[SimpleNamespace(index=1, inputs=[tensor("a", 4)], outputs=[tensor("b", 5)])],
        parameter_count=12,
        trainable=True,
        nested_outputs=[tensor("inner/b/c", 6)],
    ),
]


def wire_tensor(layer, node):
    return whole(
        graph_pb2.NodeTensor(
            layer=layer,
            node_index=node,
            tensor_index=2,
            shape=[-1, 3],
            dtype=tensor_pb2.DATA_TYPE_FLOAT32,
            argument="inputs[1]",
            masked=True,
        )
    )


def test_nodes_are_described_whole():
    node = graph_pb2.LayerNode(index=1, inputs=[wire_tensor("a", 4)], outputs=[wire_tensor("b", 5)])
    assert graph._layer(TABLE[1]) == whole(
        graph_pb2.LayerNodes(
            path="inner/b",
            name="b",
            class_name="Dense",
            nodes=[whole(node)],
            parameter_count=12,
            trainable=True,
            nested_outputs=[wire_tensor("inner/b/c", 6)],
        )
    )


def test_layers_are_chosen_by_their_paths_and_told_in_the_models_order():
    assert graph._chosen(TABLE, [], "m") == TABLE
    assert graph._chosen(TABLE, ["inner/b", "a"], "m") == TABLE
    assert graph._chosen(TABLE, ["inner/b"], "m") == TABLE[1:]
    with pytest.raises(UnknownLayerError, match="model 'm': unknown layer 'b'"):
        graph._chosen(TABLE, ["a", "b"], "m")


def test_node_shapes_end_their_lease_and_name_their_version(put, load_fake, tmp_path):
    from repositories import repository_of

    put("double", 3)
    queue = SimpleNamespace(close=lambda: None)
    repository = repository_of(tmp_path / "models", lambda path, _: load_fake(path), queue=lambda *_: queue)
    repository.scan()
    observer = CallObserver()
    batches = event_batches_here(observer)
    service = graph.GraphService(repository)
    for name in ("double", "other"):
        request = graph_pb2.GetNodeShapesRequest(model=tensor_pb2.ModelSpec(name=name))
        call = FakeCall(batches, request.SerializeToString())
        batches.begin(call)
        batches.take(call, service.get_node_shapes)
        batches.finish()
        if name == "double":
            response = graph_pb2.GetNodeShapesResponse.FromString(call.sent[0])
            assert (response.model.name, response.model.version) == ("double", 3)
            assert [spec.name for spec in (*response.inputs, *response.outputs)] == ["x", "y"]
    assert [ended[1:4] for ended in observer.ended] == [("double", "3", "OK"), ("", "", "NOT_FOUND")]
    with repository.leases.lease("double") as version:
        assert version._users == 1
        # Made once: a caller that repeats the call costs others nothing.
        version.model.node_table = lambda: pytest.fail("the nodes are listed again")
    for layers, status in (((), "OK"), (("l",), "NOT_FOUND")):
        request = graph_pb2.GetNodeShapesRequest(model=tensor_pb2.ModelSpec(name="double"), layers=layers)
        call = FakeCall(batches, request.SerializeToString())
        batches.begin(call)
        batches.take(call, service.get_node_shapes)
        batches.finish()
        assert observer.ended[-1][1:4] == ("double", "3", status)
    batches.close()
