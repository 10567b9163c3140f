"""Traces: what is sampled, and which spans a call has, on all transports."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import grpc
import numpy as np
import pytest
from damaged_files import DAMAGES, check_goes_on
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2, training_pb2_grpc
from layerserve.v1 import training_pb2 as pb
from layerserve.values import tensors
from layerserve_server.extensions.tracing import otel_variables
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open_metrics

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk isn't installed")
from layerserve_server.extensions.tracing.run_spans import FILE, RunSpan
from layerserve_server.extensions.tracing.tracer import OpenTelemetryTracer, UnknownExporterError, exporters
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

TRANSPORTS = [
    "grpcio",
    pytest.param("native", marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="no pygrpc-native")),
]
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01")
UNSAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-00")
STAGES = {"decode", "queue", "compute", "encode"}


class Traced:
    """The spans of a tracer."""

    def __init__(self, monkeypatch):
        self.environment, self._monkeypatch = {}, monkeypatch
        self.exporter = InMemorySpanExporter()

    def tracer(self, **environment):
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        return OpenTelemetryTracer(environment, [self.exporter])

    def spans(self, tracer):
        tracer.flush()
        found = self.exporter.get_finished_spans()
        self.exporter.clear()
        return found


@pytest.fixture
def traced(monkeypatch):
    return Traced(monkeypatch)


@pytest.fixture
def serve(put, start, connect, traced, monkeypatch):
    """A server that is traced: gives its channel, and what returns its spans."""

    def begin(**options):
        tracer = traced.tracer()
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
        monkeypatch.setattr("layerserve_server.extensions.tracing.tracer.OpenTelemetryTracer", lambda *_: tracer)
        put("double")
        app = start(**options)

        def spans(count):
            end, found = time.monotonic() + 30, []
            while len(found) < count and time.monotonic() < end:
                found += traced.spans(tracer)
                time.sleep(0.01)
            return found

        return app, connect(app), spans

    return begin


def request(rows=1, model="double"):
    x = np.ones((rows, 2), np.float32)
    return prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name=model), inputs=[tensors.encode(x, "x")])


def by_name(spans):
    assert len({span.name for span in spans}) == len(spans)
    return {span.name: span for span in spans}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_call_has_a_span_with_its_stages_below_that_of_its_caller(serve, transport):
    app, channel, spans = serve(transport=transport)
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    method = "layerserve.v1.PredictionService/Predict"
    # The first goes through the queue; then the model is known to be quick, and the template is known.
    for quick in (False, True):
        if quick:
            with app.repository.leases.lease("double") as version:
                version.queue._thread_seconds = [0.0] * len(version.queue._thread_seconds)
        predict(request(3), timeout=30, metadata=[SAMPLED, ("tracestate", "vendor=1")])
        found = by_name(spans(5))
        assert set(found) == {method, *STAGES}
        call = found[method]
        assert (f"{call.context.trace_id:032x}", f"{call.parent.span_id:016x}") == (TRACE, PARENT)
        assert call.context.trace_state["vendor"] == "1"
        assert call.kind is SpanKind.SERVER
        assert call.status.status_code is StatusCode.UNSET
        attributes = dict(call.attributes)
        assert attributes.pop("client.address") == "127.0.0.1"
        assert attributes == {
            "rpc.system": "grpc",
            "rpc.service": "layerserve.v1.PredictionService",
            "rpc.method": "Predict",
            "rpc.grpc.status_code": 0,
            "layerserve.model": "double",
            "layerserve.version": "1",
        }
        for name in STAGES:
            stage = found[name]
            assert stage.parent.span_id == call.context.span_id
            assert stage.context.trace_id == call.context.trace_id
            assert call.start_time <= stage.start_time <= stage.end_time <= call.end_time
        assert found["compute"].attributes["layerserve.batch_rows"] == 3
        ends = [found[name].end_time for name in ("queue", "compute", "encode")]
        assert ends == sorted(ends)
        assert abs(call.start_time / 1e9 - time.time()) < 60
        assert call.resource.attributes["service.name"]


def test_a_batch_is_linked_to_all_of_its_calls(serve, wait_until):
    app, channel, spans = serve()
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    with app.repository.leases.lease("double") as version:
        version.model.gate.clear()
        first = predict.future(request(1), timeout=30)
        wait_until(lambda: version.model.begun == [1])
        others = [predict.future(request(2), timeout=30, metadata=[SAMPLED]) for _ in range(3)]
        wait_until(lambda: version.queue.queued_rows == 6)
        version.model.gate.set()
    for call in (first, *others):
        call.result()
    found = spans(20)
    calls = {span.context.span_id for span in found if span.kind is SpanKind.SERVER}
    batches = [span for span in found if span.name == "compute" and span.attributes["layerserve.batch_rows"] == 6]
    assert len(batches) == 3
    for batch in batches:
        linked = {link.context.span_id for link in batch.links}
        assert len(linked) == 3
        assert linked <= calls
        assert batch.parent.span_id in linked


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_requests_of_a_stream_have_spans_below_that_of_the_stream(serve, transport):
    _, channel, spans = serve(transport=transport)
    messages = [prediction_pb2.PredictStreamRequest(request=request())] * 2
    stream = prediction_pb2_grpc.PredictionServiceStub(channel).PredictStream
    assert len(list(stream(iter(messages), timeout=30, metadata=[SAMPLED]))) == 2
    found = spans(11)
    (call,) = [span for span in found if span.kind is SpanKind.SERVER]
    assert call.name == "layerserve.v1.PredictionService/PredictStream"
    assert f"{call.context.trace_id:032x}" == TRACE
    requests = [span for span in found if span.name == "request"]
    assert [span.parent.span_id for span in requests] == [call.context.span_id] * 2
    stages = [span.name for span in found if span.parent.span_id == requests[0].context.span_id]
    assert set(stages) == STAGES


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_errors_are_in_the_spans(serve, transport, caplog):
    app, channel, spans = serve(transport=transport)
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    with pytest.raises(grpc.RpcError):
        predict(request(model="nothing"), timeout=30, metadata=[SAMPLED])
    (call,) = spans(1)
    # A wrong request is no fault of the server.
    assert (call.attributes["rpc.grpc.status_code"], call.status.status_code) == (5, StatusCode.UNSET)

    with app.repository.leases.lease("double") as version:
        version.model.batches = None
    with pytest.raises(grpc.RpcError) as caught:
        predict(request(), timeout=30, metadata=[SAMPLED, ("x-request-id", "mine")])
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    found = by_name(spans(4))
    call = found["layerserve.v1.PredictionService/Predict"]
    assert set(found) == {call.name, "decode", "queue", "compute"}
    assert found["compute"].status.status_code is StatusCode.ERROR
    assert found["compute"].attributes["error.type"] == "AttributeError"
    assert (call.attributes["rpc.grpc.status_code"], call.status.status_code) == (13, StatusCode.ERROR)
    (record,) = [record for record in caplog.records if hasattr(record, "correlation_id")]
    assert (record.trace_id, record.request_id) == (TRACE, "mine")


@pytest.mark.parametrize("quick", [False, True])
def test_a_batch_that_failed_is_in_the_spans_of_all_of_its_requests(serve, quick, wait_until):
    """Those whose rows were wrong, and the others, which are computed again without them."""
    app, channel, spans = serve()
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    wrong = prediction_pb2.PredictRequest(
        model=tensor_pb2.ModelSpec(name="double"), inputs=[tensors.encode(np.array([[-7, 1]], np.float32), "x")]
    )
    with app.repository.leases.lease("double") as version:
        if quick:
            # The first teaches the template.
            predict(request(), timeout=30, metadata=[UNSAMPLED])
            version.queue._thread_seconds = [0.0] * len(version.queue._thread_seconds)
            calls = [predict.future(wrong, timeout=30, metadata=[SAMPLED])]
        else:
            version.model.gate.clear()
            first = predict.future(request(2), timeout=30, metadata=[UNSAMPLED])
            wait_until(lambda: version.model.begun == [2])
            calls = [predict.future(one, timeout=30, metadata=[SAMPLED]) for one in (request(), wrong)]
            wait_until(lambda: version.queue.queued_rows == 2)
            version.model.gate.set()
            first.result()
        codes = [call.code() for call in calls]
    assert codes[-1] is grpc.StatusCode.INVALID_ARGUMENT
    found = spans(4 if quick else 11)
    tries = {}
    for span in sorted(found, key=lambda span: span.start_time):
        if span.name == "compute":
            tries.setdefault(span.parent.span_id, []).append((span.status.status_code, span.attributes))
    served = {
        span.context.span_id: span.attributes["rpc.grpc.status_code"] for span in found if span.kind is SpanKind.SERVER
    }
    for call, computed in tries.items():
        statuses = [status for status, _ in computed]
        errors = [attributes.get("error.type") for _, attributes in computed]
        if served[call]:
            assert statuses == [StatusCode.ERROR] * len(computed)
            assert errors == ["InvalidTensorError"] * len(computed)
        else:
            assert (statuses, errors) == ([StatusCode.ERROR, StatusCode.UNSET], ["InvalidTensorError", None])
    assert len(tries) == len(calls)
    assert not any("-7" in str(value) for span in found for value in span.attributes.values()), "no data of a request"


@pytest.mark.skipif(find_spec("httptools") is None, reason="httptools isn't installed")
def test_a_request_of_http_has_a_span_below_that_of_its_caller(serve):
    app, _, spans = serve(http_port=0)

    def ask(model, **headers):
        address = f"http://127.0.0.1:{app.http_port}/v2/models/{model}/infer"
        body = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}'
        try:
            return urllib.request.urlopen(urllib.request.Request(address, body, headers), timeout=30)
        except urllib.error.HTTPError as error:
            return error

    with ask("double", traceparent=SAMPLED[1], **{"x-request-id": "mine"}) as reply:
        assert reply.headers.get_all("x-request-id") == ["mine"]
    found = spans(5)
    (call,) = [span for span in found if span.kind is SpanKind.SERVER]
    assert (f"{call.context.trace_id:032x}", f"{call.parent.span_id:016x}") == (TRACE, PARENT)
    assert {span.name for span in found} >= STAGES
    # The same bytes again.
    with ask("double", traceparent=SAMPLED[1], **{"x-request-id": "mine"}) as reply:
        assert reply.headers.get_all("x-request-id") == ["mine"]
    again = spans(5)
    (other,) = [span for span in again if span.kind is SpanKind.SERVER]
    assert (other.context.trace_id, other.parent.span_id) == (call.context.trace_id, call.parent.span_id)
    assert other.context.span_id != call.context.span_id
    assert len(again) == len(found)
    with ask("nothing", traceparent=UNSAMPLED[1]) as reply:
        assert (reply.status, len(reply.headers["x-request-id"])) == (404, 16)
    with ask("double", traceparent=UNSAMPLED[1]) as reply:
        assert "x-request-id" not in reply.headers


def train(channel, behaviour):
    """Trains until the end. Yields the replies."""
    data = [pb.DataArray(role=role, dtype=tensors.dtype_enum("float32"), shape=[6, 2]) for role in (1, 2)]
    spec = pb.TrainSpec(
        model=tensor_pb2.ModelSpec(name="double"),
        data=data,
        description=behaviour,
        compile=pb.CompileSettings(optimizer='"sgd"', loss='"mse"'),
        epochs=2,
    )
    chunks = [pb.TrainRequest(chunk=pb.DataChunk(array=index, data=bytes(48))) for index in (0, 1)]
    call = training_pb2_grpc.TrainingServiceStub(channel).Train
    metadata = [SAMPLED, ("baggage", "user=7")]
    return call(iter([pb.TrainRequest(spec=spec), *chunks]), timeout=60, metadata=metadata)


@pytest.mark.parametrize("behaviour", ["train", "nan"])
def test_a_run_has_a_span_below_its_call_and_its_process_gets_it(serve, tmp_path, behaviour):
    _, channel, spans = serve()
    (*_, last) = train(channel, behaviour)
    found = by_name(spans(2))
    call, run = found["layerserve.v1.TrainingService/Train"], found["training"]
    assert f"{run.context.trace_id:032x}" == TRACE
    assert run.parent.span_id == call.context.span_id
    state = "finished" if behaviour == "train" else "failed"
    assert (
        dict(run.attributes).items()
        >= {
            "layerserve.run": last.event.run_id,
            "layerserve.model": "double",
            "layerserve.version": "1",
            "layerserve.state": state,
        }.items()
    )
    epochs = [dict(event.attributes) for event in run.events if event.name == "epoch"]
    assert epochs == ([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.5}] if behaviour == "train" else [])
    assert [event.name for event in run.events][:2] == ["queued", "started"]
    assert run.status.status_code is (StatusCode.UNSET if behaviour == "train" else StatusCode.ERROR)
    assert "loss is nan" in (run.status.description or "loss is nan")
    folder = tmp_path / "models" / ".layerserve" / "runs" / last.event.run_id
    inherited = f"00-{TRACE}-{run.context.span_id:016x}-01"
    assert (folder / "seen").read_text() == f"{inherited} user=7"


@pytest.mark.parametrize("content", ["{}", '{"traceparent": "a", "parent": "b"}', '{"tracestate": "a"}', "no JSON"])
def test_a_run_whose_span_is_damaged_ends_without_it(serve, tmp_path, content):
    app, channel, spans = serve()
    for response in train(channel, "wait"):
        folder = tmp_path / "models" / ".layerserve" / "runs" / response.event.run_id
        if response.event.HasField("step"):
            (folder / FILE).write_text(content)
            (folder / "go").touch()
    assert response.event.HasField("finished")
    assert [span.name for span in spans(1)] == ["layerserve.v1.TrainingService/Train"]
    assert not app.runs.table.list()[0].owned


#: Files that are no identity of a span.
WRONG = [
    {"traceparent": 3, "parent": PARENT},
    {"traceparent": ["a"], "parent": PARENT},
    {"traceparent": f"00-{TRACE}-{PARENT}-01"},
    {"traceparent": f"00-{TRACE}-{PARENT}-01", "parent": "a"},
    {"traceparent": f"00-{TRACE}-{PARENT}-01\n", "parent": PARENT},
    {"traceparent": f"00-{TRACE}-01", "parent": PARENT},
    {"traceparent": f"00-{TRACE}-{PARENT}-01", "parent": PARENT, "other": ""},
    {"traceparent": f"00-{TRACE}-{PARENT}-01", "parent": PARENT, "baggage": "a\0b"},
    {"traceparent": f"00-{TRACE}-{PARENT}-01", "parent": PARENT, "tracestate": "\udcff"},
]


@pytest.mark.parametrize("values", WRONG)
def test_wrong_values_are_no_span(values, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(values))
    assert RunSpan.read(tmp_path) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_span_that_is_damaged_a_server_goes_on(damage, tmp_path, caplog, monkeypatch):
    file = tmp_path / FILE
    check_goes_on(file, lambda: RunSpan.read(tmp_path), damage, caplog, monkeypatch, named=True)


def test_health_checks_have_no_spans(serve):
    _, channel, spans = serve()
    channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30)
    prediction_pb2_grpc.PredictionServiceStub(channel).Predict(request(), timeout=30)
    assert not any("Health" in span.name for span in spans(5))


@pytest.mark.parametrize(
    ("sampler", "metadata", "sampled"),
    [
        ("parentbased_always_on", [], True),
        ("parentbased_always_on", [SAMPLED], True),
        ("parentbased_always_on", [UNSAMPLED], False),
        # Flags of W3C's level 2, for random ids.
        ("parentbased_always_on", [("traceparent", f"00-{TRACE}-{PARENT}-02")], False),
        ("parentbased_always_off", [("traceparent", f"00-{TRACE}-{PARENT}-03")], True),
        ("parentbased_always_off", [], False),
        ("parentbased_always_off", [SAMPLED], True),
        ("always_on", [UNSAMPLED], True),
        ("always_off", [SAMPLED], False),
        ("traceidratio", [("traceparent", f"00-{'0' * 31}1-{PARENT}-00")], True),
        ("traceidratio", [("traceparent", f"00-{'f' * 32}-{PARENT}-01")], False),
        # Not valid: as without.
        ("parentbased_always_on", [("traceparent", "00-0-0-01")], True),
        ("parentbased_always_off", [("traceparent", "00-0-0-01")], False),
        ("parentbased_always_off", [("traceparent", f"00-{'0' * 32}-{PARENT}-01")], False),
        ("parentbased_always_off", [("traceparent", b"\xff\xfe")], False),
        ("parentbased_always_off", [("tracestate", "a=1")], False),
    ],
)
def test_the_sampler_decides(traced, sampler, metadata, sampled):
    tracer = traced.tracer(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="0.5")
    trace = tracer.begin("/a.B/C", metadata, time.monotonic())
    assert (trace is not None) is sampled
    if trace is not None:
        trace.end("", "", "OK")
    assert len(traced.spans(tracer)) == sampled
    tracer.close()


def test_a_collector_that_is_away_does_not_delay_a_stop(traced, monkeypatch):
    class Away(InMemorySpanExporter):
        def export(self, spans):
            over.wait(60)
            return SpanExportResult.FAILURE

    over = threading.Event()
    monkeypatch.setattr("layerserve_server.extensions.tracing.tracer.CLOSE_SECONDS", 0.2)
    tracer = OpenTelemetryTracer({}, [Away(), traced.exporter])
    tracer.begin("/a.B/C", [SAMPLED], 0.0).end("", "", "OK")
    began = time.monotonic()
    tracer.close()
    over.set()
    assert time.monotonic() - began < 10
    assert len(traced.exporter.get_finished_spans()) == 1


def test_a_share_of_new_traces_is_sampled(traced):
    tracer = traced.tracer(OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.25")
    assert tracer._bound is not None
    found = [tracer.begin("/a.B/C", [], 0.0) for _ in range(4000)]
    assert 800 < sum(trace is not None for trace in found) < 1200
    tracer.close()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"OTEL_SERVICE_NAME": "a"}, []),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ["otlp"]),
        ({"OTEL_TRACES_EXPORTER": "console, otlp"}, ["console", "otlp"]),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, []),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4317"}, ["otlp"]),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_SDK_DISABLED": "true"}, []),
    ],
)
def test_the_standard_variables_turn_traces_on(environment, expected):
    assert otel_variables.names(environment) == expected


def test_an_exporter_that_is_not_there_is_refused():
    with pytest.raises(UnknownExporterError, match=r"OTEL_TRACES_EXPORTER: got 'zipkin', expected none or .*otlp"):
        exporters({"OTEL_TRACES_EXPORTER": "zipkin"})
    (console,) = exporters({"OTEL_TRACES_EXPORTER": "console"})
    assert type(console).__name__ == "ConsoleSpanExporter"


def test_latencies_have_exemplars_where_the_reader_asks_for_them(serve, wait_until):
    app, channel, _ = serve(metrics_port=0)
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    predict(request(), timeout=30, metadata=[UNSAMPLED])

    def page(accept):
        address = f"http://127.0.0.1:{app.metrics_port}/metrics"
        with urllib.request.urlopen(urllib.request.Request(address, headers={"Accept": accept}), timeout=30) as reply:
            return reply.read().decode()

    def exemplars():
        families = parse_open_metrics(page("application/openmetrics-text; version=1.0.0"))
        (family,) = [one for one in families if one.name == "layerserve_request_seconds"]
        return [(one.labels["le"], one.exemplar) for one in family.samples if one.exemplar is not None]

    # A call is counted after its reply is sent.
    wait_until(lambda: "layerserve_requests_total{" in page("text/plain"))
    assert exemplars() == []
    predict(request(), timeout=30, metadata=[SAMPLED])
    wait_until(exemplars)
    ((bound, exemplar),) = exemplars()
    assert exemplar.labels == {"trace_id": TRACE}
    assert exemplar.value <= float(bound)
    assert abs(float(exemplar.timestamp) - time.time()) < 60
    assert TRACE not in page("text/plain")
