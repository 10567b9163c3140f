"""Program of a worker process, which serves Predict on the server's port.

The supervisor starts it by `python -m layerserve_server.processes.worker`. It reads its configuration as JSON from
standard input, writes a line when it is serving, and carries out orders (`repository_sync`). It ends with its input, so
that it never outlives the main process: after the order to end, the input ends when the main process has ended its
calls. It loads its own models, with weights in shared memory, and forwards all calls but predictions, by gRPC and HTTP,
to the owner of the ports.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO, get_args

from layerserve_server.access.group import ProcessGroup
from layerserve_server.engines.model_loader import ModelLoader
from layerserve_server.extensions.installed import Settings
from layerserve_server.inference import runner
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.observability import logs
from layerserve_server.processes.repository_sync import Orders
from layerserve_server.repository.watching import Watcher
from layerserve_server.transport.call import Routes
from layerserve_server.transport.grpcio import SharedPort
from layerserve_server.transport.probes import MetricPage, Probes
from layerserve_server.transport.shutdown import LEFT_SECONDS, Shutdown
from layerserve_server.wiring import JOB_MODULES, Inference, make_imports, routes_of

logger = logging.getLogger(__name__)


def main(answers: TextIO) -> None:
    """Serves until standard input ends. The main process reads `answers`."""
    # A terminal signals the whole process group; only the main process handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configuration: dict[str, Any] = json.loads(sys.stdin.readline())
    settings = Settings.model_construct(**_settings(configuration["settings"]))
    logs.set_up(settings.log_level, settings.log_format)
    if settings.log_format == "json":
        logs.take_all(sys.stderr)
    jobs = Jobs(modules=JOB_MODULES)
    imports = make_imports(settings, jobs, Path(configuration["spare_imports"]))
    group = ProcessGroup.of(Path(configuration["socket"]).parent, bytes.fromhex(configuration["secret"]))
    socket = Path(configuration["socket"])
    load = ModelLoader(settings, jobs, imports=imports)
    if runner.has_plugins(settings.plugins):
        load.prepare()
    inference = Inference(settings, load, jobs, imports, group, main_socket=socket)
    repository, tuner = inference.repository, inference.tuner
    # Before models are loaded: extensions say which are.
    parts = inference.parts()
    # Before the port is opened, so that this process has the same models as the others when calls arrive.
    repository.open(configuration["catalogue"], configuration["in_force"])
    for part in parts:
        part.start()
    watcher = Watcher(settings.poll_seconds, inference.watch, *(part.scan for part in parts))
    watcher.start()
    access_watcher = Watcher(settings.poll_seconds, inference.refresh_access)
    access_watcher.start()
    inference.gate.start()
    predict = routes_of(parts)
    shared = SharedPort(socket, owner=False)
    transport = inference.listen(Routes(unary=predict.unary, prompt=predict.prompt), shared)
    http = inference.listen_http(predict, parts, transport.memory, settings.grpc_port, shared)
    transport.start()
    if http is not None:
        http.start()
    if tuner is not None:
        tuner.start()
    inference.fill()
    pages = {"/metrics": MetricPage(inference.metrics.registry)}
    probes = Probes("127.0.0.1", 0, pages, lambda: True, inference.gate.admit_own)
    print(json.dumps({"metrics_port": probes.port}), file=answers, flush=True)
    drain = (lambda: None) if http is None else http.drain
    orders = Orders(repository.scan, repository.catalogue.serving, drain, answers)
    grace = orders.take(sys.stdin)
    orders.close()
    watcher.stop()
    access_watcher.stop()
    inference.gate.stop()
    shutdown = Shutdown()
    stops = [transport.stop] if http is None else [transport.stop, http.stop]

    def end(calls: Sequence[threading.Thread]) -> None:
        for call in calls:
            shutdown.end(call, math.inf, LEFT_SECONDS)
        if tuner is not None:
            shutdown.step("the tuning of engines", tuner.close)
        for part in parts:
            shutdown.step(part.stop.__module__, part.stop)
        for part in parts:
            shutdown.step(part.close.__module__, part.close)
        shutdown.step("models", inference.close)
        if imports is not None:
            shutdown.step("the kept imports", imports.close)
        shutdown.step("the processes of jobs", jobs.close)
        shutdown.step("the port of metrics", probes.close)
        if inference.telemetry is not None:
            shutdown.step("traces and the access log", inference.telemetry.close)

    def stop(grace: float) -> None:
        shutdown.run(grace, partial(end, [shutdown.begin("open calls", partial(one, grace)) for one in stops]))

    threading.Thread(target=_hasten, args=(sys.stdin, stop, shared.ended), daemon=True).start()
    stop(grace)


def _hasten(lines: Iterable[str], stop: Callable[[float], None], owner_ended: threading.Event) -> None:
    """Ends earlier with each further line, a shorter grace period. Sets the event when there are no more."""
    for line in lines:
        threading.Thread(target=stop, args=(float(line),), daemon=True).start()
    owner_ended.set()


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """Restores settings from JSON values."""
    fields = Settings.model_fields
    paths = {name for name, field in fields.items() if Path in (field.annotation, *get_args(field.annotation))}
    if Settings.source_of(values["path"]):
        paths.remove("path")
    return {key: Path(value) if key in paths and value is not None else value for key, value in values.items()}


if __name__ == "__main__":
    # Plugins and other packages may print: that goes where the log goes.
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Python's own standard output keeps what is printed until its buffer is full, and `_exit` loses it.
    sys.stdout = sys.stderr
    main(ours)
    # Without waiting for threads of idle connections.
    os._exit(0)
