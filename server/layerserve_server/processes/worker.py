"""A further process that answers Predict on the server's port: `python -m layerserve_server.processes.worker`.

The supervisor starts it. It reads its orders as JSON from its input, says when it serves, and ends when its input does,
so that it never outlives the process that started it. It has models of its own, with weights in memory that all share,
and leaves all but Predict to the owner of the port.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from layerserve_server.inference import runner
from layerserve_server.observability import logs
from layerserve_server.probes import Probes
from layerserve_server.repository.watching import Watcher
from layerserve_server.settings import Settings
from layerserve_server.transport.call import Routes
from layerserve_server.transport.grpcio import SharedPort
from layerserve_server.wiring import Inference, loader

logger = logging.getLogger(__name__)


def main() -> None:
    """Serves until the input ends."""
    # A signal to the whole group, as a terminal sends it, is the owner's to deal with.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    settings = Settings.model_construct(**_settings(orders["settings"]))
    logs.set_up(settings.log_level, settings.log_format)
    if settings.log_format == "json":
        logs.take_all(sys.stderr)
    runner.set_threads(settings.compute_threads)
    runner.load_plugins(settings.plugins)
    runner.make_ready()
    inference = Inference(settings, loader(settings, weights=Path(orders["weights"])))
    repository, tuner = inference.repository, inference.tuner
    # Before the port is open: who comes to this process finds the models that the others have.
    repository.open()
    watcher = Watcher(settings.poll_seconds, repository.scan)
    watcher.start()
    predict = inference.prediction.routes()
    transport = inference.listen(
        Routes(unary=predict.unary, prompt=predict.prompt), SharedPort(Path(orders["socket"]), owner=False)
    )
    transport.start()
    if tuner is not None:
        tuner.start()
    probes = Probes("127.0.0.1", 0, inference.metrics.registry, lambda: True)
    print(json.dumps({"metrics_port": probes.port}), flush=True)
    grace = 0.0
    for line in sys.stdin:
        grace = float(line)
        break
    watcher.stop()
    transport.stop(grace)
    if tuner is not None:
        tuner.close()
    repository.close()
    probes.close()


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as they were before they became JSON."""
    paths = ("path", "state", "config", "tls_certificate", "tls_key", "data_root")
    return {key: Path(value) if key in paths and value is not None else value for key, value in values.items()}


if __name__ == "__main__":
    main()
    # Threads that still wait for callers keep no process.
    os._exit(0)
