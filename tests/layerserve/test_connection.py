from __future__ import annotations

import json
import shutil
import subprocess

import grpc
import pytest
from layerserve import TLS, Client, DeadlineExceeded, InvalidArgument, Unavailable
from layerserve.connection import Deadline, connection, service_config
from layerserve.testing import FakeServer


def test_calls_are_spread_and_only_repeatable_ones_repeated():
    config = json.loads(service_config())
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    (policy,) = config["methodConfig"]
    assert policy["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE"]
    assert {name["method"] for name in policy["name"]} == {
        "Predict",
        "ListModels",
        "GetModel",
        "GetNodeShapes",
        "GetRun",
        "ListRuns",
        "CancelRun",
        "ResumeRun",
        "DeleteRun",
        "ListRunFiles",
    }


def test_options_of_the_user_win():
    options = dict(connection("h:1", False, None, [("grpc.keepalive_time_ms", 5), ("x", 1)]).channel_options)
    assert (options["grpc.keepalive_time_ms"], options["x"]) == (5, 1)
    assert options["grpc.max_receive_message_length"] == -1


def test_a_deadline_runs_out_across_calls(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    deadline = Deadline(2.0)
    assert deadline.remaining() == 2.0
    clock[0] += 1.5
    assert deadline.remaining() == 0.5
    clock[0] += 1
    with pytest.raises(DeadlineExceeded, match="no answer within 2 s"):
        deadline.remaining()
    assert Deadline(None).remaining() is None
    assert Deadline(float("inf")).remaining() is None


def test_a_certificate_needs_its_key(tmp_path):
    with pytest.raises(InvalidArgument, match="one of certificate and key"):
        TLS(certificate=tmp_path / "c.pem").credentials()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_tls_with_an_authority_of_ones_own_and_a_client_certificate(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=layerserve"
    extension = "subjectAltName=DNS:models.example"
    subprocess.run(
        [*command.split(), "-addext", extension, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    pem = certificate.read_bytes()
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), pem)], pem, require_client_auth=True)
    with FakeServer(credentials) as server:
        tls = TLS(ca=certificate, certificate=certificate, key=key, server_name="models.example")
        with Client(server.address, tls=tls) as client:
            assert client.models() == ()
        with Client(server.address, tls=True) as client, pytest.raises(Unavailable):
            client.models()
