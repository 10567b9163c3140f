from __future__ import annotations

import pytest
from layerserve.calls.methods import METHODS
from layerserve.v1 import (
    checkpoints_pb2,
    datasets_pb2,
    graph_pb2,
    management_pb2,
    models_pb2,
    online_pb2,
    prediction_pb2,
    server_pb2,
    sweeps_pb2,
    training_pb2,
)

SERVICES = [
    service
    for module in (
        *(prediction_pb2, models_pb2, graph_pb2, training_pb2, datasets_pb2, management_pb2),
        *(checkpoints_pb2, online_pb2, server_pb2, sweeps_pb2),
    )
    for service in module.DESCRIPTOR.services_by_name.values()
]
DESCRIBED = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}


def test_the_table_has_every_rpc_of_the_contract():
    assert {method.path for method in METHODS} == set(DESCRIBED)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_an_rpc_is_as_the_contract_has_it(method):
    described = DESCRIBED[method.path]
    assert method.request.DESCRIPTOR is described.input_type
    assert method.reply.DESCRIPTOR is described.output_type
    assert (method.streams_requests, method.streams_replies) == (described.client_streaming, described.server_streaming)
    assert not method.repeatable or not (described.client_streaming or described.server_streaming)


def test_only_calls_that_change_nothing_are_repeated():
    """A method is added to this list on purpose: repeated, it must have no effect beyond the first."""
    assert {method.name for method in METHODS if method.repeatable} == {
        "Predict",
        "ListModels",
        "GetModel",
        "GetModelStatistics",
        "GetNodeShapes",
        "GetServer",
        "EstimateRun",
        "GetRun",
        "ListRuns",
        "GetRunSeries",
        "ListRunFiles",
        "ListDatasets",
        "GetDataset",
        "ListCheckpoints",
        "PredictCheckpoint",
        "GetSweep",
        "ListSweeps",
    }
