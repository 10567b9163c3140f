"""TLS on grpcio's server: client certificates, and files that change while it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from unittest import mock

import grpc
import pytest
from authorities import Authority
from clocks import replace_time
from cryptography.hazmat.primitives import serialization
from layerserve.v1 import models_pb2, models_pb2_grpc
from layerserve_server.transport import certificates as certificates_module
from layerserve_server.transport.certificates import (
    CertificateError,
    Certificates,
    names_in,
    names_in_certificate,
)
from tokens import bearer, write_tokens


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def list_models(app, credentials, metadata=(), timeout=10):
    """Lists the models over a connection of its own."""
    # A subchannel would be shared with other channels of the same target and credentials.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.secure_channel(f"localhost:{app.grpc_port}", credentials, options) as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        return stub.ListModels(models_pb2.ListModelsRequest(), timeout=timeout, metadata=metadata).versions


def status(*arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        list_models(*arguments, **options)
    return caught.value.code()


ENTRIES = """
[[certificates]]
name = "shop"
rights = ["read"]

[[certificates]]
name = "shop.cluster"
rights = ["read"]

[[certificates]]
name = "batch"
rights = ["predict"]
"""


def test_a_certificate_has_the_rights_of_its_name(start, put, authority, tmp_path):
    put()
    tokens = write_tokens(tmp_path / "tokens.toml", more=ENTRIES)
    app = start(tokens=tokens, **authority.settings)
    assert len(list_models(app, authority.client("shop"))) == 1
    assert len(list_models(app, authority.client("any", "other", "shop.cluster"))) == 1
    assert status(app, authority.client("batch")) is grpc.StatusCode.PERMISSION_DENIED
    assert status(app, authority.client("stranger")) is grpc.StatusCode.UNAUTHENTICATED
    # A token takes precedence, whether it is right or wrong.
    assert len(list_models(app, authority.client("batch"), bearer("read"))) == 1
    assert status(app, authority.client("shop"), bearer("wrong")) is grpc.StatusCode.UNAUTHENTICATED
    assert status(app, authority.client("shop"), bearer("predict")) is grpc.StatusCode.PERMISSION_DENIED


def test_without_tokens_a_verified_certificate_opens_everything(start, put, authority, tmp_path):
    put()
    app = start(host="127.0.0.1", **authority.settings)
    assert len(list_models(app, authority.client("anyone"))) == 1
    folder = tmp_path / "stranger"
    folder.mkdir()
    stranger = Authority(folder)
    for credentials in (
        authority.client(),
        # A certificate of another authority.
        grpc.ssl_channel_credentials(
            authority.ca.cert_pem.bytes(), stranger.key.read_bytes(), stranger.chain.read_bytes()
        ),
    ):
        assert status(app, credentials, timeout=2) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel, pytest.raises(grpc.RpcError):
        models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest(), timeout=2)


def serial(app, authority, client):
    """The certificate that a new connection gets."""
    import socket
    import ssl

    context = ssl.create_default_context(cadata=authority.ca.cert_pem.bytes().decode())
    made = authority.issue_client(client)
    with made.private_key_and_cert_chain_pem.tempfile() as path:
        context.load_cert_chain(path)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", app.grpc_port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.getpeercert()["serialNumber"]


def test_changed_certificates_are_used_and_half_changed_ones_are_not(start, put, authority, caplog):
    put()
    app = start(**authority.settings)
    refresh, sample = app._inference.refresh_access, app.metrics.registry.get_sample_value

    def stale():
        return sample("layerserve_access_stale", {"what": "certificate"})

    first = serial(app, authority, "a")
    assert serial(app, authority, "a") == first
    authority.issue(half=True)
    refresh()
    assert serial(app, authority, "a") == first
    assert stale() == 1
    assert "the key is of another certificate; the certificate read before stays in use" in caplog.text
    authority.issue()
    refresh()
    second = serial(app, authority, "a")
    assert second != first
    assert stale() == 0
    authority.key.unlink()
    refresh()
    assert stale() == 1
    assert serial(app, authority, "a") == second
    # An authority that takes the place of another: its clients are let in, those of the other aren't.
    before = authority.client("a")
    other = Authority(authority.folder)
    refresh()
    assert len(list_models(app, other.client("a"))) == 1
    assert status(app, before, timeout=2) is grpc.StatusCode.UNAVAILABLE


def test_changed_certificates_wait_until_no_handshake_is_beginning(authority, monkeypatch):
    """grpcio frees its former ones without regard to a handshake that is about to take them."""
    now, slept = [100.0], []
    replace_time(monkeypatch, certificates_module, monotonic=lambda: now[0], sleep=slept.append)
    certificates = Certificates(authority.chain, authority.key)
    now[0] += 1
    assert certificates._fetch() is None
    assert slept == []
    authority.issue()
    certificates.refresh()
    now[0] += 0.005
    assert certificates._fetch() is not None
    assert slept == [pytest.approx(0.015)]
    authority.issue()
    certificates.refresh()
    now[0] += 1
    assert certificates._fetch() is not None
    assert slept[1:] == [0]


@pytest.mark.parametrize("which", ["chain", "key", "root"])
@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_files_that_are_none_are_refused_at_the_start(authority, which, content):
    path = getattr(authority, which)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CertificateError, match=re.escape(str(path))):
        Certificates(authority.chain, authority.key, authority.root)


READING = """
import sys
from pathlib import Path
from layerserve_server.transport.certificates import Certificates
Certificates(*map(Path, sys.argv[1:]))
"""


def test_a_key_with_a_password_is_refused_without_asking_for_it(authority):
    """A server without a terminal would wait for it forever, or take what its input happens to hold."""
    key = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    authority.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    # In a session of its own there is no terminal, so that OpenSSL would read the password from the input.
    refused = subprocess.run(
        [sys.executable, "-c", READING, authority.chain, authority.key],
        input="secret\n",
        capture_output=True,
        text=True,
        start_new_session=True,
        timeout=60,
    )
    assert refused.returncode == 1
    assert (
        f"CertificateError: certificate {authority.chain} and key {authority.key}: the key is encrypted"
        in refused.stderr
    )
    assert "PEM pass phrase" not in refused.stderr


def test_handshakes_that_fail_write_no_line(authority):
    """Clients may begin any number, and grpcio's lines don't have the log's level and format."""
    program = """
import socket, sys
from pathlib import Path
from layerserve_server.transport.certificates import Certificates
from layerserve_server.transport.call import Routes
from layerserve_server.transport.grpcio import GrpcioServer
from some_limits import some_limits
from echo_servers import server_of
files = Certificates(*map(Path, sys.argv[1:]))
server = server_of(GrpcioServer, Routes(), some_limits(1024, 1, 1, 8), certificates=files)
server.start()
with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
    client.sendall(bytes(100))
    while client.recv(100):
        pass
server.stop(0)
"""
    command = [sys.executable, "-c", program, authority.chain, authority.key]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("GRPC_VERBOSITY", None)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("which", ["chain", "key", "root"])
