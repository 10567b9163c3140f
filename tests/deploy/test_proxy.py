"""HAProxy with the configuration of deploy/proxy, in front of a server on the native transport."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest
from authorities import Authority
from layerserve import Client, Unauthenticated, Unavailable
from layerserve.connection import TLS
from layerserve_server.app import App
from layerserve_server.settings import Settings
from tokens import write_tokens

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "proxy" / "haproxy.cfg"

REPLICAS = CONFIGURATION.with_name("replicas.cfg")

pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy isn't installed"),
    pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="needs extra 'fast'"),
]


@pytest.fixture(name="app")
def _app(tmp_path: Path) -> Iterator[App]:
    tokens = write_tokens(tmp_path / "tokens.toml")
    (tmp_path / "models").mkdir()
    settings = Settings(path=tmp_path / "models", grpc_port=0, metrics_port=0, transport="native", tokens=tokens)
    with App(settings) as app:
        yield app


@pytest.fixture(name="proxied")
def _proxied(app: App, tmp_path: Path) -> Iterator[tuple[Authority, int, int]]:
    authority = Authority(tmp_path)
    for source, name in ((authority.chain, "tls.crt"), (authority.key, "tls.key"), (authority.root, "ca.crt")):
        shutil.copy(source, tmp_path / name)
    ports = [free_port() for _ in range(2)]
    variables = {
        "PROXY_GRPC": f"127.0.0.1:{ports[0]}",
        "PROXY_PROBES": f"127.0.0.1:{ports[1]}",
        "PROXY_CERTIFICATES": str(tmp_path),
        "PROXY_SERVER_PORT": str(app.grpc_port),
        "PROXY_METRICS_PORT": str(app.metrics_port),
    }
    process = subprocess.Popen(["haproxy", "-db", "-f", CONFIGURATION], env={**os.environ, **variables})
    try:
        for port in ports:
            wait_for(port)
        yield authority, ports[0], ports[1]
    finally:
        process.terminate()
        process.wait()


def test_client_certificates_and_tokens_hold(proxied: tuple[Authority, int, int], tmp_path: Path) -> None:
    authority, port, probes = proxied
    made = authority.ca.issue_cert(common_name="shop")
    (tmp_path / "client.pem").write_bytes(made.cert_chain_pems[0].bytes())
    (tmp_path / "client-key.pem").write_bytes(made.private_key_pem.bytes())
    mutual = TLS(ca=tmp_path / "ca.crt", certificate=tmp_path / "client.pem", key=tmp_path / "client-key.pem")
    with Client(f"localhost:{port}", tls=mutual, token="read", timeout=10) as client:
        assert client.models() == ()
    with Client(f"localhost:{port}", tls=mutual, timeout=10) as client, pytest.raises(Unauthenticated):
        client.models()
    alone = TLS(ca=tmp_path / "ca.crt")
    with Client(f"localhost:{port}", tls=alone, token="read", timeout=3) as client, pytest.raises(Unavailable):
        client.models()
    with grpc.insecure_channel(f"localhost:{port}") as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=3)
    with urllib.request.urlopen(f"http://127.0.0.1:{probes}/readyz", timeout=10) as reply:
        assert reply.status == 200


def test_calls_of_one_connection_go_to_all_replicas_in_turns(app: App, tmp_path: Path) -> None:
    """The second replica refuses connections: no call may fail for that, nor when no replica is left."""
    port = free_port()
    lines = f"    server a 127.0.0.1:{app.grpc_port} port {app.metrics_port} check-proto h1\n"
    lines += f"    server b 127.0.0.1:{free_port()} port {app.metrics_port} check-proto h1\n"
    (tmp_path / "servers.cfg").write_text(f"backend replicas\n{lines}")
    files = ["-f", str(REPLICAS), "-f", str(tmp_path / "servers.cfg")]
    process = subprocess.Popen(["haproxy", "-db", *files], env={**os.environ, "PROXY_GRPC": f"127.0.0.1:{port}"})
    try:
        wait_for(port)
        with Client(f"127.0.0.1:{port}", token="read", timeout=10, retries=0) as client:
            client.wait_until_ready(30)
            for _ in range(6):
                assert client.models() == ()
            app.drain()
            # A call on its way to the replica, when that is found not to be ready, is reset or gets 503.
            with pytest.raises(Unavailable):
                call_until_refused(client)
            with pytest.raises(Unavailable, match="no replica is ready"):
                client.models()
    finally:
        process.terminate()
        process.wait()


def call_until_refused(client: Client) -> None:
    """Calls until a call fails, for at most 30 seconds. Raises its error."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        client.models()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
