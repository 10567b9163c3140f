from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import grpc
import pytest
import trustme
from clocks import replace_time
from layerserve import TLS, Client, DeadlineExceeded, InvalidArgument, Unavailable
from layerserve.calls import connection as connection_module
from layerserve.calls.connection import Deadline, connection
from layerserve.calls.rpc_errors import is_unsent, rpc_error
from layerserve.testing import FakeServer


def test_silent_streams_outlive_load_balancers_and_messages_have_any_size():
    options = dict(connection("h:1").channel_options)
    assert json.loads(options.pop("grpc.service_config"))
    assert options == {
        "grpc.max_receive_message_length": -1,
        "grpc.max_send_message_length": -1,
        "grpc.enable_retries": 1,
        "grpc.per_rpc_retry_buffer_size": 2**31 - 1,
        "grpc.primary_user_agent": "layerserve-python",
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.keepalive_permit_without_calls": 0,
        "grpc.http2.max_pings_without_data": 0,
        "grpc.initial_reconnect_backoff_ms": 500,
        "grpc.max_reconnect_backoff_ms": 3_000,
        "grpc.dns_min_time_between_resolutions_ms": 10_000,
    }


def test_a_name_to_expect_is_only_asked_for_where_it_is_given():
    key = "grpc.ssl_target_name_override"
    assert key not in dict(connection("h:1", tls=True).channel_options)
    assert dict(connection("h:1", tls=TLS(server_name="a")).channel_options)[key] == "a"


@pytest.mark.parametrize(
    ("tls", "token", "expected", "metadata"),
    [
        (False, None, None, ()),
        (True, "secret", TLS(), (("authorization", "Bearer secret"),)),
        (TLS(server_name="a"), "", TLS(server_name="a"), ()),
    ],
)
def test_who_asks_and_how(tls, token, expected, metadata):
    made = connection("h:1", tls=tls, token=token)
    assert (made.address, made.tls, made.token.metadata()) == ("h:1", expected, metadata)


@pytest.mark.parametrize("address", ["http://h:1", "https://h:1", "grpc://h:1", "grpcs://h:1"])
def test_a_url_is_no_address(address):
    with pytest.raises(InvalidArgument, match=r"expected host:port; for TLS use tls=True, or --tls"):
        connection(address)


@pytest.mark.parametrize(
    "address",
    [
        "h",
        "localhost",
        "10.0.0.1",
        "::1",
        "[::1]",
        "h:",
        ":8500",
        "h:grpc",
        "h:123456",
        "h:1/v1",
        "h:1,i",
        "h:1,",
        ",",
        "h 1",
    ],
)
def test_an_address_without_a_port_is_refused(address):
    with pytest.raises(InvalidArgument, match=r"address: got .*, expected host:port, such as localhost:8500"):
        connection(address)


@pytest.mark.parametrize(
    "address",
    ["h:1", "a-b.c_d.svc:8500", "[::1]:8500", "[fe80::1%eth0]:1", "10.0.0.1:1, 10.0.0.2:2", "dns:///h", "unix:/s"],
)
def test_addresses_with_ports_and_targets_of_grpc_are_taken(address):
    assert connection(address).address == address


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
def test_a_deadline_is_ahead(seconds):
    with pytest.raises(InvalidArgument, match=f"timeout: got {seconds}, expected a positive number of seconds"):
        Deadline(seconds)


def test_a_deadline_that_is_reached_has_passed(monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, connection_module, monotonic=lambda: clock[0])
    deadline = Deadline(2.0)
    clock[0] = 102.0
    with pytest.raises(DeadlineExceeded):
        deadline.remaining()


class Refused(grpc.RpcError):
    """An error of gRPC as its calls raise it."""

    def __init__(self, code, text, metadata):
        self.code, self.details, self.trailing_metadata = lambda: code, lambda: text, lambda: metadata


@pytest.mark.parametrize(
    ("metadata", "text"),
    [((), "server h:1: connection refused"), ((("layerserve-reason", "unavailable"),), "connection refused")],
)
def test_only_where_no_server_of_ours_answered_its_address_is_named(metadata, text):
    error = rpc_error(Refused(grpc.StatusCode.UNAVAILABLE, "connection refused", metadata), connection("h:1"))
    assert isinstance(error, Unavailable)
    assert str(error) == text


