"""Models whose plans do what engines may do to the process that tunes them. A job names them as "module:function"."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from layergraph.execution.tuning.engine_folder import NOTE


def model_that_tunes(tune: Callable[..., Any]) -> Any:
    return SimpleNamespace(plan=lambda: SimpleNamespace(tune=tune))


def result(**fields: Any) -> Any:
    return SimpleNamespace(**{"dropped": {}, "late": False, **fields})


def crashes_at_onnxruntime(_: Any) -> Any:
    """Tries its engines, and is killed at ONNX Runtime."""

    def tune(*, engines: Any, trying: Any, folder: Path, **_: Any) -> Any:
        for engine in engines:
            trying(engine + "-1thread")
            if engine == "onnxruntime":
                os.kill(os.getpid(), signal.SIGKILL)
        (folder / NOTE).write_text(json.dumps({"engines": list(engines)}))
        return result(dropped={"other": "isn't installed"})

    return model_that_tunes(tune)


def dies(_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def chooses_nothing(_: Any, *, late: bool = False) -> Any:
    return model_that_tunes(lambda **_: result(dropped={"cuda": "a", "openvino": "b\n" + "c" * 5000}, late=late))


def has_no_time(model: Any) -> Any:
    return chooses_nothing(model, late=True)


def sleeps(_: Any) -> Any:
    """Writes its process id to the folder, and sleeps."""

    def tune(*, folder: Path, **_: Any) -> Any:
        (folder / "written").write_text(str(os.getpid()))
        # A file that exists may still be empty.
        (folder / "written").rename(folder / "pid")
        time.sleep(60)

    return model_that_tunes(tune)


def asks_whether_runs_compute(_: Any) -> Any:
    """Asks before a run computes, while it does, and after the maximum time to wait for it."""
    from layerserve_server.engines import tuning_job
    from layerserve_server.training.run_folder.computing import computing

    def tune(*, busy: Any, folder: Path, **_: Any) -> Any:
        found = [busy()]
        # The folder of runs is the one that has the file and the folder of engines.
        with computing(folder.parent):
            found.append(busy())
            tuning_job.time.monotonic = lambda: float("inf")  # type: ignore[attr-defined]
            found.append(busy())
        (folder / NOTE).touch()
        return result(dropped={"busy": str(found)})

    return model_that_tunes(tune)
