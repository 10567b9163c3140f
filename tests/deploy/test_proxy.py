"""HAProxy with the configuration of deploy/proxy, in front of a server on the native transport."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest
from authorities import Authority
from layerserve import Client, TensorSpec, Unauthenticated, Unavailable
from layerserve.calls.connection import TLS
from layerserve.testing import FakeServer
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from tokens import write_tokens

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "proxy" / "haproxy.cfg"

REPLICAS = CONFIGURATION.with_name("replicas.cfg")

#: Models on three replicas.
MODELS = [f"m{number}" for number in range(30)]
#: How servers of the two backends are checked.
BACKENDS = {"replicas": "check-proto h1", "http": "proto h1"}
SPEC = TensorSpec("x", (None, 1), "float32")

pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy isn't installed"),
    pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="needs pygrpc-native"),
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
    variables = {
        "PROXY_CERTIFICATES": str(tmp_path),
        "PROXY_SERVER_PORT": str(app.grpc_port),
        "PROXY_METRICS_PORT": str(app.metrics_port),
    }
    with haproxy(CONFIGURATION, takes=("PROXY_GRPC", "PROXY_PROBES"), **variables) as (calls, probes):
        yield authority, calls, probes


def test_client_certificates_and_tokens_hold(proxied: tuple[Authority, int, int], tmp_path: Path) -> None:
    authority, port, probes = proxied
    made = authority.issue_client("shop")
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
    with socket.socket() as refusing:
        # Nothing listens on it; bound, it is no other process's.
        refusing.bind(("127.0.0.1", 0))
        lines = f"    server a 127.0.0.1:{app.grpc_port} port {app.metrics_port} check-proto h1\n"
        lines += f"    server b 127.0.0.1:{refusing.getsockname()[1]} port {app.metrics_port} check-proto h1\n"
        (tmp_path / "servers.cfg").write_text(f"backend replicas\n{lines}")
        with (
            haproxy(REPLICAS, tmp_path / "servers.cfg", takes=("PROXY_GRPC",)) as (port,),
            Client(f"127.0.0.1:{port}", token="read", timeout=10, retries=0) as client,
        ):
            client.wait_until_ready(30)
            for _ in range(6):
                assert client.models() == ()
            app.drain()
            # A call on its way to the replica, when that is found not to be ready, is reset or gets 503.
            with pytest.raises(Unavailable):
                call_until_refused(client)
            with pytest.raises(Unavailable, match="no replica is ready"):
                client.models()


def test_each_model_is_on_one_replica(tmp_path: Path) -> None:
    """By the header of the client over gRPC, and by the path over HTTP. What is about no model goes to any."""
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeServer()) for _ in range(3)]
        pages = [stack.enter_context(page_server()) for _ in servers]
        for server in servers:
            for model in MODELS:
                server.add_model(model, lambda arrays: arrays, [SPEC], [SPEC])
        grpc_lines, http_lines = (
            "".join(f"    server {n} {to} port {page.server_port} {rest}\n" for n, (to, page) in enumerate(where))
            for rest, where in (
                ("check-proto h1", zip((one.address for one in servers), pages, strict=True)),
                ("proto h1", ((f"127.0.0.1:{page.server_port}", page) for page in pages)),
            )
        )
        (tmp_path / "servers.cfg").write_text(f"backend replicas\n{grpc_lines}backend http\n{http_lines}")
        takes = ("PROXY_GRPC", "PROXY_HTTP")
        calls, http = stack.enter_context(
            haproxy(REPLICAS, tmp_path / "servers.cfg", takes=takes, PROXY_BY_MODEL="150")
        )
        client = stack.enter_context(Client(f"127.0.0.1:{calls}", timeout=10))
        client.wait_until_ready(30)
        for _ in range(60):
            client.models()
        for _ in range(3):
            for model in MODELS:
                client.predict(model, [[1.0]])
                with urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/models/{model}/ready", timeout=10):
                    pass
    by_header = [[str(one["layerserve-model"]) for one in s.metadata if "layerserve-model" in one] for s in servers]
    by_path = [[path for path in page.paths if path != "/readyz"] for page in pages]
    for asked, expected in ((by_header, MODELS), (by_path, [f"/v2/models/{model}/ready" for model in MODELS])):
        assert sorted(name for names in asked for name in set(names)) == sorted(expected)
        assert all(len(set(names)) >= 3 for names in asked), asked
    assert all("ListModels" in [method for method, _ in server.calls] for server in servers)


def test_calls_of_a_sequence_stay_on_the_replica_of_the_first(tmp_path: Path) -> None:
    """With the lines of the page about sequences, also where models are routed; other calls go to all in turns."""
    page = (CONFIGURATION.parents[2] / "docs" / "sequences.md").read_text()
    lines = page.partition("\nbackend replicas\n")[2].partition("    server ")[0]
    for variables in ({}, {"PROXY_BY_MODEL": "150"}):
        with ExitStack() as stack:
            servers = [stack.enter_context(FakeServer()) for _ in range(3)]
            ready = stack.enter_context(page_server())
            at = "".join(
                f"    server {n} {one.address} port {ready.server_port} check-proto h1\n"
                for n, one in enumerate(servers)
            )
            (tmp_path / "servers.cfg").write_text(f"backend replicas\n{lines}{at}")
            files = (REPLICAS, tmp_path / "servers.cfg")
            (port,) = stack.enter_context(haproxy(*files, takes=("PROXY_GRPC",), **variables))
            stack.enter_context(Client(f"127.0.0.1:{port}", timeout=10)).wait_until_ready(30)
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}"))
            call = channel.unary_unary("/layerserve.v1.ModelService/ListModels")
            for _ in range(3):
                for number in range(9):
                    call(b"", metadata=[("layerserve-sequence", f"s{number}"), ("layerserve-model", "m")], timeout=10)
                call(b"", timeout=10)
        by_id = [[str(m["layerserve-sequence"]) for m in s.metadata if "layerserve-sequence" in m] for s in servers]
        assert sorted(name for ids in by_id for name in set(ids)) == [f"s{number}" for number in range(9)]
        assert sum(map(len, by_id)) == 27
        assert variables or all(by_id)


def test_no_replica_over_http_is_an_error_as_the_servers_own(tmp_path: Path) -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        port = refusing.getsockname()[1]
        lines = "".join(f"backend {name}\n    server a 127.0.0.1:{port} {how}\n" for name, how in BACKENDS.items())
        (tmp_path / "servers.cfg").write_text(lines)
        takes = ("PROXY_GRPC", "PROXY_HTTP")
        with haproxy(REPLICAS, tmp_path / "servers.cfg", takes=takes) as (_, http):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/models/m/ready", timeout=10)
            with refused.value as answer:
                body = json.loads(answer.read())
    assert (answer.code, answer.headers["Content-Type"]) == (503, "application/json")
    assert body == {"error": "no replica is ready"}


class PageServer(ThreadingHTTPServer):
    """Answers 200, and notes the paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.paths: list[str] = []


class Page(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        self.server.paths.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def page_server() -> Iterator[PageServer]:
    with PageServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def call_until_refused(client: Client) -> None:
    """Calls until a call fails, for at most 30 seconds. Raises its error."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        client.models()


@contextmanager
def haproxy(*files: Path, takes: tuple[str, ...], **variables: str) -> Iterator[tuple[int, ...]]:
    """HAProxy with these files. Yields the ports of the sockets that it gets for the variables in `takes`.

    They listen before it starts: a port that was only found to be free could be another process's by then.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in takes]
        ports = tuple(int(one.getsockname()[1]) for one in sockets)
        variables |= {name: f"fd@{one.fileno()}" for name, one in zip(takes, sockets, strict=True)}
        process = subprocess.Popen(
            ["haproxy", "-db", *(word for file in files for word in ("-f", str(file)))],
            env={**os.environ, **variables},
            pass_fds=[one.fileno() for one in sockets],
        )
    try:
        yield ports
    finally:
        process.terminate()
        process.wait()