def test_options_of_the_user_win():
    options = dict(connection("h:1", options=[("grpc.keepalive_time_ms", 5), ("x", 1)]).channel_options)
    assert (options["grpc.keepalive_time_ms"], options["x"]) == (5, 1)
    assert options["grpc.max_receive_message_length"] == -1


@pytest.mark.parametrize(("options", "expected"), [((), "127.0.0.2:2"), ((("grpc.default_authority", "me"),), "me")])
def test_one_server_of_a_list_is_named_unless_the_user_names_it(options, expected):
    made = connection("127.0.0.1:1,127.0.0.2:2", route_by_model=1, options=options)
    assert dict(made.to("127.0.0.2:2").channel_options)["grpc.default_authority"] == expected


def test_no_pause_is_longer_than_what_a_deadline_leaves(monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, connection_module, monotonic=lambda: clock[0])
    deadline = Deadline(2.0)
    assert (deadline.limit(1.5), deadline.limit(3.0)) == (1.5, 2.0)
    clock[0] += 3
    assert deadline.limit(1.5) == 0


def test_a_deadline_runs_out_across_calls(monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, connection_module, monotonic=lambda: clock[0])
    deadline = Deadline(2.0)
    assert deadline.remaining() == 2.0
    clock[0] += 1.5
    assert deadline.remaining() == 0.5
    clock[0] += 1
    with pytest.raises(DeadlineExceeded, match="no reply within 2 s"):
        deadline.remaining()
    assert Deadline(None).remaining() is None
    assert Deadline(float("inf")).remaining() is None


def test_a_timeout_that_grpc_can_not_count_is_none():
    """gRPC has 64 bits for nanoseconds: a call with a longer one failed at once."""
    year = 365 * 86400.0
    assert Deadline(1e10).remaining() is None
    assert 0.99 * year < Deadline(year).remaining() <= year


def test_a_certificate_needs_its_key(tmp_path):
    with pytest.raises(InvalidArgument, match="one of certificate and key"):
        TLS(certificate=tmp_path / "c.pem").credentials()


@pytest.mark.parametrize("tls", ["ca.pem", grpc.ssl_channel_credentials()], ids=["path", "credentials"])
def test_what_is_no_setting_of_tls_is_an_error(tls):
    with pytest.raises(InvalidArgument, match=r"tls: got .*, expected True, False or a layerserve.TLS with files"):
        Client("localhost:1", tls=tls)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_with_an_authority_of_ones_own_and_a_client_certificate(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=layerserve"
    extension = "subjectAltName=DNS:models.example,IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-addext", extension, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    pem = certificate.read_bytes()
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), pem)], pem, require_client_auth=True)
    with FakeServer(credentials) as server:
        tls = TLS(ca=certificate, certificate=certificate, key=key, server_name="models.example")
        with Client(server.address, tls=tls) as client:
            assert client.models() == ()
        # Several addresses, of servers without Watch; the certificate has a name, and the first address.
        for several in (tls, dataclasses.replace(tls, server_name=None)):
            with Client(f"{server.address},{server.address}", tls=several) as client:
                assert client.models() == ()
        for mistaken, reason in (
            (True, r"certificate isn't of a trusted authority, expected its PEM file as TLS\(ca="),
            (dataclasses.replace(tls, server_name="other.example"), r"another name than the address.*server_name="),
            (TLS(ca=certificate, server_name="models.example"), "may require a client certificate of an authority"),
            (False, "if it has TLS, expected tls=True"),
        ):
            with Client(server.address, tls=mistaken, retries=0) as client, pytest.raises(Unavailable, match=reason):
                client.models()


def test_a_server_of_another_kind_is_named_with_what_is_expected():
    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Quiet) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{page.server_port}"
        with Client(address, retries=0) as client, pytest.raises(Unavailable) as caught:
            client.models()
        page.shutdown()
    expected = "it isn't a port for gRPC, expected the one that the server names at its start"
    assert str(caught.value) == f"server {address}: can't connect to {address}: {expected}"
    no_tls = "the server has no TLS, expected tls=False, or no --tls"
    with (
        FakeServer() as server,
        Client(server.address, tls=True, retries=0) as client,
        pytest.raises(Unavailable, match=no_tls),
    ):
        client.models()


def test_a_call_without_a_reply_names_the_server():
    late = Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded", ())
    error = rpc_error(late, connection("h:1"))
    assert (type(error), str(error)) == (DeadlineExceeded, "server h:1: no reply before the end of the timeout")
    told = Refused(
        grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed", (("layerserve-reason", "deadline_passed"),)
    )
    assert str(rpc_error(told, connection("h:1"))) == "the deadline passed"


