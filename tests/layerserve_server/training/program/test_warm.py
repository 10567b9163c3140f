"""Runs that are forked from a process which has imported torch, and what holds where that process dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from layerserve_server.jobs import jobs as jobs_module
from layerserve_server.jobs.forked_process import ForkedProcess
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training.proc_files import stat_of
from layerserve_server.training.process.training_process import TRAIN, TrainingProcess
from layerserve_server.training.program.main import NAME
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import CHILD_LOCK, CHILD_OUTPUT

Forks = Callable[[Jobs, Path], ForkedProcess]


@pytest.fixture
def fork() -> Iterator[Forks]:
    """Forks processes, and ends them."""
    forked = []

    def fork_one(jobs: Jobs, folder: Path, **environment: str) -> ForkedProcess:
        process = jobs.fork(TRAIN, {"folder": str(folder), "environment": {**os.environ, **environment}})
        assert process is not None
        forked.append(process)
        return process

    yield fork_one
    for process in forked:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        process.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run whose process waits for its lock."""
    RunRequest(model="m", version=1, data=(), compile={}).write(tmp_path)
    with (tmp_path / CHILD_LOCK).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield tmp_path


def parent_of(pid: int) -> int:
    return int(stat_of(pid)[1])


def test_a_run_has_a_session_a_name_and_a_log_of_its_own(
    jobs: Jobs, fork: Forks, folder: Path, wait_until: Callable
) -> None:
    process = fork(jobs, folder)
    wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text().rstrip() == NAME)
    assert process.poll() is None
    assert os.getsid(process.pid) == process.pid
    files = {stream: os.readlink(f"/proc/{process.pid}/fd/{stream}") for stream in range(3)}
    assert files == {0: os.devnull, 1: str(folder / CHILD_OUTPUT), 2: str(folder / CHILD_OUTPUT)}
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: process.poll() is not None)
    assert process.returncode == -signal.SIGTERM


def test_why_a_run_could_not_begin_is_in_its_log(jobs: Jobs, fork: Forks, tmp_path: Path, wait_until: Callable) -> None:
    process = fork(jobs, tmp_path)
    wait_until(lambda: process.poll() is not None)
    assert process.returncode == 1
    assert "FileNotFoundError" in (tmp_path / CHILD_OUTPUT).read_text()


def test_a_run_has_the_environment_of_its_start(jobs: Jobs, fork: Forks, folder: Path, wait_until: Callable) -> None:
    """One of torchrun's variables, as an example: a run that has it looks for the others."""
    process = fork(jobs, folder, TORCHELASTIC_RUN_ID="1")
    wait_until(lambda: process.poll() is not None)
    assert "KeyError: 'RANK'" in (folder / CHILD_OUTPUT).read_text()


def test_a_closed_parent_forks_nothing(folder: Path) -> None:
    jobs = Jobs()
    jobs.close()
    assert jobs.fork(TRAIN, {"folder": str(folder), "environment": dict(os.environ)}) is None


def test_a_run_whose_minder_was_killed_is_known_by_its_lock(jobs: Jobs, folder: Path, wait_until: Callable) -> None:
    started = TrainingProcess(folder)
    started.start(("false",), 1, jobs)
    run = started.pid
    assert run is not None
    try:
        os.kill(parent_of(run), signal.SIGKILL)
        # The test holds the lock in its place.
        (folder / CHILD_LOCK).write_text(f"{run} {socket.gethostname()}")
        wait_until(lambda: started.wait() and started._started is None)
        assert (started.lives, started.pid) == (True, run)
        assert not started.ended_by_itself
    finally:
        started.signal(signal.SIGKILL)


def test_where_the_parent_can_not_start_a_run_is_started_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs_module, "PROGRAM", "layerserve_server.no_such_program")
    started = TrainingProcess(tmp_path)
    started.start((sys.executable, "-c", "import sys; print('started in', sys.argv[1])"), 1, Jobs())
    wait_until(lambda: not started.wait())
    assert (tmp_path / CHILD_OUTPUT).read_text() == f"started in {tmp_path}\n"
    assert "can't fork training runs" in caplog.text


def test_a_parent_ends_when_the_server_does_and_its_runs_go_on(
    jobs: Jobs, fork: Forks, folder: Path, wait_until: Callable
) -> None:
    process = fork(jobs, folder)
    warm = jobs._warm._process
    jobs._warm._control.close()  # what a killed server leaves
    assert warm.wait(30) == 0
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    wait_until(lambda: process.poll() == -signal.SIGKILL)
