"""Trains a run by two processes in two network namespaces, as two pods do, and compares its losses with one process's.

A server gets the run and is stopped before it trains it. Then torchrun, with the arguments of
deploy/kubernetes/training/job.yaml, trains it in each namespace; the two share the disk and a virtual cable and nothing
else: what isn't sent to the other's address arrives nowhere. The server that starts afterwards publishes the result.
Needs root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import yaml
from layerserve import Client, Resources
from layerserve_zoo.zoo import ZOO
from small_runs import SETTINGS, dense_data

JOB = Path(__file__).parents[2] / "deploy" / "kubernetes" / "training" / "job.yaml"
#: Name and addresses of the two ends of the cable.
CABLE = "eth0"
ADDRESSES = ("10.213.7.1", "10.213.7.2")
EPOCHS = 4
#: Largest difference of a loss, relative to it: sums of two halves are rounded elsewhere than those of a whole.
TOLERANCE = 1e-5


@contextmanager
def hosts() -> Iterator[list[str]]:
    """Two network namespaces that reach one another, and nothing else."""
    names = [f"layerserve-{os.getpid()}-{number}" for number in range(2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", names[0], "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", CABLE)
            ip("-n", name, "link", "set", CABLE, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def serving(folder: Path) -> Iterator[Client]:
    """A server process that trains one run at a time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "layerserve_server", str(folder), "--host", "127.0.0.1", "--grpc-port", str(port)]
    command += ["--metrics-port", "-1", "--training-slots", "1", "--max-workers", "2", "--tuning-seconds", "0"]
    process = subprocess.Popen([*command, "--drain-seconds", "0", "--poll-seconds", "0.2"], stderr=subprocess.DEVNULL)
    try:
        with Client(f"127.0.0.1:{port}", timeout=300) as client:
            client.wait_until_ready(120, model="dense")
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def torchrun(host: str, index: int, run: Path) -> subprocess.Popen[bytes]:
    """Starts a pod's command in a namespace. What Kubernetes resolves by DNS is the first host's address here."""
    (container,) = yaml.safe_load(JOB.read_text())["spec"]["template"]["spec"]["containers"]
    arguments = [argument.replace("$(RUN)", run.name) for argument in container["args"]]
    arguments = [
        str(run)
        if argument.startswith("/models/")
        else f"--rdzv-endpoint={ADDRESSES[0]}:29400"
        if argument.startswith("--rdzv-endpoint=")
        else argument
        for argument in arguments
    ]
    own = [f"--local-addr={ADDRESSES[index]}", f"--rdzv-conf=is_host={1 - index}"]
    command = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", *own, *arguments]
    # In a pod the host's name is resolved to the pod's address; a namespace has the name of the machine.
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE})


def train(client: Client, epochs: int, workers: int) -> str:
    x, y = dense_data()
    given = {**SETTINGS, "epochs": epochs, "validation_split": 0.25, "resources": Resources(workers=workers)}
    return client.train("dense", x, y, **given).id


def main() -> int:
    if os.geteuid() or shutil.which("ip") is None:
        print("skipped: network namespaces need root and iproute2")
        return 0
    with tempfile.TemporaryDirectory() as name, hosts() as pair:
        folder = Path(name) / "models"
        (folder / "dense" / "1").mkdir(parents=True)
        ZOO["dense"].make(small=True).save(folder / "dense" / "1" / "model.keras")
        with serving(folder) as client:
            alone = client.run(train(client, EPOCHS, workers=1)).wait()
            ahead = train(client, 100_000, workers=1)
            run = train(client, EPOCHS, workers=2)
            assert client.run(run).info().state == "queued"
        begun = time.monotonic()
        pods = [torchrun(host, index, folder / ".layerserve" / "runs" / run) for index, host in enumerate(pair)]
        statuses = [pod.wait(300) for pod in pods]
        seconds = time.monotonic() - begun
        with serving(folder) as client:
            ended = client.run(run).wait()
            client.run(ahead).cancel()
    print(f"statuses {statuses} after {seconds:.0f} s, version {ended.version}")
    difference = 0.0
    for log, values in alone.history.items():
        difference = max(difference, float(np.max(np.abs(np.array(ended.history[log]) / values - 1))))
        print(f"{log:14} one process {values}  two hosts {ended.history[log]}")
    print(f"largest relative difference {difference:.1e}")
    return any(statuses) or ended.version is None or difference > TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
