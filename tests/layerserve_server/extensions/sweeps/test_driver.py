"""A sweep's driver, with runs that only note: what becomes of a trial's events, and of the best one."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.errors import (
    BusyError,
    InvalidRequestError,
    RunElsewhereError,
    UnknownRunError,
    VersionConflictError,
)
from layerserve_server.extensions.sweeps import driver as drivers
from layerserve_server.extensions.sweeps.driver import MAX_RESUMED, Driver
from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.space import Dimension
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState, Trial, TrialState
from layerserve_server.training import events
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.control import RunControl

FINISHED = events.Finished(0, {}, 0.0)


class Log:
    """The events of a run."""

    def __init__(self, *happened: events.What) -> None:
        self.events = [SimpleNamespace(sequence=number, what=what) for number, what in enumerate(happened)]

    def since(self, sequence: int) -> list[Any]:
        return self.events[sequence : sequence + 2]

    @property
    def last(self) -> events.What | None:
        return self.events[-1].what if self.events else None

    @property
    def ended(self) -> bool:
        return isinstance(self.last, events.Finished | events.Failed | events.Cancelled)


class Runs:
    """The runs of a server, and what the driver has asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.begun: list[RunRequest] = []
        self.refusal: Exception | None = None
        #: Whether their processes were killed.
        self.killed = False
        self.steering = SimpleNamespace(
            cancel=lambda run: self.asked.append(("cancel", run)), resume=lambda run: self.asked.append(("resume", run))
        )

    @property
    def table(self) -> Any:
        return self

    def put(self, id: str, *happened: events.What) -> Any:
        folder = self.folder / id
        (folder / "result").mkdir(parents=True)
        (folder / "result" / "model.keras").write_text(id)
        control = RunControl(killed=self.killed)
        self.runs[id] = SimpleNamespace(id=id, log=Log(*happened), seconds=2.5, folder=folder, control=control)
        return self.runs[id]

    def get(self, id: str) -> Any:
        if id not in self.runs:
            raise UnknownRunError(id)
        return self.runs[id]

    def begin(self, request: RunRequest, base: object, gone: object) -> Any:
        self.begun.append(request)
        if self.refusal is not None:
            raise self.refusal
        return self.put(f"run-{request.part}")

    def enqueue(self, run: Any) -> None:
        self.asked.append(("enqueue", run.id))


class Case:
    """A driver with a sweep of one trial, whose run is "run"."""

    def __init__(self, folder: Path, *, publish: str = "last", **request: Any) -> None:
        (folder / "sweep").mkdir()
        plan = Plan((Dimension("seed", (1, 2)),), Method.RANDOM, 3, 1, 0, "loss", False)
        asked = RunRequest("m", 4, (), publish=publish, **request)
        self.sweep = Sweep("sweep", folder / "sweep", plan, asked, 0.0)
        self.runs, self.published = Runs(folder), []
        self.answer: int | Exception = 7
        repository: Any = SimpleNamespace(publisher=SimpleNamespace(publish_once=self._publish))
        self.driver = Driver(self.sweep, self.runs, repository, lambda: False)  # type: ignore[arg-type]

    def _publish(self, model: str, file: Path, **options: Any) -> int:
        self.published.append((model, file.read_text(), options))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def trial(self, *happened: events.What, number: int = 0, run: str = "run") -> Trial:
        """Adds a trial with a run, and follows it."""
        if happened:
            self.runs.put(run, *happened)
        self.sweep.trials.append(Trial(number, {"seed": 1}, run_id=run))
        return self.follow(self.sweep.trials[-1])

    def follow(self, trial: Trial, **started: str) -> Trial:
        self.driver._follow(trial, None, {int(n[1:]): id for n, id in started.items()})  # type: ignore[arg-type]
        return trial


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def epochs(*losses: float) -> list[events.What]:
    return [events.Epoch(number, len(losses), {"loss": loss}, 0.1) for number, loss in enumerate(losses, 1)]