def test_by_localhost_the_telling_one_of_its_two_addresses_is_named():
    """gRPC gives the error of the address it tried last, which is often the one at which nothing listens."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

    refused = "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:{}: Failed to connect to remote "
    refused += "host: Connection refused"

    def said(port, tls=False):
        error = Refused(grpc.StatusCode.UNAVAILABLE, refused.format(port), ())
        return str(rpc_error(error, connection(f"localhost:{port}", tls=tls)))

    with HTTPServer(("127.0.0.1", 0), Quiet) as page:
        threading.Thread(target=page.serve_forever, daemon=True).start()
        port = page.server_port
        expected = "it isn't a port for gRPC, expected the one that the server names at its start"
        assert said(port) == f"server localhost:{port}: can't connect to 127.0.0.1:{port}: {expected}"
        page.shutdown()
    assert said(port) == f"server localhost:{port}: can't connect to 127.0.0.1:{port}: Connection refused"
    with FakeServer() as server:
        port = server.address.rpartition(":")[2]
        assert "the server has no TLS, expected tls=False, or no --tls" in said(port, tls=True)
        # It has begun to answer.
        assert said(port) == f"server localhost:{port}: can't connect to [::1]:{port}: Connection refused"


def test_files_of_tls_that_can_not_be_used_are_named(tmp_path):
    paths = {}
    for name in ("a", "b"):
        made = trustme.CA().issue_cert("localhost")
        paths[name], paths[f"{name} key"] = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        made.cert_chain_pems[0].write_to_path(paths[name])
        made.private_key_pem.write_to_path(paths[f"{name} key"])
    a, b = (SimpleNamespace(certificate=paths[name], key=paths[f"{name} key"]) for name in ("a", "b"))
    note = tmp_path / "note.txt"
    note.write_text("hello")
    for tls, text in (
        (
            TLS(certificate=a.certificate, key=b.key),
            f"{a.certificate} and key {b.key}: the key is of another certificate",
        ),
        (TLS(certificate=a.key, key=a.certificate), f"certificate {a.key}: got a private key, expected a certificate"),
        (TLS(certificate=a.certificate, key=note), f"key {note}: got neither a certificate nor a key in PEM form"),
        (TLS(ca=a.key), f"authority {a.key}: got a private key, expected certificates in PEM form"),
    ):
        with pytest.raises(InvalidArgument, match=re.escape(text)):
            Client("localhost:1", tls=tls)
    with pytest.raises(FileNotFoundError, match="absent"):
        Client("localhost:1", tls=TLS(ca=tmp_path / "absent"))


@pytest.mark.parametrize(
    ("details", "text"),
    [
        (
            "failed to connect to all addresses; last error: UNKNOWN: ipv6:%5B::1%5D:1: Failed to connect to remote "
            "host: Connection refused",
            "server h:1: can't connect to [::1]:1: Connection refused",
        ),
        (
            "connections to all backends failing; last error: FAILED_PRECONDITION: ipv4:10.0.0.1:1: connect failed: "
            "addr: ipv4:10.0.0.1:1 error: Network is unreachable",
            "server h:1: can't connect to 10.0.0.1:1: Network is unreachable",
        ),
        (
            "errors resolving h:1: [field:hostname lookup error:address lookup failed for h:1: Domain name not found]",
            "server h:1: the host's name has no address: Domain name not found",
        ),
        (
            "DNS resolution failed for h:1: C-ares status is not ARES_SUCCESS: Could not contact servers",
            "server h:1: the host's name has no address: Could not contact servers",
        ),
        ("Socket closed", "server h:1: Socket closed"),
        ("", "server h:1: "),
    ],
)
def test_a_server_that_does_not_answer_is_named_with_the_reason(details, text):
    unavailable = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
    assert str(rpc_error(unavailable, connection("h:1"))) == text


@pytest.mark.parametrize(
    ("details", "unsent"),
    [
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.1:1: Connection refused", True),
        ("connections to all backends failing; last error: ipv4:127.0.0.1:31427: backend unhealthy", True),
        ("Stream removed (recvmsg:Connection reset by peer (104))", False),
        ("the server is stopping", False),
        (None, False),
    ],
)
def test_a_call_that_no_server_got_is_known_by_its_text(details, unsent):
    assert is_unsent(Refused(grpc.StatusCode.UNAVAILABLE, details, ())) is unsent
