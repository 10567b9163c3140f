"""Clients that route by model: each model is asked for at its servers, and at the next ones when these are gone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
import trustme
from blocking import Blocking
from layerserve import (
    TLS,
    AsyncClient,
    Client,
    DeadlineExceeded,
    InvalidArgument,
    ModelNotFound,
    TensorSpec,
    Unavailable,
)
from layerserve.calls import async_routed_channel, routed_channel, server_addresses
from layerserve.calls.routing import ranked
from layerserve.testing import FakeServer

ROWS = [[1.0, 2.0, 3.0]]
MODELS = [f"m{number}" for number in range(12)]
ASKED = {
    "predict": lambda client, model: client.predict(model, ROWS),
    "a prepared call": lambda client, model: client.prepare(model)(ROWS),
    "a stream": lambda client, model: next(iter(client.predict_many(model, [ROWS]))),
    "node shapes": lambda client, model: client.node_shapes(model),
}


@pytest.fixture
def servers():
    """Four servers with the same models, by address."""
    with ExitStack() as stack:
        made = [stack.enter_context(FakeServer()) for _ in range(4)]
        for one in made:
            for model in MODELS:
                x, y = TensorSpec("x", (None, 3), "float32"), TensorSpec("y", (None, 3), "float32")
                one.add_model(model, lambda arrays: {"y": 2 * arrays["x"]}, [x], [y])
        yield {one.address: one for one in made}


@pytest.fixture(params=["blocking", "asyncio"])
def make(request, servers):
    """Makes a client of the servers, blocking or asyncio behind a blocking face."""
    loop, made = asyncio.new_event_loop(), []

    def client(address=None, **options):
        address = ",".join(servers) if address is None else address
        if request.param == "blocking":
            made.append(Client(address, timeout=20, **options))
        else:
            made.append(Blocking(AsyncClient(address, timeout=20, **options), loop))
        return made[-1]

    yield client
    for one in made:
        one.close()
    loop.close()


def homes(servers):
    """The servers that were asked for each model since the last time."""
    found = {model: set() for model in MODELS}
    for address, server in servers.items():
        for metadata in server.metadata:
            if model := metadata.get("layerserve-model"):
                found[model].add(address)
        server.metadata.clear()
    return found


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_model_is_asked_for_at_its_servers(make, servers, ask, count):
    client = make(route_by_model=count)
    for _ in range(1 if count == 1 else 12):
        for model in MODELS[:6]:
            ask(client, model)
    found = homes(servers)
    assert {model: found[model] for model in MODELS[:6]} == {
        model: set(ranked(model, list(servers))[:count]) for model in MODELS[:6]
    }


def test_what_is_about_no_model_goes_to_any_server(make, servers):
    client = make(route_by_model=1)
    end = time.monotonic() + 30
    # Those that are connected first get all calls until the others are.
    while not all(server.calls for server in servers.values()):
        assert time.monotonic() < end
        client.models()


def test_a_client_that_does_not_route_names_the_model_for_proxies(make, servers):
    make().predict("m1", ROWS)
    assert [one for server in servers.values() for one in server.metadata if one.get("layerserve-model") == "m1"]


@pytest.mark.parametrize("retries", [0, 4])
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_when_a_server_is_gone_the_next_one_is_asked(make, servers, ask, retries):
    client = make(route_by_model=1, retries=retries)
    for model in MODELS:
        ask(client, model)
    gone = ranked("m0", list(servers))[0]
    servers[gone].stop()
    homes(servers)
    for model in MODELS:
        ask(client, model)
    assert homes(servers) == {
        model: {next(address for address in ranked(model, list(servers)) if address != gone)} for model in MODELS
    }


def test_a_server_that_ends_has_its_calls_repeated_at_the_next(make, servers):
    client = make(route_by_model=1)
    client.predict("m0", ROWS)
    first, second, *_ = ranked("m0", list(servers))
    homes(servers)
    servers[first].fail_next(Unavailable("the server is stopping"))
    assert np.asarray(client.predict("m0", ROWS)).tolist() == [[2, 4, 6]]
    assert [one for one, _ in servers[second].calls] == ["Predict"]


def test_without_retries_a_call_that_a_server_got_is_not_repeated(make, servers):
    client = make(route_by_model=1, retries=0)
    client.predict("m0", ROWS)
    servers[ranked("m0", list(servers))[0]].fail_next(Unavailable("the server is stopping"))
    with pytest.raises(Unavailable, match="the server is stopping"):
        client.predict("m0", ROWS)


def test_an_error_of_a_server_is_that_of_the_call(make, servers):
    client = make(route_by_model=1)
    with pytest.raises(ModelNotFound):
        client.predict("other", ROWS)
    assert sum(len(server.calls) for server in servers.values()) == 1


def test_without_any_server_the_error_is_as_ever(make, servers):
    client = make(route_by_model=1, retries=0)
    client.predict("m0", ROWS)
    for server in servers.values():
        server.stop()
    with pytest.raises(Unavailable, match=r"server 127.*: can't connect to 127\.0\.0\.1:\d+: Connection refused"):
        client.predict("m0", ROWS)


def test_a_server_that_does_not_answer_delays_one_call(make, servers, monkeypatch):
    """A connection that nobody serves, as to a host that hangs."""
    for module in (routed_channel, async_routed_channel):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        client = make(",".join([*servers, address]), route_by_model=1)
        for model in MODELS:
            client.predict(model, ROWS)
        assert homes(servers) == {
            model: {next(one for one in ranked(model, [*servers, address]) if one != address)} for model in MODELS
        }


def test_a_server_whose_host_is_gone_without_a_word_costs_one_timeout(make, servers, monkeypatch):
    for module in (routed_channel, async_routed_channel):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 1.0)
    call = make(route_by_model=1).prepare("m0")
    call(ROWS)
    first, second, *_ = ranked("m0", list(servers))
    released = threading.Event()

    class Silent(list):
        """In place of what the server notes of each call: it never comes to an answer."""

        def append(self, _):
            released.wait(20)

    servers[first].metadata = Silent()
    try:
        with pytest.raises(DeadlineExceeded):
            call(ROWS, timeout=0.1)
        for _ in range(2):
            call(ROWS)
        assert homes(servers)["m0"] == {second}
    finally:
        released.set()


def test_servers_of_a_name_come_and_go(make, servers, monkeypatch):
    present = list(servers)[:3]
    monkeypatch.setattr(server_addresses, "_addresses", lambda name: tuple(sorted(present)))
    monkeypatch.setattr(server_addresses, "RESOLVE_SECONDS", 0.0)
    client = make("models.test:8500", route_by_model=1)

    def asked():
        homes(servers)
        for _ in range(2):  # each resolves the name for the next
            for model in MODELS:
                client.predict(model, ROWS)
        for model in MODELS:
            client.predict(model, ROWS)
        return homes(servers)

    asked()
    assert asked() == {model: {ranked(model, present)[0]} for model in MODELS}
    present.append(list(servers)[3])
    asked()
    assert asked() == {model: {ranked(model, present)[0]} for model in MODELS}
    del present[0]
    asked()
    assert asked() == {model: {ranked(model, present)[0]} for model in MODELS}


def test_a_stream_goes_on_when_its_server_leaves_the_name(make, servers, monkeypatch):
    present = list(servers)[:2]
    monkeypatch.setattr(server_addresses, "_addresses", lambda name: tuple(sorted(present)))
    client = make("models.test:8500", route_by_model=1)
    results = iter(client.predict_many("m0", [ROWS] * 50))
    next(results)
    routes = (client._wrapped if isinstance(client, Blocking) else client)._channel._routes
    present[:] = list(servers)[2:]
    routes.addresses._resolve()
    client.predict("m1", ROWS)
    assert {channel._connection.target for channel in routes.channels()} == set(present)
    assert sum(1 for _ in results) == 49


@pytest.mark.parametrize("count", [-1, 1.5, True, "2", None])
def test_a_number_of_servers_is_a_whole_number(count):
    with pytest.raises(InvalidArgument, match=r"route_by_model: got .*, expected the number of servers for each model"):
        Client("h:1", route_by_model=count)


def test_an_address_that_only_grpc_can_resolve_is_refused():
    with pytest.raises(InvalidArgument, match="expected host:port, or several IP addresses"):
        Client("dns://8.8.8.8/models:1", route_by_model=1)


@pytest.fixture
def issue(tmp_path):
    """Makes a server's credentials with a certificate of these names, and the client's options."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())

    def issued(*names):
        made = authority.issue_cert(*names, key_type=trustme.KeyType.ECDSA)
        chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
        return grpc.ssl_server_credentials([(made.private_key_pem.bytes(), chain)])

    issued.options = {"tls": TLS(ca=tmp_path / "ca.pem"), "token": "secret"}
    return issued


