"""A session in its process: each step once, kept through kills, and refused without a trace."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import DataError, NonFiniteLossError, NonFiniteWeightError
from layergraph.training.checkpoint import Checkpoints
from layerserve.training.options.online import OnlineOptions
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.online import publications, session
from layerserve_server.extensions.online.frames import Frame, FrameArray
from layerserve_server.extensions.online.kind import ONLINE
from layerserve_server.extensions.online.session import Session
from layerserve_server.training.request import RunRequest

RNG = np.random.default_rng(4)
BATCHES = [(RNG.standard_normal((3, 4)).astype("f4"), RNG.standard_normal((3, 1)).astype("f4")) for _ in range(12)]


@pytest.fixture(name="base", scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = layergraph.Input((4,), name="x")
    x = layers.Dropout(0.3)(layers.BatchNormalization()(layers.Dense(5)(inputs)))
    model = layergraph.Model(inputs, layers.Dense(1, name="y")(x))
    model.compile("adam", "mse", metrics=["mae"])
    path = tmp_path_factory.mktemp("base") / "model.keras"
    model.save(path)
    return path


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


class Sessions:
    """Sessions in one folder, one after another."""

    def __init__(self, base: Path, folder: Path) -> None:
        self._base = base
        self.folder = folder

    def start(self, on_nan: str = "stop", checkpoint_seconds: float = 3600.0, **options: Any) -> Session:
        request = RunRequest(
            model="m",
            version=1,
            data=(),
            kind=ONLINE,
            kind_options=asdict(OnlineOptions(**options)),
            seed=5,
            on_nan=on_nan,
            checkpoint_seconds=checkpoint_seconds,
        )
        self.model = layergraph.load_model(self._base)
        started = Session(self.folder, request, self.model)
        started.start()
        return started

    def weights(self) -> list[bytes]:
        return [weight.tobytes() for weight in self.model.get_weights()]


@pytest.fixture(name="sessions")
def _sessions(base: Path, tmp_path: Path) -> Sessions:
    return Sessions(base, tmp_path)


@pytest.fixture(name="unbroken")
def _unbroken(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], list[bytes]]:
    """Logs and weights of a session that nothing disturbs."""
    held = Sessions(base, tmp_path_factory.mktemp("unbroken"))
    one = held.start()
    return [one.train(step(number)) for number in range(1, 13)], held.weights()


def arrays(x: Any, y: Any) -> tuple[list[FrameArray], bytes]:
    parts = [x.tobytes(), y.tobytes()]
    described = [
        FrameArray("x", "x", "float32", x.shape, len(parts[0])),
        FrameArray("y", "y", "float32", y.shape, len(parts[1])),
    ]
    return described, b"".join(parts)


def step(number: int, batch: int | None = None, rate: float | None = None) -> Frame:
    header = {"kind": "step", "number": number, "learning_rate": rate}
    return Frame(header, *arrays(*BATCHES[(number if batch is None else batch) - 1]))


@pytest.mark.parametrize("checkpoint", [None, 1, 3, 7])
def test_a_killed_session_goes_on_bit_for_bit(sessions: Sessions, unbroken: Any, checkpoint: int | None) -> None:
    one = sessions.start()
    logs = []
    for number in range(1, 8):
        logs.append(one.train(step(number)))
        if number == checkpoint:
            one.save()
    again = sessions.start()
    assert again.step == 7
    assert again.logs == logs[-1]
    logs += [again.train(step(number)) for number in range(8, 13)]
    assert (logs, sessions.weights()) == unbroken


@pytest.mark.parametrize("moment", ["append", "apply", "write", "begin"])
def test_a_kill_at_any_moment_of_a_step(
    sessions: Sessions, unbroken: Any, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """While the step is written, after that, while the checkpoint is written, and before its log begins."""
    one = sessions.start(checkpoint_seconds=0.0)
    for number in range(1, 6):
        one.train(step(number))

    def kill(*_: Any, **__: Any) -> None:
        raise Killed

    target = {
        "append": (one._log, "append"),
        "apply": (one._steps, "train"),
        "write": (Checkpoints, "write"),
        "begin": (one._log, "begin"),
    }
    monkeypatch.setattr(*target[moment], kill)
    with pytest.raises(Killed):
        one.train(step(6))
    monkeypatch.undo()
    again = sessions.start()
    assert again.step == (5 if moment == "append" else 6)
    for number in range(6, 13):
        again.train(step(number))  # the client got no reply to step 6
    assert sessions.weights() == unbroken[1]
    assert sessions.start().step == 12


def test_a_step_is_applied_once(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    one = sessions.start()
    logs = [one.train(step(number)) for number in range(1, 5)]
    before = sessions.weights()
    assert [one.train(step(number)) for number in (4, 2)] == [logs[3], logs[1]]
    with pytest.raises(InvalidRequestError, match="step 4: was applied with other data"):
        one.train(step(4, batch=9))
    with pytest.raises(InvalidRequestError, match="step 4: was applied with other data"):
        one.train(step(4, rate=0.5))
    with pytest.raises(InvalidRequestError, match="step 6: expected number 5, after the last applied step"):
        one.train(step(6))
    assert (one.step, sessions.weights()) == (4, before)
    assert sessions.start().train(step(4)) == logs[3], "also after a kill"
    one._replies.popleft()
    with pytest.raises(InvalidRequestError, match="step 1: was applied, 3 steps ago"):
        one.train(step(1))


def bad(number: int, value: float = np.nan, rows: int = 3) -> Frame:
    header = {"kind": "step", "number": number, "learning_rate": 0.7}
    return Frame(header, *arrays(np.full((rows, 4), value, "f4"), np.zeros((3, 1), "f4")))


@pytest.mark.parametrize("saved", [False, True])
def test_a_refused_step_leaves_no_trace(sessions: Sessions, unbroken: Any, saved: bool) -> None:
    one = sessions.start()
    logs = [one.train(step(number)) for number in range(1, 6)]
    if saved:
        one.save()
    for _ in range(2):
        with pytest.raises(NonFiniteLossError):
            one.train(bad(6))
    with pytest.raises(DataError):
        one.train(bad(6, rows=2))
    logs += [one.train(step(number)) for number in range(6, 9)]
    again = sessions.start()
    logs += [again.train(step(number)) for number in range(9, 13)]
    assert (logs, sessions.weights()) == unbroken


def test_a_step_whose_weights_overflow_is_refused_though_its_loss_is_finite(base: Path, tmp_path: Path) -> None:
    """Else all later steps would be refused, as their loss is NaN."""
    model = layergraph.load_model(base)
    model.compile("sgd", "mse")
    model.save(tmp_path / "sgd.keras")
    sessions = Sessions(tmp_path / "sgd.keras", tmp_path)
    one = sessions.start()
    one.train(step(1))
    before = sessions.weights()
    x, y = BATCHES[1]
    overflows = Frame({"kind": "step", "number": 2, "learning_rate": 3e38}, *arrays(x, 1000 * y))
    with pytest.raises(NonFiniteWeightError, match=r"weight '.*' isn't finite after step 2"):
        one.train(overflows)
    assert sessions.weights() == before
    assert np.isfinite(one.train(step(2, rate=0.01))["loss"])


def test_steps_before_refused_ones_are_done_again_once(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a client that sends many wrong steps would take a session's time from others."""
    one = sessions.start()
    for number in range(1, 6):
        one.train(step(number))
    train, done = one._steps.train, []

    def counted(batch: Any) -> Any:
        done.append(one.step + 1)
        return train(batch)

    monkeypatch.setattr(one._steps, "train", counted)
    for _ in range(2):
        with pytest.raises(NonFiniteLossError):
            one.train(bad(6))
    assert done == [6, 1, 2, 3, 4, 5, 6]


