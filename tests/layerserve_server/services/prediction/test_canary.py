"""Canaries on the wire: a caller gets one version, whatever the road of its requests."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.errors import (
    BusyError,
    NotLoadedError,
    UnavailableError,
    UnknownLabelError,
    UnknownModelError,
    UnknownVersionError,
    VersionFailedError,
)
from layerserve_server.observability.metrics import Metrics
from layerserve_server.repository.canary import Canary
from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.leases import Leases

X = np.ones((1, 2), np.float32)


@pytest.fixture
def settings(put, tmp_path):
    """Versions 1, the default, and 2, the canary of half of the callers. Writes other settings."""
    put(version=1, offset=10)
    put(version=2, offset=20)
    folder = tmp_path / "models" / "double"
    (folder / "labels.json").write_text(json.dumps({"canary": 2}))

    def write(share="50 %"):
        (folder / "layerserve.toml").write_text(f'default_version = 1\ncanary = "{share}"')

    write()
    return write


def message(rows=1, **model):
    spec = tensor_pb2.ModelSpec(name="double", **model)
    x = np.ones((rows, 2), np.float32)
    return prediction_pb2.PredictRequest(model=spec, inputs=[tensors.encode(x, "x")])


def version_of(reply):
    """The version, which the numbers must be of."""
    (y,) = [tensors.decode(one) for one in reply.outputs]
    assert (y == 2 + 10 * reply.model.version).all()
    return reply.model.version


def ask(channel, key=None, **model):
    metadata = [("layerserve-key", key)] if key is not None else []
    stub = prediction_pb2_grpc.PredictionServiceStub(channel)
    return version_of(stub.Predict(message(**model), metadata=metadata, timeout=30))


def expected(key, share=0.5):
    return 2 if Canary("double", 2, share).takes(f"key {key}") else 1


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_each_caller_has_one_version(settings, start, connect, transport):
    app = start(transport=transport)
    channel = connect(app)
    keys = [f"user-{number}" for number in range(40)]
    # The first time a message is read by protobuf, then known by its bytes.
    for _ in range(3):
        assert {key: ask(channel, key) for key in keys} == {key: expected(key) for key in keys}
    settings("80 %")
    app.repository.scan()
    assert {key: ask(channel, key) for key in keys} == {key: expected(key, 0.8) for key in keys}
    settings("0 %")
    app.repository.scan()
    assert {ask(channel, key) for key in keys} == {1}


def test_calls_that_come_together_are_divided(settings, start, connect):
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(start()))
    keys = [f"user-{number % 50}" for number in range(400)]
    for rows in (1, 1, 2):
        calls = [stub.Predict.future(message(rows), metadata=[("layerserve-key", key)], timeout=30) for key in keys]
        assert [version_of(call.result()) for call in calls] == [expected(key) for key in keys]


def test_a_request_that_names_a_version_or_label_gets_it(settings, start, connect):
    settings("100 %")
    channel = connect(start())
    for _ in range(2):
        assert (ask(channel, "k"), ask(channel, "k", version=1), ask(channel, "k", label="canary")) == (2, 1, 2)


def test_without_a_key_a_caller_is_its_address(settings, start, connect):
    app = start()
    versions = Counter(ask(connect(app)) for _ in range(8))
    assert versions == {2 if Canary("double", 2, 0.5).takes("address 127.0.0.1") else 1: 8}


def test_requests_of_a_stream_have_its_key(settings, start, connect):
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(start()))
    for key in ("a", "b", "c", "d", "e", "f"):
        requests = [prediction_pb2.PredictStreamRequest(request=message()) for _ in range(3)]
        replies = list(stub.PredictStream(iter(requests), metadata=[("layerserve-key", key)], timeout=30))
        assert {version_of(one.response) for one in replies} == {expected(key)}


def test_a_canary_that_was_unloaded_a_moment_ago_costs_no_request(settings, start, connect):
    settings("100 %")
    app = start()
    channel = connect(app)
    assert ask(channel, "k") == 2
    for version in (7, 2):
        # As between the unloading of a version and the end of the scan.
        app.repository.catalogue.canaries = {"double": Canary("double", version, 1.0)}
        entry = app.repository.catalogue.find_entry("double", 2)
        with app.repository.catalogue.lock:
            app.repository.memory.unload(entry)
        for _ in range(3):
            assert ask(channel, "k") == 1


@pytest.mark.parametrize(
    "error",
    [
        UnknownVersionError,
        UnknownModelError,
        UnknownLabelError,
        VersionFailedError,
        NotLoadedError,
        UnavailableError,
        BusyError,
    ],
)
def test_the_callers_of_a_canary_that_can_not_answer_get_the_default(error):
    """It was chosen a moment ago: it may be unloaded since, have failed, or be excluded."""

    def lease_loaded(name, version, label, *, kept):
        if version == 2:
            raise error("no") if error is not BusyError else error("no", 1.0)
        return f"lease of {name}"

    leases = Leases(Catalogue(), SimpleNamespace(limited=False), None, None, Metrics())
    leases.lease_loaded = lease_loaded
    assert leases.lease_chosen(("m", 2, None), ("m", None, None)) == "lease of m"
    # Of a version that the caller has named, it gets the error.
    named = ("m", 2, None)
    with pytest.raises(error):
        leases.lease_chosen(named, named)
