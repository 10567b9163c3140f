"""A server in a process of its own: started as an operator starts it, measured from outside, and ended by signals."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

HOST = "127.0.0.1"
#: Time that a server may take to start on a busy machine, in seconds.
START_SECONDS = 120
#: Settings of all servers: times so short that checks see their ends.
SETTINGS: dict[str, object] = {
    "host": HOST,
    "metrics_port": 0,
    "tuning_seconds": 0,
    "compute_threads": 1,
    "poll_seconds": 0.2,
    "drain_seconds": 0.5,
    "grace_seconds": 10,
    "cancel_grace_seconds": 2,
    "training_nice": 0,
}
#: Time that a server may take to end besides its drain and grace, in seconds.
END_SECONDS = 15

WELCOME = re.compile(r"gRPC on \S+?:(\d+), (?:HTTP on http://\S+?:(\d+), )?metrics on http://\S+?:(\d+)/")


class Server:
    """`layerserve serve REPOSITORY`. Settings are given by their names."""

    def __init__(self, repository: Path, log: Path, **settings: object) -> None:
        self.repository, self.log, self.given = repository, log, settings
        self.settings = {**SETTINGS, "grpc_port": 0, **settings}
        options = [text for name, value in self.settings.items() for text in _flag(name, value)]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "layerserve_server", str(repository), *options],
                stderr=file,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        #: `http_port` is that of the metrics, `rest_port` that of predictions over HTTP.
        self.port = self.rest_port = self.http_port = 0
        self._terminated = False

    def wait(self) -> Server:
        """Waits until it serves."""
        until = time.monotonic() + START_SECONDS
        while not (found := WELCOME.search(self.log.read_text())):
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"the server doesn't start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        self.port, self.rest_port, self.http_port = int(found[1]), int(found[2] or 0), int(found[3])
        return self

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def target(self) -> str:
        return f"{HOST}:{self.port}"

    def http(self, path: str, seconds: float = 10.0) -> int:
        """The HTTP status of a path beside the metrics; 0 where nothing answers."""
        return http_status(self.http_port, path, seconds)

    def calls(self) -> float:
        """Calls that have ended, as the metrics have it."""
        with urllib.request.urlopen(f"http://{HOST}:{self.http_port}/metrics", timeout=10) as reply:
            found = re.findall(rb"^layerserve_requests_total\{.*\} (\S+)", reply.read(), re.MULTILINE)
        return sum(map(float, found))

    def processes(self) -> list[int]:
        """The processes that serve: not those that train."""
        return [self.process.pid, *(pid for pid in _children(self.process.pid) if _serves(pid))]

    def memory(self) -> float:
        """Memory of all processes that serve, in MiB."""
        return resident(self.processes())

    def threads(self) -> int:
        return sum(_status(pid, "Threads") for pid in self.processes())

    def descriptors(self) -> int:
        count = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                count += len(os.listdir(f"/proc/{pid}/fd"))
        return count

    def alive(self) -> bool:
        return self.process.poll() is None

    def terminate(self) -> None:
        self._terminated = True
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int | None:
        """Its exit status after SIGTERM, also an earlier one; None where it doesn't end in time, and is killed."""
        seconds = sum(float(str(self.settings[name])) for name in ("drain_seconds", "grace_seconds")) + END_SECONDS
        if not self._terminated:  # a second signal would cut its drain short
            with contextlib.suppress(ProcessLookupError):
                self.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


class PeakMemory:
    """The most memory of a server at one time, sampled: that of processes at different times isn't added up."""

    def __init__(self, server: Server) -> None:
        self._processes = server.processes()
        self.before = resident(self._processes)
        self.most = self.before
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    @property
    def growth(self) -> float:
        """In MiB."""
        return self.most - self.before

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(0.05):
            self.most = max(self.most, resident(self._processes))


def resident(processes: list[int]) -> float:
    """Memory of processes, in MiB."""
    return sum(_status(pid, "VmRSS") for pid in processes) / 1024


def http_status(port: int, path: str, seconds: float = 10.0) -> int:
    """The HTTP status of a path on this machine; 0 where nothing answers."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=seconds) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return 0


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{flag}"]
    return [f"--{flag}", str(value)]


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name in brackets may hold anything.
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def _serves(pid: int) -> bool:
    try:
        return b"layerserve_server.processes.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _status(pid: int, key: str) -> int:
    try:
        found = re.search(rf"^{key}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
