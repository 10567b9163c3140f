"""A real MLflow: mlflow_registry.py --mlflow PYTHON [--peer PYTHON].

PYTHON has mlflow, and Keras 3 on torch to log models; that of --peer has mlflow and tf.keras 2. This one has
mlflow-skinny, pandas and huggingface_hub. Models are logged, served by an alias that moves under load, and kept when
MLflow fails; deployed by MLflow's own command line; and pushed back, also to a stand-in for a hub. Exits with an error
if a call fails, or a number differs from Keras's by more than 1e-5.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
from hub_server import REPOSITORY, HubServer
from layerserve import Client
from layerserve.errors import LayerserveError
from stores import until

PEER = Path(__file__).with_name("mlflow_peer.py")
CLIENTS, MOVES, TOLERANCE = 4, 12, 1e-5


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(*command: str, **options: Any) -> str:
    """Runs a command. Returns what it prints; exits if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


class Mlflow:
    """MLflow's server, with a database and artifacts in a folder."""

    def __init__(self, python: str, folder: Path) -> None:
        self._command = [
            *(python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(free_port()), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts"),
        ]
        self.uri = f"http://127.0.0.1:{self._command[7]}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        with (self._folder / "mlflow.log").open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self._folder)
        until(self._answers, "MLflow answers", 300)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _answers(self) -> bool:
        try:
            urlopen(f"{self.uri}/health", timeout=5).close()
        except OSError:
            return False
        return True


class Server:
    """A server process, and a client of it. A context manager."""

    def __init__(self, path: str, log: Path) -> None:
        options = ["--state", str(log.with_suffix("")), "--remote-poll-seconds", "0.5", "--poll-seconds", "0.2"]
        options += ["--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "-1", "--drain-seconds", "0"]
        self.log = log
        with log.open("w") as output:
            command = [sys.executable, "-m", "layerserve_server", path, *options, "--tuning-seconds", "0"]
            self._process = subprocess.Popen(command, stderr=output)
        until(lambda: "gRPC on " in log.read_text() or self._process.poll() is not None, "the server listens", 300)
        found = re.search(r"gRPC on \S+:(\d+)", log.read_text())
        if found is None:
            sys.exit(f"failed: the server doesn't start: {log.read_text()}")
        self.address = f"127.0.0.1:{found[1]}"
        self.client = Client(self.address, timeout=90)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.terminate()
        self._process.wait(60)


class Versions:
    """Keras's outputs for each version of a registered model."""

    def __init__(self, folder: Path) -> None:
        files = {int(path.stem): np.load(path) for path in folder.glob("*.npz")}
        self.x = next(iter(files.values()))["x"]
        self._outputs = {version: file["y"] for version, file in files.items()}
        self.worst = 0.0

    def problem(self, version: int, outputs: Mapping[str, Any]) -> str:
        """Returns why outputs aren't those of a version; empty if they are."""
        (y,) = outputs.values()
        difference = float(np.abs(y - self._outputs[version]).max())
        self.worst = max(self.worst, difference)
        return f"version {version} differs by {difference}" if difference > TOLERANCE else ""


class Callers:
    """Clients that predict, half of them by the label, until they are stopped."""

    def __init__(self, address: str, versions: Versions) -> None:
        self._address, self._versions = address, versions
        self._stop = threading.Event()
        self.problems: list[str] = []
        self.answers: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        with Client(self._address, timeout=60, retries=0) as client:
            while not self._stop.is_set():
                try:
                    outputs = client.predict_named("iris", self._versions.x, label="champion" if number % 2 else None)
                except LayerserveError as error:
                    self.problems.append(str(error))
                    continue
                self.answers[outputs.version] += 1
                if problem := self._versions.problem(outputs.version, outputs):
                    self.problems.append(problem)


def moves(registry: Any, folder: Path, versions: Versions, numbers: list[int], mlflow: Mlflow) -> None:
    """Moves the alias under load, then to what can't be served; then MLflow is away, and the server is restarted."""
    state = folder / "alias.log"
    with Server("models:/iris@champion", state) as server:
        until(lambda: _answers(server, numbers[0]), "the first version answers", 300)
        callers = Callers(server.address, versions)
        slowest = 0.0
        for move in range(1, MOVES + 1):
            number = numbers[3 * move % len(numbers)]
            registry.set_registered_model_alias("iris", "champion", str(number))
            slowest = max(slowest, until(lambda number=number: _answers(server, number), f"{number} answers", 120))
        # A model of another library, one that is half there, and an alias that is gone.
        before = _default(server)
        for text in ("flavors: {sklearn: {}}", "flavors: {keras: {data: data}}"):
            other = folder / "other"
            other.mkdir(exist_ok=True)
            (other / "MLmodel").write_text(text)
            made = registry.create_run("0").info
            registry.log_artifacts(made.run_id, str(other), "model")
            wrong = registry.create_model_version("iris", f"{made.artifact_uri}/model", made.run_id).version
            registry.set_registered_model_alias("iris", "champion", wrong)
            until(lambda wrong=wrong: _state(server, int(wrong)) == "failed", f"{wrong} is shown as failed", 120)
            print(f"version {wrong}: {_reason(server, int(wrong))}")
        registry.delete_registered_model_alias("iris", "champion")
        until(lambda: "alias champion not found" in server.log.read_text(), "the log has the alias that is gone", 120)
        mlflow.stop()
        until(lambda: server.log.read_text().count("can't list the store") > 1, "the log has MLflow that is away", 120)
        callers.stop()
        assert _default(server) == before
    if callers.problems:
        sys.exit(f"failed: {len(callers.problems)} of {callers.answers.total()} calls: {callers.problems[:3]}")
    print(f"{callers.answers.total()} calls during {MOVES} moves, none failed, answers by version: {callers.answers}")
    print(f"a move is followed within {slowest:.1f} s; largest difference from Keras {versions.worst:.2g}")
    with Server("models:/iris@champion", state) as server:
        until(lambda: _default(server) == before, "the copy is served while MLflow is away", 120)
        print(f"started while MLflow is away: version {before} answers")
    mlflow.start()


def _answers(server: Server, number: int) -> bool:
    listed = server.client.models("iris")
    return [one.version for one in listed] == [number] and listed[0].served_by_default


def _default(server: Server) -> int | None:
    return next((one.version for one in server.client.models("iris") if one.served_by_default), None)


def _state(server: Server, number: int) -> str:
    return next((one.state for one in server.client.models("iris") if one.version == number), "")


def _reason(server: Server, number: int) -> str:
    return next(one.reason for one in server.client.models("iris") if one.version == number)


def deployments(folder: Path, versions: Versions, numbers: list[int]) -> None:
    """Deploys by MLflow's own command line."""
    (folder / "empty").mkdir()
    rows = folder / "rows.json"
    rows.write_text(json.dumps({"x": versions.x.tolist()}))
    with Server(str(folder / "empty"), folder / "deployed.log") as server:
        target = ("-t", f"layerserve://{server.address}")

        def mlflow(*arguments: str) -> str:
            print(f"$ mlflow deployments {' '.join(arguments)}")
            text = run(sys.executable, "-m", "mlflow", "deployments", *arguments, *target)
            print("\n".join(f"  {line:.110}" for line in text.splitlines() if line))
            return text

        assert "layerserve://HOST:PORT" in mlflow("help")
        for step, number in enumerate(numbers, 1):
            uri = f"models:/iris/{number}"
            mlflow("update" if step > 1 else "create", "--name", "deployed", "-m", uri, "-C", f"label=v{number}")
            predicted = json.loads(mlflow("predict", "--name", "deployed", "-I", str(rows)))["predictions"]
            if problem := versions.problem(number, {"y": np.array(predicted)}):
                sys.exit(f"failed: {problem}")
        assert "'name': 'deployed'" in mlflow("list")
        assert f"version: {len(numbers)}" in mlflow("get", "--name", "deployed")
        mlflow("delete", "--name", "deployed")
        assert server.client.models() == ()


def pushes(folder: Path, python: str, versions: Versions, number: int, hub: HubServer) -> None:
    """Pushes a version to MLflow and to the hub, and serves it from there."""
    with Server(f"models:/iris/{number}", folder / "pushing.log") as server:
        until(lambda: _answers(server, number), "the version answers", 120)
        command = (sys.executable, "-m", "layerserve", "push", "iris", "--address", server.address)
        for to in ("models:/pushed@best", f"hf://{REPOSITORY}"):
            print(run(*command, to))
    file = next(folder.glob(f"outputs/{number}.npz"))
    print(f"mlflow.keras.load_model: differs by {run(python, str(PEER), 'load', 'models:/pushed@best', str(file))}")
    for to, name in (("models:/pushed@best", "pushed"), (f"hf://{REPOSITORY}", REPOSITORY.partition("/")[2])):
        with Server(to, folder / f"{name}.log") as server:
            until(lambda server=server, name=name: server.client.models(name)[:1] and _ready(server, name), to, 120)
            outputs = server.client.predict_named(name, versions.x)
            if problem := versions.problem(number, outputs):
                sys.exit(f"failed: {to}: {problem}")
            print(f"{to} is served, with its golden numbers")
    assert "SHA-256" in hub.files["README.md"].decode()


def _ready(server: Server, name: str) -> bool:
    return server.client.models(name)[0].state == "ready"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow", required=True, help="command of a Python with mlflow and Keras 3 on torch")
    parser.add_argument("--peer", help="command of a Python with mlflow and tf.keras 2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "outputs").mkdir()
        hub = HubServer()
        mlflow = Mlflow(given.mlflow, folder)
        os.environ.update(MLFLOW_TRACKING_URI=mlflow.uri, MLFLOW_DISABLE_TELEMETRY="true", HF_HUB_DISABLE_TELEMETRY="1")
        os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{hub.port}", HF_TOKEN="hf_none", HF_HOME=f"{folder}/hf")
        from mlflow import MlflowClient

        try:
            formats = [(given.mlflow, "keras"), (given.mlflow, "keras")]
            formats += [(given.peer, "tf"), (given.peer, "h5")] if given.peer else []
            numbers = []
            for seed, (python, format) in enumerate(formats):
                printed = run(python, str(PEER), "iris", f"{folder}/outputs", format, str(seed))
                numbers.append(int(printed.split()[-1]))
                print(f"version {numbers[-1]}: {format}")
            registry = MlflowClient()
            registry.set_registered_model_alias("iris", "champion", str(numbers[0]))
            versions = Versions(folder / "outputs")
            steps: list[Callable[[], None]] = [
                lambda: moves(registry, folder, versions, numbers, mlflow),
                lambda: deployments(folder, versions, numbers),
                lambda: pushes(folder, given.mlflow, versions, numbers[0], hub),
            ]
            for step in steps:
                began = time.monotonic()
                step()
                print(f"{time.monotonic() - began:.0f} s")
        finally:
            mlflow.stop()
            hub.close()


if __name__ == "__main__":
    main()