def test_a_step_that_killed_the_process_before_it_was_refused_is_refused_at_the_start(
    sessions: Sessions, unbroken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sessions.start()
    for number in range(1, 6):
        one.train(step(number))

    def kill() -> None:
        raise Killed

    monkeypatch.setattr(one, "_roll_back", kill)
    with pytest.raises(Killed):
        one.train(bad(6))
    again = sessions.start()
    assert again.step == 5
    for number in range(6, 13):
        again.train(step(number))
    assert sessions.weights() == unbroken[1]


def test_a_session_that_is_closed_has_no_file_open(sessions: Sessions) -> None:
    one = sessions.start()
    one.train(step(1))
    assert one._log.next_step == 2
    one.close()
    assert one._log.next_step == 0
    one.close()


def test_with_continue_a_loss_that_is_no_number_is_applied_as_in_keras(sessions: Sessions) -> None:
    one = sessions.start(on_nan="continue")
    assert np.isnan(one.train(bad(1))["loss"])
    assert one.step == 1


def test_the_learning_rate_stays_through_kills(sessions: Sessions) -> None:
    one = sessions.start()
    one.train(step(1, rate=0.0))
    before = sessions.weights()
    sessions.start().train(step(2))
    # The statistics move; the weights that are trained don't.
    assert sum(one == other for one, other in zip(sessions.weights(), before, strict=True)) >= 6


def test_checkpoints_bound_the_log(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "MAX_STEPS", 3)
    one = sessions.start()
    for number in range(1, 9):
        one.train(step(number))
        assert one._log.steps == number % 3
    monkeypatch.setattr(session, "MAX_BYTES", 1)
    one.train(step(9))
    assert one._log.steps == 0


def test_a_checkpoint_is_written_after_ten_thousand_steps(sessions: Sessions) -> None:
    one = sessions.start()
    one._log.steps = 9_998
    one.train(step(1))
    assert one._log.steps == 9_999
    one.train(step(2))
    assert one._log.steps == 0


def test_a_step_is_kept_when_there_is_no_room_for_a_checkpoint(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = sessions.start(checkpoint_seconds=0.0)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "write", full)
    logs = one.train(step(1))
    with pytest.raises(OSError, match="No space left"):
        one.save()
    monkeypatch.undo()
    again = sessions.start()
    assert (again.step, again.logs) == (1, logs)


def test_replayed_rows_are_the_same_after_a_kill(sessions: Sessions, unbroken: Any, tmp_path_factory: Any) -> None:
    options = {"replay_steps": 4, "replay_share": 0.7}
    whole = Sessions(sessions._base, tmp_path_factory.mktemp("whole"))
    one = whole.start(**options)
    expected = [one.train(step(number)) for number in range(1, 13)]
    two = sessions.start(**options)
    logs = [two.train(step(number)) for number in range(1, 7)]
    two.save()
    logs += [two.train(step(number)) for number in range(7, 9)]
    three = sessions.start(**options)
    logs += [three.train(step(number)) for number in range(9, 13)]
    assert logs == expected
    assert sessions.weights() == whole.weights()
    assert logs != unbroken[0]


def test_versions_are_published_by_steps_and_time_if_there_are_new_steps(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def steps() -> list[int]:
        return [number for number, _ in publications.pending(sessions.folder)]

    one = sessions.start(publish_every_steps=2, publish_every_seconds=100.0)
    one.publish()
    assert steps() == [], "there is nothing new yet"
    for number in range(1, 6):
        one.train(step(number))
        one.publish_if_due(stepped=False)
    assert steps() == [2, 4]
    assert 0 < one.seconds_to_publication <= 100
    monkeypatch.setattr(one, "_published_at", one._published_at - 200)
    assert one.seconds_to_publication == 0
    one.publish_if_due(stepped=False)
    one.publish()
    assert steps() == [2, 4, 5]
    assert one.seconds_to_publication == float("inf")
    (_, path), *_ = publications.pending(sessions.folder)
    assert layergraph.load_model(path).optimizer.iterations == 2


@pytest.mark.parametrize("checkpoint_seconds", [0.0, 3600.0])
def test_a_version_that_was_due_before_a_kill_is_published_after_it(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, checkpoint_seconds: float
) -> None:
    one = sessions.start(publish_every_steps=2, checkpoint_seconds=checkpoint_seconds)
    one.train(step(1))

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(publications, "request", kill)
    with pytest.raises(Killed):
        one.train(step(2))
    monkeypatch.undo()
    sessions.start(publish_every_steps=2)
    assert [number for number, _ in publications.pending(sessions.folder)] == [2]


def test_outputs_and_tests_are_those_of_the_model(sessions: Sessions) -> None:
    one = sessions.start()
    one.train(step(1))
    x, y = BATCHES[0]
    described, data = arrays(x, y)
    found = one.predict(Frame({}, described[:1], x.tobytes()))
    got = np.frombuffer(found.payload, "f4").reshape(found.arrays[0].shape)
    np.testing.assert_allclose(got, sessions.model.predict(x), rtol=1e-6)
    expected = sessions.model.test_on_batch(x, y, return_dict=True)
    assert one.test(Frame({}, described, data)) == pytest.approx(expected)
    assert one.step == 1


def test_a_log_that_ends_before_the_checkpoint_begins_anew(
    sessions: Sessions, unbroken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very first checkpoint was written and its log wasn't begun; or the machine lost the end of the log."""

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(session.StepLog, "begin", kill)
    with pytest.raises(Killed):
        sessions.start()
    monkeypatch.undo()
    one = sessions.start()
    for number in range(1, 6):
        one.train(step(number))
    monkeypatch.setattr(one._log, "begin", kill)
    with pytest.raises(Killed):
        one.save()
    (path,) = (sessions.folder / session.STEPS).iterdir()
    path.write_bytes(path.read_bytes()[: one._log.bytes // 2])
    two = sessions.start()
    for number in range(6, 10):
        two.train(step(number))
    again = sessions.start()
    assert again.step == 9
    for number in range(10, 13):
        again.train(step(number))
    assert sessions.weights() == unbroken[1]
