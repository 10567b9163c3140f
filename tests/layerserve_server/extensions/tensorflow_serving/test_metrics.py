"""Metrics under the names of TensorFlow Serving: each has the value that ours have."""

from __future__ import annotations

import urllib.error
import urllib.request

import numpy as np
import pytest
from counted_calls import counted_calls, values
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.commands.settings_reader import read_settings
from layerserve_server.extensions.tensorflow_serving.metrics import page, tensorflow_serving
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics
from prometheus_client.parser import text_string_to_metric_families
from tokens import write_tokens

PATH = "/monitoring/prometheus/metrics"


def test_tensorflow_serving():
    registry = counted_calls().registry
    found = values(page(registry).registry.collect())
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
    families = tensorflow_serving(list(registry.collect()))
    (family,) = [one for one in families if one.name.endswith("request_latency")]
    counts = {one.labels["le"]: one.value for one in family.samples if "le" in one.labels}
    assert list(counts)[:2] == ["100.0", "250.0"]
    assert (counts["100000.0"], counts["250000.0"], counts["500000.0"], counts["+Inf"]) == (0, 1, 5, 11)


def test_the_text_can_be_read():
    assert len(list(parse_open_metrics(open_metrics(page(counted_calls().registry).registry).decode()))) > 3


def test_a_server_has_the_page_if_it_is_asked_for(put, start, connect, wait_until):
    put("double")
    app = start(metrics_port=0, http_port=0, tensorflow_serving_metrics=True)
    message = prediction_pb2.PredictRequest(
        model=tensor_pb2.ModelSpec(name="double"), inputs=[tensors.encode(np.ones((3, 2), np.float32), "x")]
    )
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    for _ in range(5):
        stub.Predict(message, timeout=30)

    def shown(path, accept="text/plain", port=app.metrics_port):
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=30) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            samples = [sample for family in families for sample in family.samples]
            return {(one.name, one.labels.get("status", "OK")): one.value for one in samples}

    # A call is counted after its reply is sent.
    wait_until(lambda: shown("/metrics").get(("layerserve_requests_total", "OK")) == 5)
    theirs = shown(PATH)
    assert theirs[":tensorflow:serving:request_count", "OK"] == 5
    assert theirs[":tensorflow:serving:request_example_count_total", "OK"] == 15
    assert not any(name.startswith("layerserve_") for name, _ in theirs)
    # In that format, prometheus_client writes underscores for colons.
    assert shown(PATH, "application/openmetrics-text; version=1.0.0") == theirs
    # TensorFlow Serving has the page on the port of its REST form.
    assert shown(PATH, port=app.http_port) == theirs


def test_a_scraper_of_a_server_without_the_page_is_told_the_setting(serve):
    assert read_settings([]).tensorflow_serving_metrics is False
    _, call = serve()
    assert b"--tensorflow-serving-metrics adds it" in call("GET", PATH).body


def test_a_server_has_no_page_by_default(put, start):
    put("double")
    app = start(metrics_port=0)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}{PATH}", timeout=30)


def test_the_page_over_http_needs_a_right_and_has_the_models_of_its_caller(put, start, tmp_path, wait_until):
    entries = {"mine": "rights = ['read']\nmodels = ['mine']", "predicts": "rights = ['predict']"}
    for name in ("mine", "theirs"):
        put(name)
    entries["all"] = "rights = ['read', 'predict']"
    app = start(http_port=0, tensorflow_serving_metrics=True, tokens=write_tokens(tmp_path / "tokens.toml", entries))

    def ask(token, path=PATH, body=None):
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
