from __future__ import annotations

import json

import pytest
from layerserve import Client, InvalidArgument
from layerserve.calls.connection import connection
from layerserve.calls.service_config import service_config


def test_calls_are_spread_and_those_that_change_nothing_repeated():
    config = json.loads(service_config(4, "round_robin", health=True))
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": ""}
    assert config["retryThrottling"] == {"maxTokens": 200, "tokenRatio": 0.1}
    (policy,) = config["methodConfig"]
    assert policy["retryPolicy"] == {
        "maxAttempts": 5,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    assert {name["service"].partition(".v1.")[0] for name in policy["name"]} == {"layerserve"}
    assert {"Predict", "GetModel"} <= {name["method"] for name in policy["name"]}
    assert not {"Train", "CancelRun", "DeleteRun"} & {name["method"] for name in policy["name"]}


def test_without_retries_there_is_no_policy():
    config = json.loads(service_config(0, "pick_first", health=False))
    assert config == {"loadBalancingConfig": [{"pick_first": {}}]}


@pytest.mark.parametrize("retries", [-1, 5, 1.5, None])
def test_retries_have_grpcs_limit(retries):
    with pytest.raises(InvalidArgument, match=r"retries: got .*, expected 0 to 4"):
        Client("h:1", retries=retries)


def test_a_way_of_balancing_is_one_of_two():
    with pytest.raises(InvalidArgument, match="load_balancing: got 'robin', expected 'round_robin' or 'pick_first'"):
        Client("h:1", load_balancing="robin")


@pytest.mark.parametrize(
    ("address", "watched"),
    [("localhost:1", False), ("127.0.0.1:1", False), ("models:1", True), ("127.0.0.1:1,127.0.0.1:2", True)],
)
def test_health_is_watched_where_there_may_be_another_server(address, watched):
    config = json.loads(dict(connection(address).channel_options)["grpc.service_config"])
    assert ("healthCheckConfig" in config) == watched
