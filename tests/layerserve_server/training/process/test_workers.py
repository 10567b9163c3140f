"""Processes of a run with several workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from layerserve_server.training.process import workers

#: Starts a process that ends with this one, which then waits. Both hold standard output.
PARENT = """
import os, sys, time
from layerserve_server.training.process.workers import end_with_parent
if os.fork() == 0:
    end_with_parent()
    print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_a_worker_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        # The output ends once no process has it open.
        assert parent.communicate(timeout=30) == (b"", None)


#: Forks two workers for each case, of which the second one ends at once, and prints the result and the exit status.
LAUNCHER = """
import os, signal, sys, time, types
from pathlib import Path
from layerserve_server.training.process import workers
from layerserve_server.training.run_folder.result import RunResult

sys.modules["layerserve_server.training.process.work"] = types.ModuleType("work")
request = types.SimpleNamespace(workers=2)

def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)

def written(folder):
    RunResult("trained", epoch=7).write(folder)
    return 1

def cancelled():
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)

def interruptible(folder):
    def interrupt(*_):
        RunResult("interrupted", epoch=3).write(folder)
        os._exit(0)
    signal.signal(signal.SIGUSR1, interrupt)
    (folder / "ready").touch()
    time.sleep(60)

def interrupting(folder):
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    while not (folder / "ready").exists():
        time.sleep(0.01)
    os.kill(os.getppid(), signal.SIGUSR1)
    while not RunResult.read(folder):
        time.sleep(0.01)
    return workers.LOST_PEER

CASES = {
    "both end": (lambda folder: written(folder) and 0, lambda folder: 0),
    "one is killed": (lambda folder: time.sleep(60), lambda folder: os.kill(os.getpid(), signal.SIGKILL)),
    "the other stays": (lambda folder: stubborn(), lambda folder: 1),
    "an exception": (lambda folder: time.sleep(60), lambda folder: 1 / 0),
    "a written result": (written, lambda folder: time.sleep(60)),
    "cancelled": (lambda folder: time.sleep(60), lambda folder: cancelled()),
    "interrupted": (interruptible, interrupting),
    "no space": (lambda folder: time.sleep(60), lambda folder: 76),
}
workers.END_SECONDS = 0.5
for name, works in CASES.items():
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    folder = Path(sys.argv[1]) / name
    folder.mkdir()
    status = 0
    try:
        workers.launch(folder, request, lambda: works[int(os.environ["RANK"])](folder))
    except SystemExit as error:
        status = error.code
    try:
        os.waitpid(-1, os.WNOHANG)
        left = "a process is left"
    except ChildProcessError:
        left = ""
    result = RunResult.read(folder)
    files = [path.name for path in folder.iterdir() if path.name.startswith("workers.")]
    print(name, status, result and (result.kind, result.epoch, result.reason), files, left, sep="|", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_workers_end_together(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    killed = "worker 1 of the run was ended by signal SIGKILL; the system may have run out of memory"
    broken = '"internal error in worker 1; see the run\'s log"'
    assert out.stdout.splitlines() == [
        "both end|0|('trained', 7, '')|[]|",
        f"one is killed|0|('killed', 0, '{killed}')|[]|",
        f"the other stays|0|('failed', 0, {broken})|[]|",
        f"an exception|0|('failed', 0, {broken})|[]|",
        "a written result|0|('trained', 7, '')|[]|",
        "cancelled|0|('cancelled', 0, '')|[]|",
        "interrupted|0|('interrupted', 3, '')|[]|",
        "no space|76|None|[]|",
    ]
    assert "ZeroDivisionError" in out.stderr


@pytest.mark.parametrize(
    ("codes", "text", "kind"),
    [
        ({1: -9, 0: workers.LOST_PEER}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        ({1: -9, 0: -9}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        ({0: -6, 1: -9}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        ({0: -6}, "worker 0 of the run was ended by signal SIGABRT", "killed"),
        ({0: workers.LOST_PEER}, "a worker of the run was lost", "killed"),
        ({1: 1, 0: workers.LOST_PEER}, "internal error in worker 1; see the run's log", "failed"),
    ],
)
def test_the_worker_that_ended_first_is_told(codes, text, kind, tmp_path):
    outcome = workers.lost(tmp_path, codes)
    assert outcome.reason.startswith(text)
    assert outcome.kind == kind
