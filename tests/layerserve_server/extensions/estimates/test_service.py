"""Requests of estimates are refused before anything is done."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from layerserve.v1 import training_pb2
from layerserve_server.access.caller import ANYONE
from layerserve_server.errors import BusyError, InvalidRequestError
from layerserve_server.extensions.estimates import service
from layerserve_server.extensions.estimates.service import RunEstimates


def call(request):
    return SimpleNamespace(request=request.SerializeToString(), caller=ANYONE, set_metric_labels=lambda *_: None)


def test_an_estimate_is_of_a_run():
    with pytest.raises(InvalidRequestError, match="run: got neither train nor evaluate"):
        RunEstimates(*[None] * 4).estimate_run(call(training_pb2.EstimateRunRequest()))


def test_a_few_runs_are_estimated_at_a_time(monkeypatch):
    base = SimpleNamespace(name="m", version=1, model=SimpleNamespace(input_specs=[], output_specs=[]))
    monkeypatch.setattr(service, "lease", lambda *_: nullcontext(base))
    estimates = RunEstimates(*[None] * 4)
    while estimates._slots.acquire(blocking=False):
        pass
    with pytest.raises(BusyError, match="other runs are being estimated") as caught:
        estimates.estimate_run(call(training_pb2.EstimateRunRequest(train={})))
    assert caught.value.retry_after == service.RETRY_SECONDS
