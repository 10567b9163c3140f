"""The whole server with layergraph in it: real files, real training processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from layergraph import Input, Model, layers, load_model
from layerserve.v1 import (
    graph_pb2,
    graph_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    prediction_pb2,
    prediction_pb2_grpc,
    tensor_pb2,
    training_pb2_grpc,
)
from layerserve.v1 import training_pb2 as pb
from layerserve.values import tensors
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

RANDOM = np.random.default_rng(0)
#: Points in the plane, and on which side of a line they lie.
X = RANDOM.normal(size=(256, 2)).astype(np.float32)
Y = (X[:, 0] > X[:, 1]).astype(np.int64)


def dense():
    x = Input((2,), name="x")
    hidden = layers.Dense(16, activation="relu", name="hidden")(x)
    return Model(x, layers.Dense(2, activation="softmax", name="side")(hidden))


def compiled():
    model = dense()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def headline():
    words = Input((None,), dtype="int32", name="words")
    number = Input((1,), name="number")
    text = layers.LSTM(4, name="text")(layers.Embedding(10, 3, name="vectors")(words))
    together = layers.concatenate([text, number])
    return Model([words, number], [layers.Dense(1, name="main")(together), layers.Dense(1, name="aux")(text)])


def vision():
    image = Input((9, 9, 1), name="image")
    features = layers.Flatten()(layers.MaxPooling2D()(layers.Conv2D(2, 3, name="conv")(image)))
    return Model(image, layers.Dense(2, name="out")(features))


@dataclass
class Server:
    """A server of real models, and its stubs."""

    app: App
    root: Path
    channel: grpc.Channel

    def predict(self, model, outputs=(), version=None, **inputs):
        return self.predict_later(model, outputs, version, **inputs).result()

    def predict_later(self, model, outputs=(), version=None, **inputs):
        message = prediction_pb2.PredictRequest(
            model=tensor_pb2.ModelSpec(name=model, version=version),
            inputs=[tensors.encode(array, name) for name, array in inputs.items()],
            outputs=outputs,
        )
        return prediction_pb2_grpc.PredictionServiceStub(self.channel).Predict.future(message, timeout=60)

    def train(self, model="dense", x=X, y=Y, optimizer='"adam"', loss='"sparse_categorical_crossentropy"', **fields):
        data = [
            pb.DataArray(role=role, dtype=tensors.dtype_enum(array.dtype.name), shape=array.shape)
            for role, array in ((pb.DATA_ROLE_X, x), (pb.DATA_ROLE_Y, y))
        ]
        spec = pb.TrainSpec(
            model=tensor_pb2.ModelSpec(name=model),
            compile=pb.CompileSettings(optimizer=optimizer, loss=loss),
            data=data,
            **fields,
        )
        messages = [pb.TrainRequest(spec=spec)]
        messages += [
            pb.TrainRequest(chunk=pb.DataChunk(array=index, data=array.tobytes())) for index, array in enumerate((x, y))
        ]
        for response in training_pb2_grpc.TrainingServiceStub(self.channel).Train(iter(messages), timeout=120):
            yield response.event


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for make in (dense, compiled, headline, vision):
        folder = root / make.__name__ / "1"
        folder.mkdir(parents=True)
        make().save(folder / "model.keras")
    whole = (root / "dense" / "1" / "model.keras").read_bytes()
    (root / "truncated.keras").write_bytes(whole[: len(whole) // 2])
    settings = Settings(path=root, host="127.0.0.1", grpc_port=0, metrics_port=-1, training_threads=1)
    with App(settings) as app, grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        yield Server(app, root, channel)


def arrays(response):
    return {tensor.name: tensors.decode(tensor) for tensor in response.outputs}


def model_file(server, name, version=1):
    return load_model(server.root / name / str(version) / "model.keras")


def test_predict_gives_what_the_model_gives(server):
    response = server.predict("dense", x=X)
    np.testing.assert_allclose(arrays(response)["side"], model_file(server, "dense").predict(X), rtol=0, atol=1e-6)


def test_any_tensor_of_the_graph_can_be_asked_for(server):
    got = arrays(server.predict("dense", ["hidden", "side", "hidden:0:0"], x=X[:3]))
    assert got["hidden"].shape == (3, 16)
    np.testing.assert_array_equal(got["hidden"], got["hidden:0:0"])
    with pytest.raises(grpc.RpcError) as caught:
        server.predict("dense", ["hidden:7"], x=X[:3])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_outputs_need_only_their_own_inputs(server):
    got = arrays(server.predict("headline", ["aux"], words=np.array([[1, 2, 3]], np.int64)))
    assert got["aux"].shape == (1, 1)


def test_a_missing_last_axis_is_mended(server):
    words = np.array([[1, 2], [3, 4]], np.int32)
    one = arrays(server.predict("headline", words=words, number=np.array([[0.5], [1.5]], np.float32)))
    other = arrays(server.predict("headline", words=words, number=np.array([0.5, 1.5])))
    np.testing.assert_array_equal(one["main"], other["main"])


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("dense", {"x": np.zeros((0, 2), np.float32)}),
        ("headline", {"words": np.zeros((0, 5), np.int32), "number": np.zeros((0, 1), np.float32)}),
        ("vision", {"image": np.zeros((0, 9, 9, 1), np.float32)}),
    ],
)
def test_zero_rows_give_zero_rows(server, model, inputs):
    got = arrays(server.predict(model, **inputs))
    assert [array.shape[0] for array in got.values()] == [0] * len(got) != []
    assert all(array.shape[1] > 0 for array in got.values())


def test_an_id_that_is_out_of_range_fails_only_its_caller(server):
    number = np.zeros((1, 1), np.float32)
    calls = [
        server.predict_later("headline", words=np.array([[word, 1, 2]], np.int32), number=number)
        for word in (1, 77, 3, -2, 5)
    ]
    for call, offender in zip(calls, (None, "77", None, "-2", None), strict=True):
        if offender is None:
            assert call.result().outputs[0].shape == [1, 1]
            continue
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert offender in caught.value.details()


def test_a_truncated_file_is_listed_with_its_reason(server):
    stub = models_pb2_grpc.ModelServiceStub(server.channel)
    (broken,) = stub.ListModels(models_pb2.ListModelsRequest(name="truncated"), timeout=30).versions
    assert broken.state == models_pb2.VERSION_STATE_FAILED
    assert "truncated.keras: " in broken.reason
    assert str(server.root) not in broken.reason


def test_node_shapes_come_over_the_wire(server):
    stub = graph_pb2_grpc.GraphServiceStub(server.channel)
    model = tensor_pb2.ModelSpec(name="headline")
    response = stub.GetNodeShapes(graph_pb2.GetNodeShapesRequest(model=model, layers=["text", "vectors"]), timeout=30)
    assert [layer.path for layer in response.layers] == ["vectors", "text"]
    (node,) = response.layers[1].nodes
    assert [(tensor.layer, list(tensor.shape)) for tensor in node.inputs] == [("vectors", [-1, -1, 3])]
    assert [list(tensor.shape) for tensor in node.outputs] == [[-1, 4]]
    assert [spec.name for spec in response.inputs] == ["words", "number"]
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetNodeShapes(graph_pb2.GetNodeShapesRequest(model=model, layers=["txt"]), timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "did you mean 'text'" in caught.value.details()


# Training.


def accuracy(server, model, version=None):
    (got,) = arrays(server.predict(model, version=version, x=X)).values()
    return (got.argmax(1) == Y).mean()


def test_training_publishes_a_version_that_answers_better_from_settings_in_the_file(server):
    events = list(server.train("compiled", optimizer="", loss="", epochs=30, seed=1, validation_split=0.1))
    finished = events[-1].finished
    assert finished.published.version == 2
    assert {log.name for log in finished.logs} == {"accuracy", "loss", "val_accuracy", "val_loss"}
    epochs = [event.epoch.epoch for event in events if event.HasField("epoch")]
    assert epochs == list(range(1, 31))
    assert server.predict("compiled", x=X).model.version == 2
    assert accuracy(server, "compiled") > max(0.9, accuracy(server, "compiled", version=1))
    assert load_model(server.root / "compiled" / "2").compiled


def test_a_loss_that_is_no_number_fails_the_run_with_its_step(server):
    poisoned = X.copy()
    poisoned[100] = np.nan
    failed = list(server.train(x=poisoned, shuffle=False))[-1].failed
    assert (failed.reason, failed.epoch, failed.step) == ("loss is nan in step 4 of epoch 1", 1, 4)
    assert server.predict("dense", x=X).model.version == 1


def test_labels_that_only_the_data_shows_to_be_wrong_fail_the_run(server):
    failed = list(server.train(y=Y + 5))[-1].failed
    assert failed.reason
    assert "internal" not in failed.reason


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"loss": '"sparse_categorical_crossentropi"'}, grpc.StatusCode.INVALID_ARGUMENT, "did you mean"),
        ({"optimizer": '"adm"'}, grpc.StatusCode.INVALID_ARGUMENT, "did you mean 'adam'"),
        ({"y": np.zeros((256, 3), np.float32), "loss": '"mse"'}, grpc.StatusCode.INVALID_ARGUMENT, "3"),
        ({"y": Y[:9]}, grpc.StatusCode.INVALID_ARGUMENT, "differ in rows"),
        ({"x": X[:, :1]}, grpc.StatusCode.INVALID_ARGUMENT, "x 'x': got length 1 on axis 1"),
        ({"optimizer": "", "loss": ""}, grpc.StatusCode.FAILED_PRECONDITION, "neither the request nor the model file"),
    ],
)
def test_requests_that_can_not_be_trained_are_refused_before_they_run(server, fields, code, text):
    with pytest.raises(grpc.RpcError) as caught:
        next(server.train(**fields))
    assert caught.value.code() is code
    assert text in caught.value.details()
