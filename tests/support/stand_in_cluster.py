"""A stand-in for the API server of a Kubernetes cluster: it runs the pods of Jobs as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: Variables of the server that its pods wouldn't have.
NOT_IN_PODS = ("LAYERSERVE_SERVER_PID", "KUBECONFIG")
TOKEN = "secret"


@dataclass
class Pods:
    """The processes of a Job, restarted up to `backoffLimit` times."""

    job: dict[str, Any]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    restarts: int = 0
    deleted: bool = False

    def start(self) -> None:
        spec = self.job["spec"]
        pod = spec["template"]["spec"]
        container = pod["containers"][0]
        first = f"{self.job['metadata']['name']}-0.{pod['subdomain']}"
        command = [*container["command"], *container.get("args", ())]
        # Names of pods lead nowhere here, and `python` is that of the tests.
        command = [part.replace(first, "127.0.0.1") for part in command]
        programs = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
        command = [*programs[command[0]], *command[1:]]
        variables = {one["name"]: one["value"] for one in container.get("env", ())}
        base = {key: value for key, value in os.environ.items() if key not in NOT_IN_PODS}
        for index in range(spec["completions"]):
            environment = {**base, **variables, "JOB_COMPLETION_INDEX": str(index)}
            log = Path(command[-1]) / f"pod-{index}.log"
            with log.open("ab") as output:
                self.processes.append(
                    subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
                )

    def update(self) -> None:
        """Sets the Job's conditions as its controller does; starts lost pods again."""
        codes = [process.poll() for process in self.processes]
        if self.deleted or self.job.get("status", {}).get("conditions"):
            return
        if all(code == 0 for code in codes):
            self.job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}
        elif any(code for code in codes):
            if self.restarts < self.job["spec"].get("backoffLimit", 6):
                self.restarts += 1
                self.kill(signal.SIGKILL)
                self.processes.clear()
                self.start()
            else:
                failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}
                self.job["status"] = {"conditions": [failed]}

    def kill(self, number: signal.Signals) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, number)
        for process in self.processes:
            process.wait()


class StandInCluster:
    """Serves the API of Jobs on a port of this machine. A context manager."""

    def __init__(self) -> None:
        self.jobs: dict[str, Pods] = {}
        self.lock = threading.Lock()
        #: Names of Jobs in the order of their creation.
        self.created: list[str] = []
        #: Whether the API answers; otherwise with 503.
        self.answers = True
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                job = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self.reply(*cluster.create(job, self.headers.get("authorization")))

            def do_GET(self) -> None:
                self.reply(*cluster.get(self.path.rpartition("/")[2]))

            def do_DELETE(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                options = json.loads(self.rfile.read(length) or b"{}")
                name, _, query = self.path.rpartition("/")[2].partition("?")
                self.reply(*cluster.delete(name, options, query))

            def reply(self, code: int, body: dict[str, Any]) -> None:
                if not cluster.answers:
                    code, body = 503, status(503)
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Prints nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def config(self, path: Path) -> Path:
        """Writes a kubeconfig for the cluster."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": f"http://127.0.0.1:{self._server.server_port}"}}],
            "users": [{"name": "me", "user": {"token": TOKEN}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me", "namespace": "models"}}],
        }
        path.write_text(json.dumps(config))
        return path

    def create(self, job: dict[str, Any], authorization: str | None) -> tuple[int, dict[str, Any]]:
        name = job["metadata"]["name"]
        with self.lock:
            if authorization != f"Bearer {TOKEN}":
                return 403, status(403)
            if name in self.jobs:
                return 409, status(409)
            pods = self.jobs[name] = Pods(job)
            self.created.append(name)
            pods.start()
            return 201, job

    def get(self, name: str) -> tuple[int, dict[str, Any]]:
        with self.lock:
            if name not in self.jobs:
                return 404, status(404)
            self.jobs[name].update()
            return 200, self.jobs[name].job

    def delete(self, name: str, options: dict[str, Any], query: str) -> tuple[int, dict[str, Any]]:
        with self.lock:
            pods = self.jobs.get(name)
            if pods is None:
                return 404, status(404)
            pods.deleted = True
        at_once = options.get("gracePeriodSeconds") == 0 or "gracePeriodSeconds=0" in query
        threading.Thread(target=self._remove, args=(name, pods, at_once), daemon=True).start()
        return 200, status(200)

    def _remove(self, name: str, pods: Pods, at_once: bool) -> None:
        pods.kill(signal.SIGKILL if at_once else signal.SIGTERM)
        with self.lock:
            self.jobs.pop(name, None)

    def kill_pods(self) -> int:
        """kill -9 for all pods. Returns their number."""
        with self.lock:
            living = [process for pods in self.jobs.values() for process in pods.processes if process.poll() is None]
            for process in living:
                os.killpg(process.pid, signal.SIGKILL)
        return len(living)

    def __enter__(self) -> StandInCluster:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_pods()
        self._server.shutdown()
        self._server.server_close()


def status(code: int) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "message": f"status {code}", "reason": str(code)}
