"""Metrics: each has its name, its labels and its value after known traffic."""

from __future__ import annotations

import threading
import time
from importlib.metadata import version as package_version

import grpc
import numpy as np
import pytest
from layerserve.v1 import models_pb2, models_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.observability import metrics as metrics_module
from layerserve_server.observability.buffer import MAX_WAITING, Buffer
from layerserve_server.observability.families import LOAD_SECONDS, ROWS, SECONDS, VERSION
from layerserve_server.observability.histograms import Histogram
from layerserve_server.observability.metrics import Metrics
from layerserve_server.repository.version import GRAPH_BYTES
from layerserve_server.transport.call import FORWARDED, Ended
from prometheus_client import CollectorRegistry

#: As the other clients of Prometheus name them.
PROCESS = {
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
}

PREDICT = "/layerserve.v1.PredictionService/Predict"


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """Value by name and labels, without those of buckets and of times of creation."""
    return {
        " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def counts(found: dict[str, float]) -> dict[str, float]:
    """All but sums of seconds, and what the process has taken, which nobody knows beforehand."""
    sums = ("_seconds_sum", "_requests_seconds_total")
    return {name: value for name, value in found.items() if not any(s in name for s in sums) and name not in PROCESS}


def used(registry: CollectorRegistry, expected: dict[str, float]) -> dict[str, float]:
    """The samples that aren't 0 or are expected: extensions have gauges, too."""
    return {name: value for name, value in samples(registry).items() if value or name in (*expected, *PROCESS)}


def buckets(registry: CollectorRegistry, name: str) -> dict[float, float]:
    """How many values there were up to each bound."""
    return {
        float(sample.labels["le"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"{name}_bucket"
    }


@pytest.mark.parametrize(
    ("metric", "bounds"),
    [
        ("request_seconds", SECONDS),
        ("batch_rows", ROWS),
        ("queue_seconds", SECONDS),
        ("compute_seconds", SECONDS),
        ("model_load_seconds", LOAD_SECONDS),
        ("model_load_wait_seconds", LOAD_SECONDS),
    ],
)
def test_buckets(metric, bounds):
    metrics = Metrics()
    metrics.calls_ended([Ended(PREDICT, "m", "1", "OK", 0.1)])
    metrics.batches("m", 1)
    metrics.version_loaded("m", 1, 0.1)
    metrics.load_awaited("loaded", 0.1)
    assert list(buckets(metrics.registry, f"layerserve_{metric}")) == [*bounds, float("inf")]


def test_calls_are_counted_by_method_model_version_and_status():
    metrics = Metrics()
    metrics.calls_began(PREDICT, 4)
    metrics.calls_began("/layerserve.v1.ModelService/ListModels", 2)
    metrics.calls_ended(
        [
            Ended(PREDICT, "m", "1", "OK", 0.25),
            Ended(PREDICT, "", "", "NOT_FOUND", 0.5),
            Ended(PREDICT, "m", "1", "OK", 0.75),
        ]
    )
    metrics.calls_ended([Ended("/layerserve.v1.ModelService/ListModels", "", "", "OK", 2.0)])
    assert samples(metrics.registry) == {
        "layerserve_requests_total method=Predict model=m status=OK version=1": 2,
        "layerserve_requests_total method=Predict model= status=NOT_FOUND version=": 1,
        "layerserve_requests_total method=ListModels model= status=OK version=": 1,
        "layerserve_requests_seconds_total method=Predict model=m status=OK version=1": 1.0,
        "layerserve_requests_seconds_total method=Predict model= status=NOT_FOUND version=": 0.5,
        "layerserve_requests_seconds_total method=ListModels model= status=OK version=": 2.0,
        "layerserve_errors_total method=Predict model= status=NOT_FOUND version=": 1,
        "layerserve_request_seconds_count method=Predict model=m": 2,
        "layerserve_request_seconds_sum method=Predict model=m": 1.0,
        "layerserve_request_seconds_count method=Predict model=": 1,
        "layerserve_request_seconds_sum method=Predict model=": 0.5,
        "layerserve_request_seconds_count method=ListModels model=": 1,
        "layerserve_request_seconds_sum method=ListModels model=": 2.0,
        "layerserve_calls_in_flight method=Predict": 1,
        "layerserve_calls_in_flight method=ListModels": 1,
    }


def test_a_call_that_another_process_answers_is_only_open_here():
    metrics = Metrics()
    before = samples(metrics.registry)
    metrics.calls_began(PREDICT, 1)
    assert samples(metrics.registry)["layerserve_calls_in_flight method=Predict"] == 1
    metrics.calls_ended([Ended(PREDICT, "", "", FORWARDED, 0.5)])
    assert {name: value for name, value in counts(samples(metrics.registry)).items() if value} == {
        name: value for name, value in counts(before).items() if value
    }


def test_requests_of_streams_are_counted_until_their_version_is_released():
    metrics = Metrics()
    stream = "/layerserve.v1.PredictionService/PredictStream"
    for status, seconds in (("OK", 0.25), ("OK", 0.5), ("NOT_FOUND", 1.0)):
        metrics.streamed([Ended(stream, "m", "1", status, seconds)])
    metrics.streamed([Ended(stream, "m", "2", "OK", 2.0)])
    one, two = ("method=PredictStream model=m status={} version=" + str(version) for version in (1, 2))
    of_two = {
        f"layerserve_streamed_requests_total {two.format('OK')}": 1,
        f"layerserve_streamed_requests_seconds_total {two.format('OK')}": 2.0,
    }
    # As that of calls, the histogram has no versions.
    times = "method=PredictStream model=m"
    name = "layerserve_streamed_request_seconds"
    assert samples(metrics.registry) == of_two | {
        f"{name}_count {times}": 4,
        f"{name}_sum {times}": 3.75,
        f"layerserve_streamed_requests_total {one.format('OK')}": 2,
        f"layerserve_streamed_requests_seconds_total {one.format('OK')}": 0.75,
        f"layerserve_streamed_requests_total {one.format('NOT_FOUND')}": 1,
        f"layerserve_streamed_requests_seconds_total {one.format('NOT_FOUND')}": 1.0,
    }
    metrics.streamed([Ended(stream, "m", "1", "OK", 1.0)])
    metrics.version_released("m", 1)
    assert samples(metrics.registry) == of_two | {f"{name}_count {times}": 5, f"{name}_sum {times}": 4.75}


def test_batches_are_counted_by_rows_requests_and_seconds():
    metrics = Metrics()
    queue = metrics.batches("m", 3)
    queue.requests_waited([0.25, 0.5])
    queue.batch_ran(7, 2, 1.5)
    queue.batch_ran(1, 1, 0.5)
    waiting = [5]
    metrics.watch_queue("m", 3, lambda: waiting[0], lambda: 2)
    at = "model=m version=3"
    expected = {
        f"layerserve_rows_total {at}": 8,
        f"layerserve_batch_requests_total {at}": 3,
        f"layerserve_batch_rows_count {at}": 2,
        f"layerserve_batch_rows_sum {at}": 8,
        f"layerserve_compute_seconds_count {at}": 2,
        f"layerserve_compute_seconds_sum {at}": 2.0,
        f"layerserve_queue_seconds_count {at}": 2,
        f"layerserve_queue_seconds_sum {at}": 0.75,
        f"layerserve_queue_rows {at}": 5,
        f"layerserve_queue_requests {at}": 2,
    }
    assert samples(metrics.registry) == expected
    waiting[0] = 0
    assert samples(metrics.registry) == {**expected, f"layerserve_queue_rows {at}": 0}


def test_series_of_models_that_are_gone_do_not_accumulate(monkeypatch):
    monkeypatch.setattr(metrics_module, "MAX_GONE", 2)
    metrics = Metrics()
    further = metrics.families.counter("further", "Made by an extension.", (*VERSION, "kind"))

    def use(model):
        metrics.version_loaded(model, 1, 0.1)
        metrics.version_failed(model, 2)
        metrics.settings_invalid(model)
        metrics.version_evicted(model)
        metrics.batches(model, 1).batch_ran(1, 1, 0.1)
        metrics.watch_queue(model, 1, lambda: 0, lambda: 0)
        metrics.run_progressed(model, 1, 1, 0.1)
        metrics.run_ended(model, "finished")
        further.labels(model, "1", "some").inc()
        metrics.calls_began(PREDICT, 2)
        metrics.calls_ended([Ended(PREDICT, model, "1", "OK", 0.1), Ended(PREDICT, model, "", "INTERNAL", 0.1)])
        metrics.streamed([Ended(PREDICT, model, "1", "OK", 0.1)])

    def shown():
        return {key for name in samples(metrics.registry) for key in "abcde" if f"model={key}" in name.split()}

    for model in "abcd":
        use(model)
    before = len(samples(metrics.registry))
    for model in "abac":
        metrics.model_gone(model)
    # The last ones are kept: scrapers haven't read them.
    assert shown() == set("acd")
    assert len(samples(metrics.registry)) < before
    # One that is back counts on.
    use("c")
    metrics.model_gone("d")
    assert shown() == set("acd")
    assert samples(metrics.registry)["layerserve_model_loads_total model=c"] == 2
    metrics.model_gone("e")
    assert shown() == set("cd")
    # Of a name that comes again, after its series were removed, everything is counted anew.
    use("a")
    found = samples(metrics.registry)
    assert found["layerserve_requests_total method=Predict model=a status=OK version=1"] == 1
    assert found["layerserve_rows_total model=a version=1"] == 1
    assert found["layerserve_streamed_requests_total method=Predict model=a status=OK version=1"] == 1


def test_calls_that_end_after_their_version_was_released_leave_no_series_for_ever():
    metrics = Metrics()
    for version in range(1, 20):
        metrics.batches("m", version + 1)
        metrics.version_released("m", version)
        metrics.calls_ended([Ended("/layerserve.v1.TrainingService/Train", "m", str(version), "OK", 1.0)])
        found = {name for name in samples(metrics.registry) if name.startswith("layerserve_requests_total")}
        assert found == {f"layerserve_requests_total method=Train model=m status=OK version={version}"}


def test_a_version_that_is_loaded_after_its_release_counts_anew():
    metrics = Metrics()
    metrics.batches("m", 1).batch_ran(2, 1, 0.5)
    metrics.version_released("m", 1)
    assert samples(metrics.registry) == {}
    metrics.batches("m", 1).batch_ran(3, 1, 0.5)
    assert samples(metrics.registry)["layerserve_rows_total model=m version=1"] == 3


def test_a_version_that_is_loaded_again_counts_on():
    metrics = Metrics()
    before = metrics.batches("m", 1)
    before.batch_ran(2, 1, 0.5)
    before.requests_waited([0.25])
    after = metrics.batches("m", 1)
    after.batch_ran(3, 1, 0.5)
    before.batch_ran(4, 1, 0.5)  # the old file's last batch
    found = samples(metrics.registry)
    assert found["layerserve_rows_total model=m version=1"] == 9
    assert found["layerserve_batch_rows_count model=m version=1"] == 3
    assert found["layerserve_queue_seconds_count model=m version=1"] == 1


def test_a_version_that_is_freed_leaves_no_series():
    """Else a server whose model is trained each day shows, and keeps, more of them each day."""
    metrics = Metrics()

    def use(version):
        queue = metrics.batches("m", version)
        metrics.watch_queue("m", version, lambda: 0, lambda: 0)
        metrics.version_loaded("m", version, 0.5)
        queue.requests_waited([0.25])
        queue.batch_ran(1, 1, 0.5)
        metrics.calls_began("/a.B/Predict", 2)
        metrics.calls_ended([Ended("/a.B/Predict", "m", str(version), status, 0.5) for status in ("OK", "CANCELLED")])

    def names():
        return {
            (sample.name, *sorted(sample.labels.items()))
            for family in metrics.registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }

    use(1)
    of_one = names()
    use(2)
    metrics.version_released("m", 1)
    left = names()
    assert not [name for name in left if ("version", "1") in name]
    assert {tuple(("version", "1") if part == ("version", "2") else part for part in name) for name in left} == of_one
    metrics.version_released("m", 7)  # one of which nothing was counted
    use(3)
    metrics.version_released("m", 3)  # before anything that it observed was read
    assert names() == left


def test_observations_are_counted_when_there_are_many_or_on_demand():
    counted: list[list[int]] = []
    buffer = Buffer(counted.append)
    for number in range(MAX_WAITING - 1):
        buffer.add([number], shared=False)
    assert counted == []
    buffer.add([7], shared=False)
    assert counted == [[*range(MAX_WAITING - 1), 7]]
    buffer.add([1], shared=False)
    buffer.add([2, 3], shared=False)
    buffer.flush()
    buffer.flush()
    assert counted[1:] == [[1, 2, 3]]
    buffer.add([4], shared=False)
    buffer.add([5, 6], shared=True)
    assert counted[2:] == [[4, 5, 6]]


def test_observations_of_threads_are_counted_once():
    counted: list[int] = []
    buffer: Buffer[int] = Buffer(counted.extend)

    def add(thread: int) -> None:
        for number in range(1000):
            buffer.add((thread * 1000 + number,), shared=False)
            buffer.flush()

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(counted) == list(range(4000))


def test_versions_are_counted_and_their_gauges_end_with_them():
    metrics = Metrics()
    for version in (1, 2):
        metrics.watch_queue("m", version, lambda: 0, lambda: 0)
        metrics.version_loaded("m", version, 0.25)
    metrics.version_failed("m", 3)
    metrics.version_released("m", 1)
    assert samples(metrics.registry) == {
        "layerserve_model_loaded model=m version=2": 1,
        "layerserve_queue_rows model=m version=2": 0,
        "layerserve_queue_requests model=m version=2": 0,
        "layerserve_model_loads_total model=m": 2,
        "layerserve_model_load_failures_total model=m": 1,
        "layerserve_model_load_seconds_count model=m": 2,
        "layerserve_model_load_seconds_sum model=m": 0.5,
    }


def test_runs_are_counted_and_the_newest_ones_progress_is_shown():
    metrics = Metrics()
    metrics.runs_changed(queued=2, running=1, paused=3)
    metrics.run_progressed("m", 3, 40, 0.25)
    metrics.run_progressed("m", 3, 41, None)  # a run without a loss in its logs keeps the last one
    metrics.run_ended("m", "failed")
    metrics.run_ended("m", "finished")
    metrics.run_ended("m", "finished")
    assert samples(metrics.registry) == {
        "layerserve_training_runs state=paused": 3,
        "layerserve_training_runs state=queued": 2,
        "layerserve_training_runs state=running": 1,
        "layerserve_training_epoch model=m": 3,
        "layerserve_training_step model=m": 41,
        "layerserve_training_loss model=m": 0.25,
        "layerserve_training_runs_ended_total model=m state=failed": 1,
        "layerserve_training_runs_ended_total model=m state=finished": 2,
    }


def test_a_value_at_a_bound_belongs_below_it():
    histogram = Histogram((1.0, 2.0))
    histogram.observe([0.5, 1.0, 1.5, 2.0, 2.5, 100.0])
    histogram.observe([-1.0])
    assert histogram.read() == ([3, 5, 7], 106.5)


def test_a_name_is_taken_once():
    metrics = Metrics()
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        metrics.registry.register(metrics._calls.request_seconds)


def test_buffered_calls_are_reported_before_metrics_are_collected():
    metrics = Metrics()
    buffered = [Ended(PREDICT, "m", "1", "OK", 0.25)]

    def report() -> None:
        if buffered:
            metrics.calls_ended([buffered.pop()])

    metrics.before_collect(report)
    assert samples(metrics.registry)["layerserve_requests_total method=Predict model=m status=OK version=1"] == 1


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_a_servers_metrics_after_known_traffic(put, start, connect, transport):
    if transport == "native":
        pytest.importorskip("pygrpc_native")
    put("double", 1)
    put("double", 2)
    put("bad", text="{")
    app = start(transport=transport, training_slots=0)
    channel = connect(app)
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    for rows, version in ((3, None), (3, None), (3, None), (2, None), (1, 1)):
        x = tensors.encode(np.ones((rows, 2), np.float32), "x")
        spec = tensor_pb2.ModelSpec(name="double", version=version)
        predict(prediction_pb2.PredictRequest(model=spec, inputs=[x]), timeout=30)
    for name in ("unknown", "double"):
        with pytest.raises(grpc.RpcError):
            predict(prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name=name)), timeout=30)
    models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest(), timeout=30)
    one, two = "model=double version=1", "model=double version=2"
    expected = {
        f"layerserve_requests_total method=Predict model=double status=OK {two.split()[1]}": 4,
        f"layerserve_requests_total method=Predict model=double status=OK {one.split()[1]}": 1,
        "layerserve_requests_total method=Predict model= status=NOT_FOUND version=": 1,
        "layerserve_requests_total method=Predict model=double status=INVALID_ARGUMENT version=2": 1,
        "layerserve_requests_total method=ListModels model= status=OK version=": 1,
        "layerserve_errors_total method=Predict model= status=NOT_FOUND version=": 1,
        "layerserve_errors_total method=Predict model=double status=INVALID_ARGUMENT version=2": 1,
        "layerserve_request_seconds_count method=Predict model=double": 6,
        "layerserve_request_seconds_count method=Predict model=": 1,
        "layerserve_request_seconds_count method=ListModels model=": 1,
        "layerserve_buffered_bytes": 0,
        "layerserve_buffered_limit_bytes": app._transport.memory.limit,
        "layerserve_ready": 1,
        f"layerserve_build_info version={package_version('layerserve')}": 1,
        "layerserve_calls_in_flight method=Predict": 0,
        "layerserve_calls_in_flight method=ListModels": 0,
        f"layerserve_rows_total {two}": 11,
        f"layerserve_rows_total {one}": 1,
        f"layerserve_batch_rows_count {two}": 4,
        f"layerserve_batch_rows_sum {two}": 11,
        f"layerserve_batch_rows_count {one}": 1,
        f"layerserve_batch_rows_sum {one}": 1,
        f"layerserve_batch_requests_total {two}": 4,
        f"layerserve_batch_requests_total {one}": 1,
        f"layerserve_queue_seconds_count {two}": 4,
        f"layerserve_queue_seconds_count {one}": 1,
        f"layerserve_compute_seconds_count {two}": 4,
        f"layerserve_compute_seconds_count {one}": 1,
        f"layerserve_queue_rows {two}": 0,
        f"layerserve_queue_requests {two}": 0,
        f"layerserve_queue_rows {one}": 0,
        f"layerserve_queue_requests {one}": 0,
        f"layerserve_model_loaded {two}": 1,
        f"layerserve_model_loaded {one}": 1,
        "layerserve_model_versions model=double state=ready": 2,
        "layerserve_model_versions model=bad state=failed": 1,
        "layerserve_model_loads_total model=double": 2,
        "layerserve_model_load_failures_total model=bad": 1,
        "layerserve_model_load_seconds_count model=double": 2,
        # The older one was loaded for a request, which waited.
        "layerserve_model_load_wait_seconds_count outcome=loaded": 1,
        "layerserve_loaded_bytes": 2 * (GRAPH_BYTES + 3 * 4),
        "layerserve_training_runs state=paused": 0,
        "layerserve_training_runs state=queued": 0,
        "layerserve_training_runs state=running": 0,
    }
    # Metrics of a batch may come after its answers.
    end = time.monotonic() + 30
    while counts(found := used(app.metrics.registry, expected)) != expected and time.monotonic() < end:
        time.sleep(0.005)
    assert counts(found) == expected
    assert found.keys() >= PROCESS
    seconds = found.keys() - expected.keys() - PROCESS
    assert {name.replace("_sum", "_count").replace("requests_seconds", "requests") for name in seconds} == {
        name for name in expected if "seconds_count" in name or ("requests_total" in name and "batch" not in name)
    }
    assert all(0 < found[name] < 60 for name in seconds)