def test_runs_that_a_killed_server_has_started_are_found_by_their_sweep(folder: Path) -> None:
    case = Case(folder)
    requests = {"a": ("sweep", 0), "b": ("sweep", 2), "c": ("another", 1), "d": ("", 0)}
    runs = [
        SimpleNamespace(id=id, request=SimpleNamespace(part_of=sweep, part=trial))
        for id, (sweep, trial) in requests.items()
    ]
    case.runs.table.list = lambda model: runs if model == "m" else []
    assert case.driver._started() == {0: "a", 2: "b"}


@pytest.mark.parametrize(("publish", "value"), [("last", 3.0), ("best", 1.0)])
def test_the_value_is_that_of_the_epoch_that_is_published(folder: Path, publish: str, value: float) -> None:
    case = Case(folder, publish=publish)
    trial = case.trial(events.Started(3, 2, 8), *epochs(4.0, 1.0, 3.0))
    assert (trial.value, trial.history) == (value, {1: 4.0, 2: 1.0, 3: 3.0})
    assert not trial.ended
    # Only what is new is read.
    trial.history.clear()
    case.follow(trial)
    assert trial.history == {}
    assert trial.next_event == 4


def test_epochs_without_the_log_or_a_number_do_not_count(folder: Path) -> None:
    case = Case(folder)
    trial = case.trial(
        events.Epoch(1, 4, {"accuracy": 1.0}, 0.1), *epochs(math.nan)[:1], events.Step(1, 4, 1, 2, {"loss": 9.0})
    )
    assert (trial.value, trial.history) == (None, {})


@pytest.mark.parametrize(("publish", "state"), [("last", TrialState.FAILED), ("best", TrialState.FINISHED)])
def test_a_trial_whose_last_epoch_has_no_number_is_good_for_its_best_epoch_only(
    folder: Path, publish: str, state: TrialState
) -> None:
    trial = Case(folder, publish=publish).trial(*epochs(4.0, math.nan), FINISHED)
    assert (trial.state, trial.history) == (state, {1: 4.0})


def test_a_run_that_another_call_has_cancelled_is_a_cancelled_trial(folder: Path) -> None:
    case = Case(folder)
    assert case.trial(*epochs(4.0), events.Cancelled(1)).state is TrialState.CANCELLED


def test_the_best_trial_is_kept_and_published(folder: Path) -> None:
    case = Case(folder, publish_label="best", expected_base_version=4)
    for number, loss in enumerate((4.0, 2.0, 3.0)):
        trial = case.trial(*epochs(loss), FINISHED, number=number, run=f"run-{number}")
        assert trial.state is TrialState.FINISHED
        assert not (case.runs.table.folder / f"run-{number}" / "result").exists()
    assert (case.sweep.best, [path.name for path in case.sweep.folder.glob("best*")]) == (1, ["best-1.keras"])
    case.driver._end()
    options = {"run": "sweep", "base_version": 4, "label": "best", "expected": 4}
    assert case.published == [("m", "run-1", options)]
    assert (case.sweep.state, case.sweep.published, case.sweep.reason) == (SweepState.FINISHED, 7, "")


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        (
            VersionConflictError("m", 4, 5),
            SweepState.FINISHED,
            "model 'm': got version 5 as its newest, expected version 4",
        ),
        (BusyError("no room", 1.0), SweepState.FAILED, "no room"),
    ],
)
def test_a_best_trial_that_can_not_be_published(
    folder: Path, answer: Exception, state: SweepState, reason: str
) -> None:
    case = Case(folder)
    case.answer = answer
    case.trial(*epochs(4.0), FINISHED)
    case.driver._end()
    assert (case.sweep.state, case.sweep.published, case.sweep.reason) == (state, 0, reason)


def test_a_withheld_result_is_not_published(folder: Path) -> None:
    case = Case(folder)
    case.trial(*epochs(4.0), events.Finished(0, {}, 0.0, withheld="no improvement"))
    case.driver._end()
    assert (case.sweep.state, case.sweep.reason, case.published) == (SweepState.FINISHED, "no improvement", [])


