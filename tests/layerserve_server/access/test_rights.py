"""The table of rights: every method and route is in it, and a server with one that isn't doesn't start."""

from __future__ import annotations

import pytest
from echo_servers import SERVERS, Observer
from grpc_health.v1 import health_pb2
from layerserve_server.access.gate import Gate
from layerserve_server.access.rights import PATHS, MissingRightError, read_rights
from layerserve_server.transport.call import Routes
from layerserve_server.wiring import RIGHTS
from some_limits import some_limits
from stubs import described_files


def described() -> dict[str, set[str]]:
    """Full names of the methods of all descriptors, by service."""
    files = [health_pb2.DESCRIPTOR, *described_files()]
    return {
        service.full_name: {f"/{service.full_name}/{method.name}" for method in service.methods}
        for file in files
        for service in file.services_by_name.values()
    }


def test_every_described_method_has_a_right():
    services = described()
    assert {"layerserve.v1.PredictionService", "grpc.health.v1.Health"} < set(services)
    # Most methods of the other protocol are an extension's.
    services.pop("inference.GRPCInferenceService")
    assert [method for methods in services.values() for method in methods if method not in RIGHTS] == []


def test_every_registered_method_is_in_the_table(make_server, put):
    put()
    server = make_server()
    routes = server.methods
    assert {"Predict", "Train", "ListModels"} <= {method.rpartition("/")[2] for method in routes}
    assert [method for method in routes if method not in RIGHTS] == []


def test_a_method_that_is_not_described_has_no_right():
    assert "/layerserve.v1.ManagementService/AnythingNew" not in RIGHTS


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("streams", [False, True])
def test_a_server_with_a_method_without_a_right_does_not_start(kind, streams):
    method = "/layerserve.v1.PredictionService/PredictNew"
    routes = Routes(server_streams={method: None}) if streams else Routes(unary={method: None}, prompt={method})
    with pytest.raises(MissingRightError, match=r"PredictionService/PredictNew: got no right in proto/"):
        kind(routes, Observer(), some_limits(1024, 1, 1, 8), host="127.0.0.1", port=0, gate=Gate())


def test_a_route_without_a_right_is_refused():
    Gate().require_rights(PATHS)
    with pytest.raises(MissingRightError, match="/debug"):
        Gate().require_rights(["/metrics", "/debug"])


@pytest.mark.parametrize(
    ("text", "rights"), [("predict", {"predict"}), (" read , train,", {"read", "train"}), ("", set())]
)
def test_rights_are_read_from_a_list(text, rights):
    assert read_rights(text) == rights


@pytest.mark.parametrize("text", ["open", "Predict", "all", "predict;read"])
def test_other_words_are_no_rights(text):
    with pytest.raises(ValueError, match="expected one of predict, read, train, manage"):
        read_rights(text)
