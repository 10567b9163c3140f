"""What TLS costs: in grpcio's server, and by a proxy in front of the native transport (deploy/proxy/haproxy.cfg).

A lone caller, and 16 callers at once, in turns so that a busy machine is busy for all. HAProxy is Debian's package.

    python lab/benchmarks/tls.py --turns 3 --seconds 1
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import trustme
from loads import PREDICT, predict_load, write_models

ROOT = Path(__file__).parents[2]
CALLERS = 16
WELCOME = re.compile(r"gRPC on \S+?:(\d+)")


@dataclass
class Way:
    """A way to the server, with what was measured on it."""

    name: str
    target: str
    credentials: grpc.ChannelCredentials | None
    #: p50 of a lone caller in microseconds, and requests per second of 16, by turn.
    lone: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="per way and turn, for each of the two")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        write_models(folder / "models", ["small"])
        ways = list(_ways(folder, stack))
        for turn in range(arguments.turns + 1):
            for way in ways:
                lone, rate = measure(way, arguments.seconds if turn else 0.2)
                if turn:  # the first one warms up
                    way.lone.append(lone)
                    way.rate.append(rate)
    print("| way | lone p50, us | requests/s, 16 callers |\n|---|---|---|")
    for way in ways:
        print(f"| {way.name} | {statistics.median(way.lone):.0f} | {statistics.median(way.rate):,.0f} |")


def _ways(folder: Path, stack: contextlib.ExitStack) -> Iterator[Way]:
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    server, client = (
        authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA),
        authority.issue_cert("client.invalid", common_name="bench", key_type=trustme.KeyType.ECDSA),
    )
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    (folder / "tls.key").write_bytes(server.private_key_pem.bytes())
    (folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
    tls = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    mutual = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()
    )
    files = ["--tls-certificate", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key")]
    authorities = ["--tls-client-ca", str(folder / "ca.crt")]
    native = ["--transport", "native"]
    for name, options, credentials in (
        ("grpcio", [], None),
        ("grpcio, TLS", files, tls),
        ("grpcio, mutual TLS", [*files, *authorities], mutual),
        ("native", native, None),
    ):
        port = stack.enter_context(_server(folder, options))
        yield Way(name, f"localhost:{port}", credentials)
    # The last one is native; the proxy stands in front of it.
    if shutil.which("haproxy"):
        port = stack.enter_context(_haproxy(folder, port))
        yield Way("native, HAProxy with mutual TLS", f"localhost:{port}", mutual)


@contextlib.contextmanager
def _server(folder: Path, options: list[str]) -> Iterator[int]:
    state = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "layerserve_server", str(folder / "models"), "--state", state, *options]
    command += ["--grpc-port", "0", "--metrics-port", "-1", "--drain-seconds", "0", "--no-warm-training"]
    with _process(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if found := WELCOME.search(line):
                # Engines are chosen in these seconds.
                time.sleep(3)
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield int(found[1])
                return
        raise RuntimeError("".join(lines))


@contextlib.contextmanager
def _haproxy(folder: Path, server: int) -> Iterator[int]:
    port, probes = free_port(), free_port()
    variables = {
        "PROXY_GRPC": f"127.0.0.1:{port}",
        "PROXY_PROBES": f"127.0.0.1:{probes}",
        "PROXY_CERTIFICATES": str(folder),
        "PROXY_SERVER_PORT": str(server),
    }
    command = ["haproxy", "-db", "-f", str(ROOT / "deploy" / "proxy" / "haproxy.cfg")]
    with _process(command, env={**os.environ, **variables}):
        wait_for(port)
        yield port


@contextlib.contextmanager
def _process(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def measure(way: Way, seconds: float) -> tuple[float, float]:
    """The p50 of one caller in microseconds, and the requests per second of 16."""
    request = predict_load("small").request
    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        grpc.insecure_channel(way.target, options)
        if way.credentials is None
        else grpc.secure_channel(way.target, way.credentials, options)
    ) as channel:
        call = channel.unary_unary(PREDICT)
        call(request, timeout=10)
        times = []
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            call(request)
            times.append(time.perf_counter() - began)
        count, end = [0] * CALLERS, threading.Event()

        def ask(number: int) -> None:
            while not end.is_set():
                call(request)
                count[number] += 1

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CALLERS)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        end.set()
        rate = sum(count) / (time.perf_counter() - began)
        for thread in threads:
            thread.join()
    return statistics.median(times) * 1e6, rate


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 10.0) -> None:
    """Waits until something listens. Raises TimeoutError."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


if __name__ == "__main__":
    main()
