"""Program of a sink's process: `python -m layerserve_server.extensions.trackers.main RUNS NOTES`.

The sink's setting is in the environment, since it may hold a password.

It follows the folder of runs until its standard input is closed, which the server's end does, too. Of several servers
on a repository, one copies its runs: the others wait for a lock.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import sys
import time
from io import TextIOWrapper
from pathlib import Path

from layerserve_server.disk import try_lock
from layerserve_server.errors import safe_text
from layerserve_server.extensions.trackers.follower import Follower
from layerserve_server.extensions.trackers.sink import Sink

logger = logging.getLogger("layerserve_server.extensions.trackers")

#: Time between two turns, and between the attempts after errors, in seconds.
SECONDS, RETRY_SECONDS = 0.5, (1.0, 5.0, 30.0, 60.0)
#: Environment variable with the setting of the sink.
SINK = "LAYERSERVE_RUN_SINK"
#: Niceness of the process.
NICE = 10


def make_sink(spec: str, folder: Path) -> Sink:
    """Returns the sink of a setting, "mlflow:URI" or "wandb:PROJECT". Raises ImportError if its package is missing."""
    kind, _, where = spec.partition(":")
    if kind == "mlflow":
        from layerserve_server.extensions.trackers.mlflow_sink import MlflowSink

        return MlflowSink(where, folder)
    from layerserve_server.extensions.trackers.wandb_sink import WandbSink

    return WandbSink(where, folder)


def main(runs: Path, notes: Path, spec: str) -> None:
    """Copies the runs in a folder to a sink. `notes` is the folder for its places and files."""
    os.nice(NICE)
    # Not the setting itself, which may hold a password.
    name = f"{spec.partition(':')[0]}-{hashlib.sha256(spec.encode()).hexdigest()[:12]}"
    lock = _only_one(notes, name)
    if lock is None:
        return
    with lock:
        follower: Follower | None = None
        failures = 0
        closed = False
        while True:
            wait = SECONDS
            try:
                if follower is None:
                    follower = Follower(runs, make_sink(spec, notes), notes / f"{name}.json")
                    follower.reopen()
                if follower.turn():
                    wait = 0.0
                failures = 0
            except Exception as error:  # clients of trackers raise many kinds of errors
                wait = RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)]
                failures += 1
                reason = f"{type(error).__name__}: {safe_text(str(error), 200)}"
                logger.warning("run sink %s: %s; trying again in %g s", name, reason, wait)
            # What runs have written until the server closed the input is copied, too, unless the sink fails.
            if closed and wait:
                return
            closed = closed or _closed(wait)


def _only_one(notes: Path, name: str) -> TextIOWrapper | None:
    """Waits for the sink's lock and returns it; None once standard input is closed."""
    while True:
        wait = SECONDS
        try:
            notes.mkdir(parents=True, exist_ok=True)
            if (lock := try_lock(notes / f"{name}.lock")) is not None:
                return lock
        except OSError as error:
            wait = RETRY_SECONDS[-1]
            logger.warning("run sink %s: %s; trying again in %g s", name, safe_text(str(error), 200), wait)
        if _closed(wait):
            return None


def _closed(seconds: float) -> bool:
    """Waits some seconds. Returns True as soon as standard input is closed."""
    end = time.monotonic() + seconds
    while True:
        if select.select([sys.stdin], [], [], max(0.0, end - time.monotonic()))[0] and not os.read(0, 1):
            return True
        if time.monotonic() >= end:
            return False


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s %(message)s")
    main(Path(sys.argv[1]), Path(sys.argv[2]), os.environ[SINK])
