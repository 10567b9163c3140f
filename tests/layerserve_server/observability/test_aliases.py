"""Metrics under the names of Triton and TensorFlow Serving: each has the value that ours have."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.observability.aliases import Extended, tensorflow_serving, triton
from layerserve_server.observability.metrics import Metrics
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.transport.call import Ended
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families
from tokens import write_tokens

STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
PREDICT, INFER = "/layerserve.v1.PredictionService/Predict", "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def metrics():
    """After some calls and streamed requests of two versions, one call that runs no model, and one without a model."""
    made = Metrics()
    made.calls_ended(
        [
            Ended(PREDICT, "m", "1", "OK", 0.25),
            Ended(INFER, "m", "1", "OK", 0.5),
            Ended(PREDICT, "m", "2", "OK", 0.5),
            Ended(PREDICT, "m", "1", "RESOURCE_EXHAUSTED", 1.0),
            Ended(PREDICT, "m", "1", "DEADLINE_EXCEEDED", 1.0),
            Ended(PREDICT, "m", "1", "CANCELLED", 1.0),
            Ended(PREDICT, "m", "1", "INTERNAL", 1.0),
            Ended(PREDICT, "m", "1", "INVALID_ARGUMENT", 1.0),
            Ended(PREDICT, "", "", "NOT_FOUND", 1.0),
            Ended("/layerserve.v1.ModelService/GetModel", "m", "1", "OK", 9.0),
        ]
    )
    made.streamed(
        [
            Ended(STREAM, "m", "1", "OK", 0.5),
            Ended(STREAM, "m", "2", "OK", 4.0),
            Ended(STREAM, "m", "1", "INTERNAL", 0.5),
        ]
    )
    batches = made.batches("m", 1)
    batches.requests_waited((0.125, 0.125))
    batches.batch_ran(6, 2, 0.25)
    batches.batch_ran(4, 1, 0.25)
    made.watch_queue("m", 1, lambda: 7, lambda: 3)
    return made


def values(registry):
    return {
        " ".join([sample.name, *(f"{key}={value}" for key, value in sample.labels.items())]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.startswith("layerserve_") and "le" not in sample.labels
    }


def test_triton(metrics):
    found = values(Extended(metrics.registry, triton))
    at = "model=m version=1"
    assert {name: value for name, value in found.items() if at in name} == {
        f"nv_inference_request_success {at}": 3,
        f"nv_inference_request_failure {at} reason=REJECTED": 2,
        f"nv_inference_request_failure {at} reason=CANCELED": 1,
        f"nv_inference_request_failure {at} reason=BACKEND": 2,
        f"nv_inference_request_failure {at} reason=OTHER": 1,
        f"nv_inference_count {at}": 10,
        f"nv_inference_exec_count {at}": 2,
        f"nv_inference_request_duration_us {at}": 1_250_000,
        f"nv_inference_queue_duration_us {at}": 250_000,
        f"nv_inference_compute_input_duration_us {at}": 0,
        # Three requests, in batches that took a quarter of a second each.
        f"nv_inference_compute_infer_duration_us {at}": 750_000,
        f"nv_inference_compute_output_duration_us {at}": 0,
        f"nv_inference_pending_request_count {at}": 3,
    }
    assert found["nv_inference_request_success model=m version=2"] == 2
    assert not any("model= " in name for name in found)


def test_tensorflow_serving(metrics):
    found = values(Extended(metrics.registry, tensorflow_serving, alone=True))
    name = ":tensorflow:serving:"
    latency = "model_name=m API=Predict entrypoint=GRPC"
    statuses = ["RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "INVALID_ARGUMENT"]
    assert found == {
        f"{name}request_count model_name=m status=OK": 5,
        **{f"{name}request_count model_name=m status={status}": 1 + (status == "INTERNAL") for status in statuses},
        f"{name}request_example_count_total model=m": 10,
        f"{name}batching_session:wrapped_run_count": 2,
        f"{name}request_latency_count {latency}": 11,
        f"{name}request_latency_sum {latency}": 11_250_000,
        f"{name}runtime_latency_count model_name=m API=Predict runtime=layerserve": 2,
        f"{name}runtime_latency_sum model_name=m API=Predict runtime=layerserve": 500_000,
        f"{name}batching_session:queuing_latency_count thread_pool_name=m": 2,
        f"{name}batching_session:queuing_latency_sum thread_pool_name=m": 250_000,
        f"{name}batching_session:processed_batch_size_count thread_pool_name=m": 2,
        f"{name}batching_session:processed_batch_size_sum thread_pool_name=m": 10,
    }
    families = tensorflow_serving(list(metrics.registry.collect()))
    (family,) = [one for one in families if one.name.endswith("request_latency")]
    counts = {one.labels["le"]: one.value for one in family.samples if "le" in one.labels}
    assert list(counts)[:2] == ["100.0", "250.0"]
    assert (counts["100000.0"], counts["250000.0"], counts["500000.0"], counts["+Inf"]) == (0, 1, 5, 11)


def test_both_text_formats_can_be_read(metrics):
    for registry in (Extended(metrics.registry, triton), Extended(metrics.registry, tensorflow_serving, alone=True)):
        text = open_metrics(registry).decode()
        assert len(list(parse_open_metrics(text))) > 3


def test_a_server_has_the_pages_that_are_asked_for(put, start, connect, wait_until):
    put("double")
    app = start(metrics_port=0, http_port=0, metric_aliases="triton, tfserving")
    message = prediction_pb2.PredictRequest(
        model=tensor_pb2.ModelSpec(name="double"), inputs=[tensors.encode(np.ones((3, 2), np.float32), "x")]
    )
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    for _ in range(5):
        stub.Predict(message, timeout=30)

    def page(path, accept="text/plain", port=app.metrics_port):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=30) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            samples = [sample for family in families for sample in family.samples]
            return {(one.name, one.labels.get("status", "OK")): one.value for one in samples}

    # A call is counted after its reply is sent.
    wait_until(lambda: page("/metrics").get(("layerserve_requests_total", "OK")) == 5)
    ours, theirs = page("/metrics"), page("/monitoring/prometheus/metrics")
    assert ours["nv_inference_request_success", "OK"] == ours["layerserve_requests_total", "OK"] == 5
    assert ours["nv_inference_count", "OK"] == ours["layerserve_rows_total", "OK"] == 15
    assert theirs[":tensorflow:serving:request_count", "OK"] == 5
    assert theirs[":tensorflow:serving:request_example_count_total", "OK"] == 15
    assert not any(name.startswith("layerserve_") for name, _ in theirs)
    # In that format, prometheus_client writes underscores for colons.
    assert page("/monitoring/prometheus/metrics", "application/openmetrics-text; version=1.0.0") == theirs
    # TensorFlow Serving has the page on the port of its REST form.
    assert page("/monitoring/prometheus/metrics", port=app.http_port) == theirs


def test_requests_of_streams_are_counted_before_their_stream_ends(put, start, connect, wait_until):
    put("double")
    app = start(metric_aliases="tfserving,triton")
    x = np.ones((3, 2), np.float32)
    message = pb.ModelInferRequest(
        model_name="double",
        inputs=[{"name": "x", "datatype": "FP32", "shape": x.shape}],
        raw_input_contents=[x.tobytes()],
    )
    asked, over = threading.Event(), threading.Event()

    def requests():
        for _ in range(4):
            yield message
        asked.set()
        over.wait(30)

    infer = connect(app).stream_stream(STREAM, pb.ModelInferRequest.SerializeToString, None)
    replies = infer(requests(), timeout=30)
    for _ in range(4):
        next(replies)
    own = app._inference.metrics.registry

    def counted() -> list[float]:
        (latency,) = [one for one in tensorflow_serving(list(own.collect())) if one.name.endswith("request_latency")]
        (success,) = [one for one in triton(list(own.collect())) if one.name.endswith("request_success")]
        return [one.value for one in (*latency.samples, *success.samples) if not one.name.endswith(("_bucket", "_sum"))]

    # A reply may arrive before it is counted.
    wait_until(lambda: counted() == [4, 4])
    over.set()
    assert list(replies) == []
    assert counted() == [4, 4], "the stream itself is no request"


def test_a_server_has_no_other_names_by_default(put, start):
    put("double")
    app = start(metrics_port=0)
    with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/metrics", timeout=30) as reply:
        assert "nv_inference" not in reply.read().decode()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/monitoring/prometheus/metrics", timeout=30)


def test_the_page_over_http_needs_a_right_and_has_the_models_of_its_caller(put, start, tmp_path, wait_until):
    entries = {"mine": "rights = ['read']\nmodels = ['mine']", "predicts": "rights = ['predict']"}
    for name in ("mine", "theirs"):
        put(name)
    entries["all"] = "rights = ['read', 'predict']"
    app = start(http_port=0, metric_aliases="tfserving", tokens=write_tokens(tmp_path / "tokens.toml", entries))

    def ask(token, path="/monitoring/prometheus/metrics", body=None):
        headers = {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"http://127.0.0.1:{app.http_port}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.read().decode()

    for name in ("mine", "theirs"):
        ask("predicts", f"/v1/models/{name}:predict", b'{"instances": [[1.0, 2.0]]}')
    # A call is counted after its reply is sent.
    wait_until(lambda: all(f'model_name="{name}"' in ask("all") for name in ("mine", "theirs")))
    shown = ask("mine")
    assert 'model_name="mine"' in shown
    assert "theirs" not in shown
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask("predicts")