class SecureServer(FakeServer):
    """A server with a certificate, at any loopback address."""

    def __init__(self, credentials, host):
        super().__init__()
        self.address = f"{host}:{self._server.add_secure_port(f'{host}:0', credentials)}"
        x, y = TensorSpec("x", (None, 3), "float32"), TensorSpec("y", (None, 3), "float32")
        for model in MODELS:
            self.add_model(model, lambda arrays: {"y": 2 * arrays["x"]}, [x], [y])


def test_servers_of_a_name_have_certificates_of_the_name(make, issue, monkeypatch):
    with (
        SecureServer(issue("models.test"), "127.0.0.1") as one,
        SecureServer(issue("models.test"), "127.0.0.1") as other,
        SecureServer(issue("other.test"), "127.0.0.1") as foreign,
    ):
        present = tuple(sorted(server.address for server in (one, other, foreign)))
        monkeypatch.setattr(server_addresses, "_addresses", lambda name: present)
        client = make("models.test:8500", route_by_model=1, **issue.options)
        for model in MODELS:
            client.predict(model, ROWS)
        assert one.calls
        assert other.calls
        assert not foreign.metadata
        assert {metadata["authorization"] for metadata in one.metadata} == {"Bearer secret"}


def test_each_server_of_a_list_has_a_certificate_of_its_own_address(make, issue):
    with (
        SecureServer(issue("127.0.0.1"), "127.0.0.1") as one,
        SecureServer(issue("127.0.0.2"), "127.0.0.2") as other,
        SecureServer(issue("127.0.0.1"), "127.0.0.3") as foreign,
    ):
        client = make(",".join(server.address for server in (one, other, foreign)), route_by_model=1, **issue.options)
        for model in MODELS:
            client.predict(model, ROWS)
        assert one.calls
        assert other.calls
        assert not foreign.metadata
