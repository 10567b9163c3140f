"""Supervisor of the worker processes: starts, restarts and stops them, and aggregates their metrics."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, Metric

from layerserve_server.access.balances import Balances
from layerserve_server.access.group import ProcessGroup
from layerserve_server.engines.model_loader import torch_threads
from layerserve_server.processes.repository_sync import DRAIN, RepositorySync, lagging
from layerserve_server.settings.settings import Settings
from layerserve_server.transport.probes import SAMPLES, load_samples

logger = logging.getLogger(__name__)

#: A folder that can be written where the root filesystem is read-only.
MEMORY = Path("/dev/shm")
#: Delay before a worker that ended is restarted, in seconds.
RESTART_SECONDS = 1.0
#: Timeout for reading a worker's metrics, in seconds. Prometheus waits for 10 for those of all processes.
METRICS_SECONDS = 4.0
#: Time for a worker to exit after the grace period of its calls, in seconds.
END_SECONDS = 5.0

COMMAND = (sys.executable, "-m", "layerserve_server.processes.worker")


class Supervisor:
    """Starts the worker processes, and restarts those that end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="layerserve-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        #: Unix socket on which the main process, the port's owner, also has to listen.
        self.socket = self._folder / "owner.sock"
        #: What the processes of this server have in common.
        self.group = ProcessGroup.of(self._folder)
        Balances.create(self._folder / "balances")
        #: Folder for what is read of model files if the state folder can't be written.
        self.spare_imports = self._folder / "imports"
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._metrics_ports: dict[int, int] = {}
        #: Metrics of each worker as they were last read, by its port.
        self._pages: dict[int, bytes] = {}
        self._sync = RepositorySync()
        #: Returns the versions of each model that a worker may load when it starts; None for all on disk.
        self.catalogue: Callable[[], Mapping[str, Sequence[int]] | None] = lambda: None
        #: Returns what is in force of models whose files are wrong.
        self.in_force: Callable[[], Mapping[str, Any]] = dict
        self._ports: dict[str, int] = {}
        self._draining = False
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, grpc_port: int, http_port: int) -> None:
        """Starts the workers on these ports. Returns when each is serving or has ended."""
        self._ports = {"grpc_port": grpc_port, "http_port": http_port}
        ready = [threading.Event() for _ in range(self._settings.workers - 1)]
        for number, event in enumerate(ready):
            thread = threading.Thread(target=self._keep, args=(number, event), name=f"worker {number}")
            thread.daemon = True
            self._threads.append(thread)
            thread.start()
        for event in ready:
            event.wait()

    def drain(self) -> None:
        """Has the workers close each connection of HTTP after its next reply."""
        with self._lock:
            self._draining = True
            processes = list(self._processes.values())
        for process in processes:
            _send(process, DRAIN, close=False)

    def refuse(self, grace: float) -> None:
        """Has the workers refuse further calls; open calls have `grace` seconds to finish, and may get less later."""
        with self._lock:
            self._stopping.set()
            processes = list(self._processes.values())
        for process in processes:
            _send(process, f"{grace}\n", close=False)

    def stop(self, grace: float) -> None:
        """Ends the workers: no call that they have forwarded is open, and their own calls have `grace` seconds left."""
        self.refuse(grace)
        processes = list(self._processes.values())
        for process in processes:
            _send(process, "")
        until = time.monotonic() + grace + END_SECONDS
        for process in processes:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                logger.warning("killing a worker process, which hasn't ended in time")
                process.kill()
        for thread in self._threads:
            thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def follow(self, model: str, expected: Callable[[str], Mapping[str, Any]]) -> Sequence[str]:
        """Has the workers scan a model. Returns a text for each in which it isn't served as `expected` afterwards.

        Workers that are starting aren't waited for: they read the disk before they serve, and then follow.
        """
        workers = sorted(self._metrics_ports)

        def send(order: str) -> None:
            for process in list(self._processes.values()):
                _send(process, order, close=False)

        catalogue = self.catalogue()
        versions = None if catalogue is None else catalogue.get(model, ())
        answers = self._sync.ask(model, workers, send, versions)
        return lagging(expected(model), workers, answers)

    def pids(self) -> list[int]:
        """Returns the process ids of the living workers."""
        return [process.pid for process in list(self._processes.values()) if process.poll() is None]

    def metrics(self) -> Iterator[Metric]:
        """Yields the metrics of each worker; of one that is too busy to answer, as they were before.

        Without them, sums would fall, which reads as a restart.
        """
        ports = list(self._metrics_ports.values())
        for ended in self._pages.keys() - set(ports):
            self._pages.pop(ended, None)
        for port in ports:
            try:
                headers = {"Authorization": self.group.authorization, "Accept": SAMPLES}
                page = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
                with urllib.request.urlopen(page, timeout=METRICS_SECONDS) as reply:
                    self._pages[port] = reply.read()
            except (OSError, HTTPException):
                pass  # it is busy, or has just ended
            yield from load_samples(self._pages.get(port, b"[]"))

    def _keep(self, number: int, ready: threading.Event) -> None:
        """Starts a worker, and restarts it whenever it ends. Sets `ready` when it is first serving, or has ended."""
        while True:
            with self._lock:
                # Under the lock, so that `stop` finds every process.
                if self._stopping.is_set():
                    ready.set()
                    return
                process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                self._processes[number] = process
                # With the order that it has missed if it was started again. `drain` sends it to those in the table.
                begin = json.dumps(self._configuration()) + "\n" + (DRAIN if self._draining else "")
                _send(process, begin, close=False)
            assert process.stdin is not None
            assert process.stdout is not None
            reply = process.stdout.readline()
            if reply:
                self._metrics_ports[number] = json.loads(reply)["metrics_port"]
            ready.set()
            for line in process.stdout:
                self._sync.answered(number, line)
            code = process.wait()
            self._metrics_ports.pop(number, None)
            self._sync.ended(number)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
            if not self._stopping.is_set():
                logger.error("a worker process ended with status %d; restarting it", code)
                self._stopping.wait(RESTART_SECONDS)

    def _configuration(self) -> dict[str, object]:
        settings = self._settings
        # Settings made with model_construct may have strings as paths.
        values = {name: getattr(settings, name) for name in type(settings).model_fields}
        values |= {**self._ports, "compute_threads": torch_threads(settings)}
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
        return {
            "settings": plain,
            "socket": str(self.socket),
            "spare_imports": str(self.spare_imports),
            "secret": self.group.secret.hex(),
            "catalogue": self.catalogue(),
            "in_force": self.in_force(),
        }