def test_a_finished_run_without_the_log_has_failed(folder: Path) -> None:
    case = Case(folder)
    trial = case.trial(FINISHED)
    assert (trial.state, trial.reason) == (TrialState.FAILED, "its run has no number for log 'loss'")
    case.driver._end()
    assert (case.sweep.state, case.sweep.reason) == (
        SweepState.FAILED,
        "no trial has given a result: its run has no number for log 'loss'",
    )


def test_an_interrupted_run_is_resumed_a_few_times(folder: Path) -> None:
    case = Case(folder)
    trial = case.trial(events.Failed("killed", resumable=True))
    for _ in range(MAX_RESUMED):
        assert not trial.ended
        case.follow(trial)
    assert (trial.state, trial.reason) == (TrialState.FAILED, "killed")
    assert case.runs.asked == [("resume", "run")] * MAX_RESUMED


def test_a_run_that_was_killed_has_resumed_itself(folder: Path) -> None:
    case = Case(folder)
    case.runs.killed = True
    trial = case.trial(events.Failed("killed, for the second time", resumable=True))
    assert (trial.state, case.runs.asked) == (TrialState.FAILED, [])


def test_an_error_is_not_tried_again(folder: Path) -> None:
    trial = Case(folder).trial(events.Failed("loss is nan"))
    assert (trial.state, trial.reason) == (TrialState.FAILED, "loss is nan")


def test_a_run_that_was_removed_has_failed_and_one_elsewhere_is_waited_for(folder: Path) -> None:
    case = Case(folder)
    trial = case.trial(run="removed")
    assert (trial.state, trial.reason) == (TrialState.FAILED, "its run was removed")

    def elsewhere(id: str) -> Any:
        raise RunElsewhereError(id)

    case.runs.table.get = elsewhere
    assert not case.trial(number=1, run="other").ended


def test_a_trial_begins_as_a_run_of_its_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, now = Case(folder), [100.0]
    monkeypatch.setattr(drivers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    case.sweep.trials.append(trial := Trial(2, {"seed": 9}))
    case.runs.refusal = BusyError("the queue is full", 1.0)
    case.follow(trial)
    case.follow(trial)
    assert (len(case.runs.begun), trial.run_id) == (1, "")
    now[0] += drivers.RETRY_SECONDS
    case.runs.refusal = None
    case.follow(trial)
    begun = case.runs.begun[-1]
    assert (begun.seed, begun.part_of, begun.part, begun.version) == (9, "sweep", 2, 4)
    assert (trial.run_id, case.runs.asked) == ("run-2", [("enqueue", "run-2")])
    # After a restart the run is found again by its trial.
    case.sweep.trials.append(other := Trial(3, {"seed": 1}))
    case.runs.put("known", *epochs(1.0))
    case.follow(other, _3="known")
    assert (other.run_id, other.value, len(case.runs.begun)) == ("known", 1.0, 2)


def test_a_trial_that_is_refused_has_failed_and_one_of_a_cancelled_sweep_does_not_begin(folder: Path) -> None:
    case = Case(folder)
    case.runs.refusal = InvalidRequestError("seed: got -1")
    case.sweep.trials.append(trial := Trial(0, {"seed": 1}))
    assert case.follow(trial).reason == "seed: got -1"
    case.sweep.cancelled = True
    case.sweep.trials.append(other := Trial(1, {"seed": 1}))
    assert case.follow(other).state is TrialState.CANCELLED
    assert len(case.runs.begun) == 1
    running = case.trial(*epochs(1.0), number=2)
    assert (running.ended, case.runs.asked) == (False, [("cancel", "run")])
    # Interrupted runs of a cancelled sweep aren't resumed.
    case.runs.runs["run"].log = Log(events.Failed("killed", resumable=True))
    assert case.follow(running).state is TrialState.FAILED
    case.driver._end()
    assert (case.sweep.state, case.published) == (SweepState.CANCELLED, [])
