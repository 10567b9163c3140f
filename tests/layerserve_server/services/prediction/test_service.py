"""Predict without a transport: what happens to a version's lease, and to those who share a burst."""

from __future__ import annotations

import time

import grpc
import numpy as np
import pytest
from fake_calls import CallObserver, FakeCall, event_batches_here
from layerserve.v1 import prediction_pb2, tensor_pb2
from layerserve.values import tensors
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.queue import QueuedRequest
from layerserve_server.observability.metrics import Metrics
from layerserve_server.services.prediction.encoder import Encoder
from layerserve_server.services.prediction.layerserve_v1 import LayerserveV1
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.services.prediction.request_template import RequestTemplates
from repositories import repository_of

X = np.arange(6, dtype=np.float32).reshape(3, 2)


def message(x=X, **fields):
    model = tensor_pb2.ModelSpec(name="double")
    fields.setdefault("inputs", [tensors.encode(x, "x")])
    return prediction_pb2.PredictRequest(model=model, **fields).SerializeToString()


class Service:
    """The prediction service of a repository with one version of "double", which is known to be quick or not."""

    def __init__(self, folder, load, wait_until, *, quick, max_queue_rows=10, max_batch_rows=8):
        self._wait_until = wait_until
        metrics = Metrics()

        def queue(name, version, execution, settings):
            return BatchQueue(
                name,
                execution,
                max_batch_rows=max_batch_rows,
                max_queue_rows=max_queue_rows,
                observer=metrics.batches(name, version),
            )

        self.repository = repository_of(folder, lambda path, settings: load(path), queue=queue, metrics=metrics)
        self.repository.scan()
        self.observer = CallObserver()
        self.batches = event_batches_here(self.observer)
        self.predict = Predictor(self.repository).handler(LayerserveV1())
        with self.repository.leases.lease("double") as version:
            self.version = version
        if quick:
            self.version.queue._thread_seconds = [0.0] * len(self.version.queue._thread_seconds)

    def burst(self, *requests, **options):
        """Calls that come together."""
        calls = [FakeCall(self.batches, request, **options) for request in requests]
        for call in calls:
            self.batches.begin(call)
            self.batches.take(call, self.predict)
        self.batches.finish()
        return calls

    def answer(self, request, **options):
        """A call by itself, once it has its answer."""
        (call,) = self.burst(request, **options)
        self._wait_until(lambda: call.sent)
        return call

    def close(self):
        self.repository.close()
        self.batches.close()


@pytest.fixture
def make(tmp_path, put, load_fake, wait_until):
    services = []

    def make_service(**options):
        put("double")
        services.append(Service(tmp_path / "models", load_fake, wait_until, **options))
        return services[-1]

    yield make_service
    for service in services:
        service.close()


def results(call):
    return tensors.decode(prediction_pb2.PredictResponse.FromString(call.sent[0]).outputs[0])


