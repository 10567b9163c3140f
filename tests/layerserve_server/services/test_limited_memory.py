"""What callers of every contract get of models that aren't in memory now: what they get of those that are."""

import json
import threading
import urllib.request

import numpy as np
import pytest
from layerserve import Client, DeadlineExceeded, ModelNotReady
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc
from layerserve.values.tensors import decode, encode
from layerserve_server.protocols.inference import inference_pb2 as oip
from layerserve_server.repository import memory_limit
from layerserve_server.repository.version import GRAPH_BYTES

X = np.ones((3, 2), np.float32)
COLD = ("c", "d", "e", "f")


def asking(name, id=""):
    return prediction_pb2.PredictRequest(model={"name": name}, inputs=[encode(X, "x")], id=id)


def streamed(name, id):
    return prediction_pb2.PredictStreamRequest(request=asking(name, id))


class Loader:
    """Reads fake models; of those in `held` not before they may be read."""

    def __init__(self, load):
        self.read, self.held, self.gate, self._load = [], set(), threading.Event(), load
        self.begun = threading.Event()

    def __call__(self, path):
        name = path.parent.parent.name
        self.read.append(name)
        if name in self.held:
            self.begun.set()
            assert self.gate.wait(30)
        return self._load(path)


@pytest.fixture(params=["grpcio", "native"])
def served(request, start, put, load_fake, monkeypatch, wait_until):
    """A server that has room for "a" and "b" of its six models, and has loaded these behind its start."""
    monkeypatch.setattr(memory_limit, "SETTLED_SECONDS", -1.0)
    if request.param == "native":
        pytest.importorskip("pygrpc_native")
    for number, name in enumerate(("a", "b", *COLD)):
        put(name, offset=number)
    load = Loader(load_fake)
    app = start(load=load, transport=request.param, max_model_bytes=5 * GRAPH_BYTES // 2, http_port=0, tuning_seconds=0)
    wait_until(lambda: load.read == ["a", "b"] and app.repository.catalogue.describe("b")[0].memory_bytes)
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=30) as client:
        yield app, client, load


def test_every_protocol_answers_for_a_model_that_is_not_in_memory(served, connect):
    app, client, load = served
    channel = connect(app)

    def call(method, request, reply):
        send = channel.unary_unary(method, request_serializer=type(request).SerializeToString)
        return reply.FromString(send(request, timeout=30))

    service = "/inference.GRPCInferenceService/"
    assert call(service + "ModelReady", oip.ModelReadyRequest(name="c"), oip.ModelReadyResponse).ready
    listed = {info.name: info for info in client.models()}
    assert [listed[name].state for name in ("a", "c")] == ["ready", "available"]
    assert listed["c"].served_by_default
    assert listed["c"].memory_bytes == 0 < listed["a"].memory_bytes
    # None of this has loaded anything; each of these does.
    assert load.read == ["a", "b"]
    np.testing.assert_array_equal(client.predict("c", X), 2 * X + 2)
    client.wait_until_ready(model="c", timeout=5)
    metadata = call(service + "ModelMetadata", oip.ModelMetadataRequest(name="d"), oip.ModelMetadataResponse)
    assert [one.name for one in metadata.inputs] == ["x"]
    assert [spec.name for spec in client.model("e").inputs] == ["x"]
    tensor = {"name": "x", "shape": X.shape, "datatype": "FP32", "data": X.tolist()}
    body = json.dumps({"inputs": [tensor]}).encode()
    reply = urllib.request.urlopen(f"http://127.0.0.1:{app.http_port}/v2/models/f/infer", body, timeout=30)
    assert json.load(reply)["outputs"][0]["data"] == (2 * X + 5).ravel().tolist()
    stub = prediction_pb2_grpc.PredictionServiceStub(channel)
    replies = list(stub.PredictStream(iter([streamed("c", str(number)) for number in range(5)]), timeout=30))
    assert sorted(one.response.id for one in replies) == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(decode(replies[0].response.outputs[0]), 2 * X + 2)
    assert load.read == ["a", "b", *COLD, "c"]
    assert app.repository.memory.loaded_bytes() <= 5 * GRAPH_BYTES // 2
    assert client.model("c").last_used is not None


def test_callers_share_a_load_and_cost_others_nothing(served, connect, wait_until):
    app, client, load = served
    client.predict("a", X)
    load.held = {"c"}
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    # More than the threads for blocking work, of which none waits.
    calls = [stub.Predict.future(asking("c"), timeout=30) for _ in range(20)]
    wait_until(lambda: sum(entry.waiting for entry in app.repository.catalogue.entries()) == 20)
    with pytest.raises(DeadlineExceeded):
        client.predict("c", X, timeout=0.2)
    # The other one made room.
    np.testing.assert_array_equal(client.predict("a", X), 2 * X)
    assert client.predict("a", np.ones((200, 2), np.float32)).shape == (200, 2)
    assert len(client.models()) == 6
    load.gate.set()
    for one in calls:
        np.testing.assert_array_equal(decode(one.result().outputs[0]), 2 * X + 2)
    assert load.read == ["a", "b", "c"]


def test_a_model_that_is_loaded_by_a_call_is_in_memory_or_the_call_says_why(served, put):
    _, client, load = served
    client.load("c")
    assert load.read == ["a", "b", "c"]
    assert client.model("c").state == "ready"
    put("broken", text="{")
    with pytest.raises(ModelNotReady, match="truncated"):
        client.load("broken")
