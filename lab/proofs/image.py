"""The built image as a user runs it: read-only, without rights, by Podman or Docker. Prints its size.

    python lab/proofs/image.py [--container 'podman --storage-driver vfs'] [--image layerserve:latest]

Predicts with the SDK, compares with the engine in this process, runs the image's health check inside, looks at the user
and the root, and stops the container, which must drain and end with status 0. Exits with 1 if something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
from layergraph import Input, Model, load_model
from layergraph.layers import Dense
from layerserve import Client, Unauthenticated
from telemetry import check, free_port, wait_for

ROWS = np.linspace(-1, 1, 12, dtype="float32").reshape(3, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--container", default="podman", help="command of Podman or Docker")
    parser.add_argument("--image", default="layerserve:latest")
    parser.add_argument("--run", default="", help="further arguments of its `run`")
    arguments = parser.parse_args()
    container = shlex.split(arguments.container)
    with tempfile.TemporaryDirectory() as temporary:
        models = Path(temporary)
        expected = write_model(models)
        port, metrics = free_port(), free_port()
        name = f"layerserve-proof-{os.getpid()}"
        options = ["--name", name, "--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL"]
        options += ["--security-opt", "no-new-privileges", "--volume", f"{models}:/models"]
        options += ["--env", f"LAYERSERVE_GRPC_PORT={port}", "--env", f"LAYERSERVE_METRICS_PORT={metrics}"]
        options += ["--env", "LAYERSERVE_DRAIN_SECONDS=1", *shlex.split(arguments.run)]
        begun = time.monotonic()
        process = subprocess.Popen([*container, "run", *options, arguments.image], stderr=subprocess.DEVNULL)
        try:
            with Client(f"127.0.0.1:{port}", timeout=10) as client:
                wait_for("the server", lambda: process.poll() is not None or is_ready(metrics))
                print(f"ok: ready after {time.monotonic() - begun:.1f} s")
                np.testing.assert_allclose(client.predict("small", ROWS), expected, atol=1e-5)
                print("ok: predicts what the engine does")
                try:
                    client.pin("small", 1)
                    sys.exit("FAILED: a caller without a token may manage")
                except Unauthenticated:
                    print("ok: a caller without a token may not manage")
            check_inside(container, name, arguments.image)
        finally:
            subprocess.run([*container, "stop", "--time", "40", name], stdout=subprocess.DEVNULL)
            check("status after SIGTERM", process.wait(60), 0)
            subprocess.run([*container, "rm", "--force", name], stdout=subprocess.DEVNULL)


def write_model(folder: Path) -> np.ndarray:
    """Writes a model where the user of the image can write, too. Returns what it computes for ROWS."""
    x = Input((4,), name="x")
    file = folder / "small" / "1" / "model.keras"
    file.parent.mkdir(parents=True)
    Model(x, Dense(2, name="y")(x)).save(file)
    for path in (folder, file.parent.parent, file.parent):
        path.chmod(0o777)
    return load_model(file).predict(ROWS)


def is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def check_inside(container: list[str], name: str, image: str) -> None:
    """The user, the root, and the image's own health check, in the container."""

    def inside(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*container, "exec", name, *command], capture_output=True, text=True)

    script = "import os; print(os.getuid(), os.access('/', os.W_OK), os.access('/opt/layerserve', os.W_OK))"
    check(
        "user, and what of the root it can write to",
        inside("python", "-c", script).stdout.split(),
        ["10001", "False", "False"],
    )
    found = subprocess.run([*container, "inspect", image], capture_output=True, text=True, check=True)
    (described,) = json.loads(found.stdout)
    # Podman has it at the top; images of OCI's format have none.
    health = described["Config"].get("Healthcheck") or described.get("Healthcheck")
    if health:
        check("status of the health check", inside(*health["Test"][1:]).returncode, 0)
    else:
        print("the image has no health check: its format isn't docker's")
    print(f"ok: size {described['Size'] / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
