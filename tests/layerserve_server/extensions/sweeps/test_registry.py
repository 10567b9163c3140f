"""The sweeps of a server, with drivers and runs that only note: how many there may be, and how one fails."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.errors import BusyError, UnavailableError, UnknownRunError
from layerserve_server.extensions.sweeps import registry
from layerserve_server.extensions.sweeps.base_copy import DESCRIPTION, Base
from layerserve_server.extensions.sweeps.plan import Method
from layerserve_server.extensions.sweeps.registry import Sweeps
from layerserve_server.extensions.sweeps.space import Dimension
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState, Trial
from layerserve_server.training.request import RunRequest


class Case:
    """Sweeps whose driver does what `drive` does, and the runs that they have cancelled."""

    def __init__(self, folder: Path) -> None:
        self.cancelled: list[str] = []
        self.runs: list[Any] = []
        runs = SimpleNamespace(
            check=lambda request, base, gone: request,
            table=SimpleNamespace(list=lambda model: self.runs),
            steering=SimpleNamespace(cancel=self.cancelled.append),
        )
        self.sweeps = Sweeps(folder, runs, None, lambda *_: False, slots=1, max_kept=10)  # type: ignore[arg-type]
        self.drive: Callable[[Sweep], object] = lambda sweep: None

    def create(self) -> Sweep:
        base = SimpleNamespace(found=SimpleNamespace(path=Path("model.keras")), parameter_count=1)
        return self.sweeps.create(
            RunRequest("m", 4, ()),
            base,
            (Dimension("seed", (1, 2)),),
            Method.GRID,
            trials=0,
            parallel=0,
            seed=0,
        )


@pytest.fixture(name="case")
def _case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    case = Case(tmp_path)
    # Without the files of a version.
    monkeypatch.setattr(registry, "copy_base", lambda base, folder: None)
    monkeypatch.setattr(registry, "Driver", lambda sweep, *_: SimpleNamespace(run=lambda: case.drive(sweep)))
    yield case
    case.sweeps.stop()


def test_as_many_sweeps_as_may_be_under_way_are_begun(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_ACTIVE", 2)
    case.drive = lambda sweep: sweep.wake.wait(60)
    begun = [case.create() for _ in range(2)]
    with pytest.raises(BusyError, match="2 sweeps are under way, the maximum"):
        case.create()
    begun[0].state = SweepState.FINISHED
    case.create()


def test_a_sweep_that_is_being_created_is_not_taken_for_another_servers(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its trials would be read from disk again while it runs, and those that run would be started again."""
    save = Sweep.save

    def save_and_list(sweep: Sweep) -> None:
        save(sweep)
        assert list(case.sweeps.list()) == []

    monkeypatch.setattr(Sweep, "save", save_and_list)
    case.sweeps.start()
    case.drive = lambda sweep: sweep.wake.wait(60)
    sweep = case.create()
    sweep.trials.append(Trial(0, {}, run_id="noted"))
    assert (case.sweeps.list(), case.sweeps.get(sweep.id).trials[0].run_id) == ([sweep], "noted")
    assert case.sweeps.owner(sweep) == ""


def test_a_sweep_is_taken_over_once(case: Case, tmp_path: Path) -> None:
    case.drive = lambda sweep: sweep.wake.wait(60)
    sweep = case.create()
    case.sweeps.stop()
    other = Case(tmp_path).sweeps
    driven: list[Sweep] = []

    def drive(sweep: Sweep) -> None:
        driven.append(sweep)
        sweep.wake.wait(60)

    case.drive = drive
    other.start()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: other.get(sweep.id), range(8)))
    other.stop()
    assert driven == found[:1]
    assert set(map(id, found)) == {id(driven[0])}


def test_a_sweep_that_fails_on_a_full_disk_stops_its_runs(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even its end can be written."""
    result = tmp_path / "run" / "result"
    result.mkdir(parents=True)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def drive(sweep: Sweep) -> None:
        case.runs = [SimpleNamespace(id="run", folder=result.parent, request=SimpleNamespace(part_of=sweep.id))]
        monkeypatch.setattr(Sweep, "save", full)
        full()

    case.drive = drive
    sweep = case.create()
    case.sweeps.stop()
    assert (sweep.state, sweep.reason) == (SweepState.FAILED, "No space left on device")
    assert case.cancelled == ["run"]
    assert not result.exists()


def test_a_sweep_whose_files_are_damaged_has_that_as_its_reason(case: Case) -> None:
    case.drive = lambda sweep: Base.read(sweep.folder)
    sweep = case.create()
    case.sweeps.stop()
    assert sweep.state is SweepState.FAILED
    assert "No such file" in sweep.reason
    (sweep.folder / DESCRIPTION).write_text("[]")
    case.sweeps._drive(sweep)
    assert sweep.reason == "the sweep's base.json is damaged: got JSON of type list, expected an object"


def test_sweeps_of_a_folder_that_can_not_be_read_are_not_denied(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sweeps").write_text("no folder")
    sweeps = Case(tmp_path / "sweeps").sweeps
    sweeps.start()
    for ask in (sweeps.list, lambda: sweeps.get("20260101-0000-0123abcd")):
        with pytest.raises(UnavailableError, match="the folder of sweeps can't be read; see the server's log"):
            ask()
    assert [record.args[0] for record in caplog.records] == [tmp_path / "sweeps"], "named once"
    (tmp_path / "sweeps").unlink()
    assert list(sweeps.list()) == []
    with pytest.raises(UnknownRunError):
        sweeps.get("20260101-0000-0123abcd")


def test_a_sweep_whose_runs_can_not_be_read_is_left_to_the_next_server(case: Case) -> None:
    def drive(sweep: Sweep) -> None:
        raise UnavailableError("the folder of runs can't be read")

    case.drive = drive
    sweep = case.create()
    case.sweeps.stop()
    assert (sweep.state, sweep.owner.held) == (SweepState.RUNNING, False)


def test_the_oldest_sweeps_that_have_ended_make_room(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case.sweeps, "_max_kept", 2)

    def drive(sweep: Sweep) -> None:
        sweep.state, sweep.ended_time = SweepState.FINISHED, time.time()

    case.drive = drive
    made = []
    for _ in range(4):
        made.append(case.create())
        for thread in case.sweeps._threads:
            thread.join(10)
    assert {sweep.id for sweep in made[2:]} == set(case.sweeps._sweeps)
    assert [sweep.folder.exists() for sweep in made] == [False, False, True, True]
