"""Every method with every kind of token on servers of two processes, over several connections to each.

python lab/proofs/rights_of_workers.py
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from layergraph import Input, Model, layers
from layerserve_server.wiring import RIGHTS
from rights_matrix import check, outcome
from tokens import write_tokens

#: The kernel spreads connections over the processes.
CONNECTIONS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=["grpcio", "native"], action="append")
    arguments = parser.parse_args()
    for transport in arguments.transport or ["grpcio", "native"]:
        with tempfile.TemporaryDirectory() as folder:
            count = run(Path(folder), transport)
        print(f"{transport}: {count} methods over {CONNECTIONS} connections hold")
    return 0


def run(folder: Path, transport: str) -> int:
    """Checks all methods of a server. Returns their number. Raises AssertionError."""
    x = Input((2,), name="x")
    for version in range(1, 4):
        (folder / "models" / "double" / str(version)).mkdir(parents=True)
        Model(x, layers.Dense(2, name="y")(x)).save(folder / "models" / "double" / str(version) / "model.keras")
    tokens = write_tokens(folder / "tokens.toml")
    command = [sys.executable, "-m", "layerserve_server", str(folder / "models"), "--tokens", str(tokens)]
    command += ["--transport", transport, "--workers", "2", "--grpc-port", "0", "--metrics-port", "-1"]
    process = subprocess.Popen([*command, "--tuning-seconds", "0"], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        port = next(int(found[1]) for line in process.stderr if (found := re.search(r"gRPC on \S+:(\d+)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        methods: list[str] = []
        for _ in range(CONNECTIONS):
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
            with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
                methods = sorted(served(channel))
                for method in methods:
                    check(channel, method)
    finally:
        process.terminate()
        process.wait()
    return len(methods)


def served(channel: grpc.Channel) -> set[str]:
    """The methods that the server has, of the services that its reflection lists."""
    token = grpc.intercept_channel(channel, _Reader())
    services = set(ProtoReflectionDescriptorDatabase(token).get_services())
    methods = {method for method in RIGHTS if method.split("/")[1] in services}
    return {method for method in methods if "doesn't exist on this server" not in outcome(channel, method, "all")[1]}


class _Reader(grpc.StreamStreamClientInterceptor):
    """Adds a token to calls."""

    def intercept_stream_stream(self, continuation, details, requests):  # type: ignore[no-untyped-def]
        details = details._replace(metadata=[("authorization", "Bearer read")])
        return continuation(details, requests)


if __name__ == "__main__":
    sys.exit(main())