def test_files_that_could_not_be_read_are_read_again_though_they_stay_as_they_are(authority, which):
    """As on a disk in the network, or with rights that are given later."""
    certificates = Certificates(authority.chain, authority.key, authority.root)
    told = []
    certificates._reread = told.append
    read = type(authority.chain).read_bytes
    authority.issue()

    def failing(path):
        if path == getattr(authority, which):
            raise PermissionError(13, "Permission denied")
        return read(path)

    with mock.patch.object(type(authority.chain), "read_bytes", failing):
        certificates.refresh()
    assert told == [False]
    certificates.refresh()
    certificates.refresh()
    assert told == [False, True]


def test_names_of_a_certificate():
    context = {
        b"x509_common_name": [b"shop"],
        b"x509_subject_alternative_name": [b"a", b"\xff"],
        b"security_level": [b"x"],
    }
    assert names_in(context) == ["shop", "a", "\ufffd"]
    assert names_in({b"x509_common_name": [b""]}) == names_in({}) == []
    # As the module ssl describes it. trustme makes none of a common name alone.
    alone = {"subject": ((("countryName", "CH"),), (("commonName", "shop"),))}
    assert names_in_certificate(alone) == ["shop"]
    others = (("DNS", "a"), ("IP Address", "::1"))
    assert names_in_certificate({**alone, "subjectAltName": others}) == ["shop", "a", "::1"]
    assert names_in_certificate({}) == []
