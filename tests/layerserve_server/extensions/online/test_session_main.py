"""The program of a session's process: requests through its socket, what ends it, and what it reports."""

from __future__ import annotations

import errno
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import DataError, NonFiniteLossError, NonFiniteWeightError
from layerserve.online.options import OnlineOptions
from layerserve_server.errors import InvalidRequestError, NotTrainableError
from layerserve_server.extensions.online import publications, session_main
from layerserve_server.extensions.online.frames import PREFIX, Frame, FrameArray, sizes
from layerserve_server.extensions.online.kind import ONLINE
from layerserve_server.extensions.online.publications import Published
from layerserve_server.extensions.online.session import STEPS
from layerserve_server.extensions.online.session_socket import socket_path
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.process.reporting import Position
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.control import ControlFile
from layerserve_server.training.run_folder.layout import BASE
from layerserve_server.training.run_folder.result import INTERRUPT, Interruption, RunResult

X, Y = np.ones((2, 3), "float32"), np.zeros((2, 1), "float32")


class Caller:
    """A connection to the program."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        with socket_path(folder) as path:
            self._socket.connect(path)
        self._socket.settimeout(30)
        self._replies = self._socket.makefile("rb")

    def close(self) -> None:
        self._replies.close()
        self._socket.close()

    def ask(self, kind: str, *arrays: tuple[str, np.ndarray[Any, Any]], **header: Any) -> Frame:
        """Sends a request, and returns its reply."""
        described = [FrameArray(role, "", str(one.dtype), one.shape, one.nbytes) for role, one in arrays]
        described = [FrameArray(one.role, one.role, one.dtype, one.shape, one.bytes) for one in described]
        for part in Frame({"kind": kind, **header}, described, b"".join(one.tobytes() for _, one in arrays)).encoded():
            self._socket.sendall(part)
        prefix, payload, check = sizes(self._replies.read(PREFIX.size))
        return Frame.decoded(self._replies.read(prefix), self._replies.read(payload), check)

    def step(self, number: int, x: Any = X, y: Any = Y) -> Frame:
        return self.ask("step", ("x", x), ("y", y), number=number, learning_rate=None)


class Repository:
    """A repository whose versions are numbered by the number of steps."""

    def __init__(self, version: Callable[[int], int]) -> None:
        self.publisher: Any = self
        self._version = version

    def publish_once(self, model: str, file: Path, *, checkpoint: str, **options: Any) -> int:
        return self._version(int(checkpoint.removeprefix("step-")))


class Process:
    """The program in a folder, executed in this thread while a caller's thread talks to it."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.position = Position()
        self.niceness: list[int] = []
        self.said: Any = None
        # Not for the process of the tests.
        monkeypatch.setattr(session_main, "lower_priority", self.niceness.append)
        monkeypatch.setattr(session_main, "prepared", lambda folder, request: (model, layergraph.load_model(model), []))

    def serve(self, talk: Callable[[Caller], Any] | None = None, on_nan: str = "stop", **options: Any) -> RunResult:
        session = OnlineOptions(**{"idle_seconds": 30.0, **options})
        request = RunRequest("m", 4, (), kind=ONLINE, kind_options=asdict(session), on_nan=on_nan)
        opened = threading.Event()
        door = session_main.SessionSocket.open

        def open_door(self: Any) -> None:
            door(self)
            opened.set()

        def call() -> None:
            if opened.wait(30) and talk is not None:
                with closing(Caller(self.folder)) as caller:
                    self.said = talk(caller)

        thread = threading.Thread(target=call)
        thread.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session_main.SessionSocket, "open", open_door)
            try:
                return session_main.execute(self.folder, request, self.position)
            finally:
                opened.set()
                thread.join()

    def happened(self) -> list[events.What]:
        # Not the events in memory, where a step takes the place of the one before.
        return [event.what for event in EventLog(self.folder).refresh()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = layergraph.Input((3,), name="x")
    made = layergraph.Model(inputs, layers.Dense(1, name="y", kernel_initializer="ones")(inputs))
    made.compile("sgd", "mse", metrics=["mae"])
    path = tmp_path_factory.mktemp("base") / "model.keras"
    made.save(path)
    return path


@pytest.fixture
def process(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    handler = signal.getsignal(INTERRUPT)
    yield Process(tmp_path, model, monkeypatch)
    signal.signal(INTERRUPT, handler)


def drop_log(folder: Path) -> None:
    """Removes the log of steps, which isn't needed if a checkpoint has them all."""
    for path in (folder / STEPS).iterdir():
        path.unlink()


def test_requests_are_carried_out_until_the_end(process: Process) -> None:
    def talk(caller: Caller) -> Any:
        ready = caller.ask("attach", id=1)
        logs = caller.step(1).header
        tested = caller.ask("test", ("x", X), ("y", Y)).header
        predicted = caller.ask("predict", ("x", X))
        caller.ask("save")
        return ready.header, logs, tested, predicted, caller.ask("end").header

    result = process.serve(talk)
    ready, logs, tested, predicted, end = process.said
    assert ready == {
        "step": 0, "published": 0, "version": 0,
        "inputs": [["x", "float32", [None, 3]]], "outputs": [["y", "float32", [None, 1]]],
    }  # fmt: skip
    assert (logs["number"], logs["logs"]) == (1, {"loss": 9.0, "mae": 3.0})
    assert (tested["step"], tested["logs"].keys()) == (1, {"loss", "mae"})
    assert tested["logs"]["loss"] < 9.0
    assert (predicted.header["step"], [one.name for one in predicted.arrays]) == (1, ["y"])
    assert len(predicted.payload) == 2 * 4
    assert end == {"step": 1}
    assert (result.kind, result.step, result.logs) == ("trained", 1, logs["logs"])
    assert 0 < result.seconds < 60
    assert process.position == Position(1, 1)
    assert process.niceness == [10]
    assert not (process.folder / "session.sock").exists()
    assert process.happened() == [
        events.Log("from version 4, seed 0, threads 1"),
        events.Started(1, 0, 0),
        events.Step(1, 1, 1, 0, logs["logs"]),
    ]
    # What wasn't published is at the end.
    assert [step for step, _ in publications.pending(process.folder)] == [1]


def test_a_session_goes_on_where_it_was(process: Process) -> None:
    process.serve(lambda caller: [caller.step(1), caller.ask("end")], publish=False)
    assert publications.pending(process.folder) == []
    drop_log(process.folder)
    process.serve(lambda caller: [caller.ask("attach"), caller.step(2), caller.ask("end")], publish=False)
    assert [reply.header.get("step") for reply in process.said] == [1, None, 2]
    assert [event for event in process.happened() if isinstance(event, events.Resumed)] == [events.Resumed(1, 1)]


def test_steps_are_reported_now_and_then_and_the_last_one_at_the_end(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_main, "STEP_SECONDS", 1000.0)
    process.serve(lambda caller: [*(caller.step(number) for number in range(1, 5)), caller.ask("end")])
    assert [event.step for event in process.happened() if isinstance(event, events.Step)] == [1, 4]


def test_a_version_that_is_not_finite_is_left_out_and_said_so_once(process: Process, model: Path) -> None:
    """The session goes on; a call that asks for the version, and the end that publishes it, fail."""

    def talk(caller: Caller) -> Any:
        caller.step(1)
        caller.step(2, np.full((2, 3), np.inf, "float32"))
        return caller.step(3), caller.ask("publish"), caller.ask("attach", id=1)

    shutil.copytree(model.parent, process.folder / BASE)
    options = {"publish_every_steps": 1, "idle_seconds": 0.5}
    assert process.serve(talk, on_nan="continue", **options).kind == "failed", "no request came"
    stepped, published, attached = process.said
    text = "weight 'y/kernel' isn't finite: 3 of 3 values are NaN or infinite; so the model isn't published"
    assert (published.header["error"], published.header["text"]) == ("NotFiniteError", text)
    assert (stepped.header["number"], attached.header["step"]) == (3, 3)
    told = [event.text for event in process.happened() if isinstance(event, events.Log)]
    assert [one for one in told if "finite" in one] == [f"no version after step 2: {text}"]
    assert [step for step, _ in publications.pending(process.folder)] == [1]
    ControlFile(process.folder).set(stop=True)
    with pytest.raises(NotTrainableError, match="weight 'y/kernel' isn't finite"):
        process.serve(on_nan="continue")


def test_an_error_is_the_reply_of_its_request_and_ends_nothing(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk(caller: Caller) -> Any:
        caller.step(1)
        wrong = [
            caller.step(3),
            caller.step(2, np.full((2, 3), np.nan, "float32")),
            caller.step(2, np.ones((2, 7), "float32")),
            caller.step(2, y=np.ones((3, 1), "float32")),
        ]
        return wrong, caller.step(2), caller.ask("end")

    process.serve(talk)
    wrong, right, end = process.said
    assert [reply.header["error"] for reply in wrong] == [
        "InvalidRequestError", "InvalidRequestError", "InvalidTensorError", "InvalidTensorError",
    ]  # fmt: skip
    assert wrong[0].header["text"] == "step 3: expected number 2, after the last applied step"
    assert wrong[1].header["text"] == "step 2: the loss is nan, so the step is refused"
    assert (right.header["number"], end.header) == (2, {"step": 2})


@pytest.mark.parametrize("steps", [0, 2])
def test_a_session_without_requests_is_interrupted(process: Process, steps: int) -> None:
    result = process.serve(
        lambda caller: [caller.step(number) for number in range(1, steps + 1)] if steps else None, idle_seconds=0.5
    )
    reason = "the session got no request for 0.5 seconds"
    assert (result.kind, result.reason, result.step, result.resumable) == ("failed", reason, steps, True)
    assert publications.pending(process.folder) == []


def test_a_paused_session_keeps_its_steps(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_main, "LOOK_SECONDS", 0.01)

    def talk(caller: Caller) -> None:
        caller.step(1)
        ControlFile(process.folder).set(pause=True)

    with pytest.raises(Interruption):
        process.serve(talk)
    assert process.position == Position(1, 1)
    drop_log(process.folder)
    ControlFile(process.folder).set(pause=False)
    process.serve(lambda caller: [caller.ask("attach"), caller.ask("end")])
    assert process.said[0].header["step"] == 1


def test_a_session_that_a_call_ends_is_published(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_main, "LOOK_SECONDS", 0.01)

    def talk(caller: Caller) -> None:
        caller.step(1)
        ControlFile(process.folder).set(stop=True, why_stopped="its budget is spent")

    assert process.serve(talk).kind == "trained"
    assert [step for step, _ in publications.pending(process.folder)] == [1]
    assert process.happened()[-1] == events.Log("stopped early, after step 1: its budget is spent")


def test_a_published_version_is_reported_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_main, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(session_main, "CHECK_SECONDS", 0.01)
    server = publications.Publications(process.folder, RunRequest("m", 4, ()))

    def talk(caller: Caller) -> None:
        caller.step(1)
        assert caller.ask("publish").header == {"step": 1}
        server.publish(Repository(lambda step: 5))
        caller.step(2)
        caller.ask("end")

    process.serve(talk, publish=False)
    assert server.last == Published(1, 5)
    process.serve(lambda caller: [caller.ask("attach"), caller.ask("end")], publish=False)
    assert {name: process.said[0].header[name] for name in ("published", "version")} == {"published": 1, "version": 5}
    said = [event.text for event in process.happened() if isinstance(event, events.Log) and "published" in event.text]
    assert said == ["version 5 was published after step 1"]


def test_a_version_that_is_published_during_a_look_is_reported(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_main, "CHECK_SECONDS", 0.01)
    server = publications.Publications(process.folder, RunRequest("m", 4, ()))
    read = publications.read_published

    def read_late(folder: Path) -> Published | None:
        found = read(folder)
        server.publish(Repository(lambda step: 5))
        return found

    def talk(caller: Caller) -> None:
        caller.step(1)
        caller.ask("publish")
        monkeypatch.setattr(publications, "read_published", read_late)
        caller.step(2)
        caller.step(3)
        caller.ask("end")

    process.serve(talk, publish=False)
    said = [event.text for event in process.happened() if isinstance(event, events.Log) and "published" in event.text]
    assert said == ["version 5 was published after step 1"]


def test_a_version_that_was_pending_at_a_restart_is_reported(process: Process) -> None:
    """Also that of the first step: nothing has been published before it."""
    process.serve(lambda caller: [caller.step(1), caller.ask("publish"), caller.ask("end")], publish=False)

    def talk(caller: Caller) -> None:
        publications.Publications(process.folder, RunRequest("m", 4, ())).publish(Repository(lambda step: 5))
        caller.ask("attach")
        caller.ask("end")

    process.serve(talk, publish=False)
    said = [event.text for event in process.happened() if isinstance(event, events.Log) and "published" in event.text]
    assert said == ["version 5 was published after step 1"]


def test_a_session_waits_while_too_many_versions_are_to_be_published(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[int] = []
    server = publications.Publications(process.folder, RunRequest("m", 4, ()))

    def pause(self: Any, seconds: float) -> None:
        waited.append(len(publications.pending(process.folder)))
        server.publish(Repository(lambda step: step + 1))

    monkeypatch.setattr(session_main.SessionSocket, "pause", pause)
    process.serve(
        lambda caller: [*(caller.step(number) for number in range(1, 6)), caller.ask("end")],
        publish_every_steps=1,
        publish=False,
    )
    assert waited == [3]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (InvalidRequestError("no"), "InvalidRequestError", "no"),
        (
            NonFiniteWeightError("y/kernel", 7),
            "InvalidRequestError",
            "step 7: weight 'y/kernel' isn't finite after it, so it is refused",
        ),
        (
            NonFiniteLossError(float("inf"), 1, 7),
            "InvalidRequestError",
            "step 7: the loss is inf, so the step is refused",
        ),
        (DataError("x: got 3 rows"), "InvalidTensorError", "x: got 3 rows"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/secret/path"),
            "NotTrainableError",
            "the session's files can't be written: No space left on device",
        ),
        (OSError("odd"), "NotTrainableError", "the session's files can't be written: OSError"),
        (MemoryError(), "TooLargeError", "the batch takes more memory than there is"),
        (RuntimeError("size 3 and 4"), "InvalidRequestError", "the batch fails with RuntimeError: size 3 and 4"),
        (IndexError("5 is out"), "InvalidRequestError", "the batch fails with IndexError: 5 is out"),
        (KeyError("/secret/path"), "InvalidRequestError", "the batch fails with KeyError"),
    ],
)
def test_errors_reveal_what_is_the_callers(error: Exception, kind: str, text: str) -> None:
    refusal = session_main._refusal(error)
    assert (type(refusal).__name__, str(refusal)) == (kind, text)
