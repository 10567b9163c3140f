"""Training processes that need no engine, forked from one program. A run does what its description begins with.

It goes from one step to the next when a file `go` appears in the run's folder, so that tests decide when.
"""

import importlib.util
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np

if __name__ == "__main__":
    # Without the client, whose import takes longer than a run here.
    bare = ModuleType("layerserve")
    bare.__path__ = list(importlib.util.find_spec("layerserve").submodule_search_locations)
    sys.modules["layerserve"] = bare

from layerserve_server.jobs import program
from layerserve_server.training import events
from layerserve_server.training.program.forked import detach
from layerserve_server.training.program.main import _locked, _stop
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.control import ControlFile
from layerserve_server.training.run_folder.result import NO_SPACE, RunResult, StopRequest


def first_array(folder: Path, request: RunRequest) -> np.ndarray:
    """The first array of the data, read without the module that reads all kinds of it, which imports torch."""
    file = request.data[0].file
    if file is not None and file.dataset:
        from layerserve_server.training.run_folder.data import read_data

        return read_data(folder, request.data)[0]
    return np.load(Path(file.folder, file.path) if file is not None else folder / "data" / "0.npy")


def train(folder: Path, request: RunRequest) -> RunResult:
    behaviour = request.description.partition(" ")[0]
    writer = events.EventWriter(folder)
    rows, control = request.data[0].rows, ControlFile(folder)
    behaviour = "wait" if behaviour == "die" and (folder / "go").exists() else behaviour
    behaviour = behaviour.removesuffix("-once") if not (folder / "seen").exists() else behaviour
    # In a search the seed decides how good a trial is; one of 13 is killed in its first epoch.
    searches = behaviour == "search"
    if searches and request.seed == 13 and not (folder / "seen").exists():
        behaviour = "die"
    if (folder / "seen").exists():
        writer.write(events.Resumed())
    if (folder / "rival").is_dir():
        trained = RunResult.read(folder / "rival")
        return replace(trained, withheld="no improvement" if behaviour == "worse" else "")
    (folder / "seen").write_text(f"{os.environ.get('TRACEPARENT', '')} {os.environ.get('BAGGAGE', '')}")
    writer.write(events.Started(request.epochs, 2, rows))
    for epoch in range(1, request.epochs + 1):
        for step in (1, 2):
            writer.write(events.Step(epoch, request.epochs, step, 2, {"loss": 1.0 / step}))
            if behaviour == "die" and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if behaviour == "nan" and step == 2:
                return RunResult("failed", f"loss is nan in step {step} of epoch {epoch}", epoch, step)
            if behaviour == "full" and not (folder / "go").exists():
                return RunResult("failed", "no space", epoch, step, resumable=True, out_of_space=True)
            if behaviour == "fuller" and not (folder / "go").exists():
                os._exit(NO_SPACE)
            if behaviour == "lose" and not (folder / "go").exists():
                while request.description == "lose" and not control.read().pause:
                    time.sleep(0.005)
                return RunResult("killed", "a worker of the run was lost", epoch, step)
            while behaviour in ("wait", "stubborn", "worse") and not (folder / "go").exists():
                if control.read().pause:
                    (folder / "checkpoints").mkdir(exist_ok=True)
                    (folder / "checkpoints" / "one").touch()
                    return RunResult("interrupted", epoch=epoch, step=step)
                if control.read().stop:
                    (folder / "go").touch()
                time.sleep(0.005)
        loss = request.seed + 1.0 / epoch if searches else 0.5
        writer.write(events.Epoch(epoch, request.epochs, {"loss": loss}, 0.1))
        while searches and (folder.parent.parent / "hold").exists():
            time.sleep(0.005)
    if behaviour == "exit":
        os._exit(3)
    (folder / "result").mkdir(exist_ok=True)
    x = first_array(folder, request)
    offset = request.seed if searches else float(x.sum())
    text = "{" if behaviour == "broken" else f'{{"offset": {offset}}}'
    (folder / "result" / "model.keras").write_text(text)
    return RunResult("trained", seconds=0.1, logs={"loss": 0.5})


def carry_out(folder: str, environment: Mapping[str, str]) -> None:
    """Executes the run in `folder`, as `layerserve_server.training.program.warm` does. Ends the process."""
    detach(Path(folder), environment)
    request = RunRequest.read(Path(folder))
    signal.signal(signal.SIGTERM, signal.SIG_IGN if request.description.startswith("stubborn") else _stop)
    with _locked(Path(folder)):
        try:
            outcome = train(Path(folder), request)
        except StopRequest:
            outcome = RunResult("cancelled", epoch=1)
        outcome.write(Path(folder))
    os._exit(0)


if __name__ == "__main__":
    program.serve(program.handle)
