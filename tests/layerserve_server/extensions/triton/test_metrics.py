"""Metrics under the names of Triton: each has the value that ours have."""

from __future__ import annotations

import urllib.request

from counted_calls import counted_calls, values
from layerserve_server.extensions.triton.metrics import triton
from layerserve_server.observability.collectors import Extended
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics


def test_triton():
    found = values(Extended(counted_calls().registry, triton).collect())
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


def test_the_text_can_be_read():
    assert len(list(parse_open_metrics(open_metrics(Extended(counted_calls().registry, triton)).decode()))) > 3


def test_a_server_has_them_if_they_are_asked_for(put, start):
    put("double")
    for asked in (False, True):
        app = start(metrics_port=0, triton_metrics=asked)
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/metrics", timeout=30) as reply:
            text = reply.read().decode()
        assert ("nv_inference" in text, "layerserve_build" in text) == (asked, True)
        app.stop()