class AllMetrics(CollectorRegistry):
    """Metrics of this process and the workers: values of the same name and labels are summed."""

    def __init__(self, own: CollectorRegistry, workers: Supervisor) -> None:
        super().__init__()
        self._own, self._others = own, workers

    def collect(self) -> Iterator[Metric]:
        """Yields the summed metrics. Called for each scrape."""
        families: dict[str, Metric] = {}
        sums: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
        exemplars: dict[tuple[str, tuple[tuple[str, str], ...]], Exemplar] = {}
        for family in (*self._own.collect(), *self._others.metrics()):
            families.setdefault(family.name, family)
            into = sums.setdefault(family.name, {})
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue  # a time, not to be summed
                key = sample.name, tuple(sorted(sample.labels.items()))
                into[key] = into.get(key, 0.0) + sample.value
                if sample.exemplar is not None:
                    known = exemplars.get(key)
                    if known is None or float(known.timestamp or 0) < float(sample.exemplar.timestamp or 0):
                        exemplars[key] = sample.exemplar
        for name, family in families.items():
            if not sums[name]:
                continue
            total = Metric(name, family.documentation, family.type)
            for (sample_name, labels), value in sums[name].items():
                total.add_sample(sample_name, dict(labels), value, None, exemplars.get((sample_name, labels)))
            yield total


def _send(process: subprocess.Popen[str], text: str, *, close: bool = True) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text)
        process.stdin.flush()
        if close:
            process.stdin.close()
    except (OSError, ValueError):
        pass  # the process has ended
