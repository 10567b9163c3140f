"""Certificates of a real server are replaced while clients call it: none sees an error.

    python lab/proofs/rotate_certificates.py --seconds 120 --workers 2

Clients keep a connection, or make a new one for each call, all with client certificates. Meanwhile the server's
certificate is replaced every `--every` seconds, at times the key a moment after the chain, as when files are copied.
"""

from __future__ import annotations

import argparse
import random
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import grpc
import numpy as np
from authorities import Authority
from layergraph import Input, Model, layers
from layerserve import TLS, Client
from layerserve.errors import LayerserveError

CLIENTS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=0.5, help="time between two certificates, in seconds")
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority = Authority(folder)
        made = authority.issue_client("client")
        (folder / "client.pem").write_bytes(made.cert_chain_pems[0].bytes())
        (folder / "client-key.pem").write_bytes(made.private_key_pem.bytes())
        save(folder / "models")
        process, port = serve(folder, authority, arguments.workers)
        try:
            calls, failures, certificates = run(folder, authority, port, arguments.seconds, arguments.every)
        finally:
            process.terminate()
            process.wait()
    print(f"{sum(calls.values()):,} calls ({dict(calls)}), {certificates} certificates seen, {len(failures)} failures")
    for failure in failures[:5]:
        print(f"  {failure}")
    return bool(failures) or len(calls) < 2 or certificates < 3


def save(models: Path) -> None:
    x = Input((4,), name="x")
    (models / "m" / "1").mkdir(parents=True)
    Model(x, layers.Dense(2)(x)).save(models / "m" / "1" / "model.keras")


def serve(folder: Path, authority: Authority, workers: int) -> tuple[subprocess.Popen[str], int]:
    """Starts a server that asks for client certificates, and looks for new files ten times a second."""
    options = [("--" + name.replace("_", "-"), str(path)) for name, path in authority.settings.items()]
    command = [sys.executable, "-m", "layerserve_server", str(folder / "models"), "--poll-seconds", "0.1"]
    command += ["--grpc-port", "0", "--metrics-port", "-1", "--workers", str(workers), "--tuning-seconds", "0"]
    process = subprocess.Popen(
        [*command, *(word for pair in options for word in pair)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"gRPC on \S+:(\d+)", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, int(found[1])
    raise RuntimeError("the server doesn't start")


def run(
    folder: Path, authority: Authority, port: int, seconds: float, every: float
) -> tuple[Counter[str], list[str], int]:
    """Calls while certificates are replaced. Returns the calls by kind, the failures, and the certificates used."""
    tls = TLS(ca=folder / "ca.pem", certificate=folder / "client.pem", key=folder / "client-key.pem")
    calls: Counter[str] = Counter()
    failures: list[str] = []
    end = threading.Event()
    x = np.ones((1, 4), np.float32)

    def ask(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        kept = Client(f"localhost:{port}", tls=tls, timeout=20, options=options)
        while not end.is_set():
            try:
                if number % 2:
                    with Client(f"localhost:{port}", tls=tls, timeout=20, options=options) as fresh:
                        fresh.predict("m", x)
                    calls["new connections"] += 1
                else:
                    kept.predict("m", x)
                    calls["open connections"] += 1
            except (LayerserveError, grpc.RpcError) as error:
                failures.append(f"{type(error).__name__}: {error}")
        kept.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    served, draw, until = set[str](), random.Random(1), time.monotonic() + seconds
    while time.monotonic() < until:
        if draw.random() < 0.3:
            authority.issue(half=True)
            time.sleep(0.15)
        authority.issue()
        time.sleep(every)
        served.add(ssl.get_server_certificate(("localhost", port)))
    end.set()
    for thread in threads:
        thread.join()
    return calls, failures, len(served)


if __name__ == "__main__":
    sys.exit(main())