#: By what is wrong with them: requests that get no queue's place, and how they are answered.
REFUSED = {
    "queue": (message(np.ones((9, 2), np.float32)), "RESOURCE_EXHAUSTED"),
    "shape": (message(X[:, :1]), "INVALID_ARGUMENT"),
    "output": (message(outputs=["z"]), "INVALID_ARGUMENT"),
    "missing": (message(inputs=[]), "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("quick", [True, False])
def test_a_request_that_is_refused_holds_its_version_no_longer(make, case, quick):
    service = make(quick=quick)
    queue = service.version.queue
    request, code = REFUSED[case]
    if case == "queue":
        waiting = QueuedRequest(("y",), {"x": np.ones((2, 2))}, 2, True, lambda pending: None)
        queue.put(waiting)
        assert queue.queued_rows == 2
        queue._has_leader = True  # as while a batch runs
    # The first time it is read by protobuf, then known by its bytes.
    for _ in range(3):
        (call,) = service.burst(request)
        assert call.outcome == code
    service.version.retire()
    assert queue._closed, "somebody still holds a lease"


@pytest.mark.parametrize("quick", [True, False])
def test_a_request_that_is_answered_holds_its_version_no_longer(make, quick, wait_until):
    service = make(quick=quick)
    for place in range(4):
        np.testing.assert_array_equal(results(service.answer(message(X + place))), (X + place) * 2)
    assert service.answer(message(-1 - X)).outcome == "INVALID_ARGUMENT"
    assert service.answer(message(), deadline=time.monotonic() - 1).outcome == "DEADLINE_EXCEEDED"
    call = FakeCall(service.batches, message())
    service.batches.begin(call)
    call.gone()
    service.batches.take(call, service.predict)
    service.batches.finish()
    assert call.outcome == "CANCELLED"
    service.version.retire()
    wait_until(lambda: service.version.queue._closed)


def test_only_requests_that_are_accepted_become_templates(make, monkeypatch):
    """A template skips checks of what is the same in later requests."""
    learned, learn = [], RequestTemplates.learn
    monkeypatch.setattr(
        RequestTemplates, "learn", lambda self, sent, request: learned.append(sent) or learn(self, sent, request)
    )
    service = make(quick=True)
    for refused in (message(outputs=["z"]), message(X[:, :1]), message(np.array([[b"a", b"b"]], object))):
        for _ in range(2):
            assert service.answer(refused).sent[0].code is grpc.StatusCode.INVALID_ARGUMENT
    assert learned == []
    service.answer(message())
    assert learned == [message()]


def test_calls_of_a_burst_that_are_alike_are_one_batch(make):
    service = make(quick=True, max_batch_rows=8)
    service.burst(message(id="00"))
    ran = service.version.model.batches
    before = len(ran)
    calls = service.burst(*(message(X + place, id=f"{place:02}") for place in range(5)))
    for place, call in enumerate(calls):
        np.testing.assert_array_equal(results(call), (X + place) * 2)
        assert prediction_pb2.PredictResponse.FromString(call.sent[0]).id == f"{place:02}"
    # In whole requests of 3 rows, as many as fit into 8.
    assert ran[before:] == [6, 6, 3]
    assert [ended[1:4] for ended in service.observer.ended] == [("double", "1", "OK")] * 6


@pytest.mark.parametrize("count", [1, 3])
def test_a_defect_while_a_burst_is_computed_is_told_to_all_of_it(make, count):
    service = make(quick=True)
    service.burst(message())
    plan, _ = service.version.runner._plans[("y",), 1]
    plan.run = lambda inputs: 1 / 0
    calls = service.burst(*(message(X + place) for place in range(count)))
    assert [call.outcome for call in calls] == ["INTERNAL"] * count
    del plan.run
    # The queue has been given back.
    np.testing.assert_array_equal(results(service.burst(message())[0]), X * 2)


def test_results_that_can_not_be_encoded_are_an_error_of_their_request(make, monkeypatch):
    service = make(quick=False)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "fill", lambda *_: 1 / 0)
        assert service.answer(message()).outcome == "INTERNAL"
    np.testing.assert_array_equal(results(service.answer(message())), X * 2)


def test_in_a_burst_only_those_who_still_want_an_answer_are_computed(make):
    service = make(quick=True, max_batch_rows=16)
    service.burst(message())
    ran = service.version.model.batches
    before = len(ran)
    now = time.monotonic()
    calls = [
        FakeCall(service.batches, message(X), deadline=now + 100),
        FakeCall(service.batches, message(X), deadline=now - 1),
        FakeCall(service.batches, message(X)),
        FakeCall(service.batches, message(-1 - X)),
        FakeCall(service.batches, message(X + 1)),
    ]
    for call in calls:
        service.batches.begin(call)
        service.batches.take(call, service.predict)
    calls[2].gone()
    service.batches.finish()
    assert [call.outcome for call in calls] == ["OK", "DEADLINE_EXCEEDED", "CANCELLED", "INVALID_ARGUMENT", "OK"]
    np.testing.assert_array_equal(results(calls[4]), (X + 1) * 2)
    # The one with wrong content spoils the batch for nobody: each is then computed by itself.
    assert ran[before:] == [9, 3, 3, 3]


def test_in_a_burst_impatient_calls_are_refused(make):
    service = make(quick=True)
    request = message(max_queue_ms=1000)
    service.burst(request)
    before = len(service.version.model.begun)
    ages = (0.0, 2.0)
    calls = [FakeCall(service.batches, request, arrived=time.monotonic() - age) for age in ages]
    for call in calls:
        service.batches.begin(call)
        service.batches.take(call, service.predict)
    service.batches.finish()
    assert [call.outcome for call in calls] == ["OK", "RESOURCE_EXHAUSTED"]
    assert service.version.model.begun[before:] == [3]


def test_different_requests_of_a_burst_for_one_model_are_one_batch(make):
    """They meet in its queue; each by itself would be a batch of its own."""
    service = make(quick=True)
    requests = [message(X), message(X[:2])]
    service.burst(*requests)
    before = len(service.version.model.batches)
    calls = service.burst(*requests)
    assert [len(results(call)) for call in calls] == [3, 2]
    assert service.version.model.batches[before:] == [5]


def test_a_request_waits_as_long_as_it_wants_to_and_by_its_priority(make):
    service = make(quick=False)
    queue = service.version.queue
    queue._has_leader = True  # as while a batch runs
    arrived = time.monotonic() - 0.5
    # Both ways of reading a request.
    for _ in range(2):
        service.burst(message(priority=-3, max_queue_ms=700), arrived=arrived, deadline=arrived + 9)
    service.burst(message(X[:1]))
    assert [(pending.priority, pending.queue_deadline, pending.deadline, pending.arrived) for pending in queue._queue][
        1:
    ] == [(-3, arrived + 0.7, arrived + 9, arrived)] * 2
    assert queue._queue[0].queue_deadline is None
    queue._has_leader = False
