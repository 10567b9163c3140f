from __future__ import annotations

import pytest
from layerserve import InvalidArgument
from layerserve.calls.addresses import authority, is_local, may_be_several, target
from layerserve.calls.connection import connection


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("localhost:8500", "localhost:8500"),
        ("dns:///models.default.svc:8500", "dns:///models.default.svc:8500"),
        ("10.0.0.1:8500,10.0.0.2:8501", "ipv4:10.0.0.1:8500,10.0.0.2:8501"),
        ("10.0.0.1:8500, 10.0.0.2:8501", "ipv4:10.0.0.1:8500,10.0.0.2:8501"),
        ("[::1]:8500,[::2]:8500", "ipv6:[::1]:8500,[::2]:8500"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "ipv4:127.0.0.1:1,127.0.0.1:2"),
    ],
)
def test_targets_are_those_of_grpc(address, expected):
    assert target(address) == expected


@pytest.mark.parametrize("address", ["a:1,b:1", "10.0.0.1:1,[::1]:1"])
def test_several_addresses_are_ip_addresses_of_one_kind(address):
    with pytest.raises(InvalidArgument, match="expected IP addresses of one kind"):
        target(address)


def test_an_address_has_text():
    with pytest.raises(InvalidArgument, match="address: got an empty string"):
        target("")


@pytest.mark.parametrize(
    ("address", "local", "several"),
    [
        ("localhost:8500", True, False),
        ("127.0.0.1:8500", True, False),
        ("127.8.9.1:8500", True, False),
        ("[::1]:8500", True, False),
        ("::1", True, False),
        ("unix:/run/layerserve.sock", True, False),
        ("dns:///localhost:8500", True, False),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True, True),
        ("127.0.0.1:1,10.0.0.1:2", False, True),
        ("10.0.0.1:8500", False, False),
        ("models:8500", False, True),
        ("localhost.example:8500", False, True),
        ("127.0.0.1.example:8500", False, True),
        ("dns:///models:8500", False, True),
        ("dns://127.0.0.1/models:8500", False, True),
        ("xds:///models", False, True),
    ],
)
def test_where_an_address_leads(address, local, several):
    assert (is_local(address), may_be_several(address)) == (local, several)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("models:8500", None),
        ("127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1"),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", "127.0.0.1:1"),
        ("ipv6:[::1]:1,[::2]:2", "[::1]:1"),
    ],
)
def test_calls_to_several_addresses_name_the_first(address, expected):
    """gRPC would name all of them, which HTTP/2 servers other than its own refuse."""
    assert authority(address) == expected
    assert dict(connection(address).channel_options).get("grpc.default_authority") == expected
