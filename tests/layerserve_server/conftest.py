"""A model to serve that needs no engine, and servers in this process."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
from echo_servers import SERVERS, Echo, Observer, server_of
from http_calls import Http
from inference_stub import TRANSPORTS, Stub
from layergraph.errors import ConfigError, CorruptFileError, DataError, ShapeError, UnknownTensorError
from layergraph.exporting.signature import Signature
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.jobs import failures, jobs
from layerserve_server.jobs.channel import never
from layerserve_server.jobs.fork_server import ForkServer
from layerserve_server.jobs.forked_process import ForkedProcess
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.jobs.table import Job
from layerserve_server.wiring import JOB_MODULES
from some_limits import some_limits


@dataclass(frozen=True)
class Spec:
    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass
class FakeModel:
    """Doubles its input `x` and adds `offset`; refuses a row whose first number is negative."""

    offset: float = 0.0
    #: The shape of a row of `x`.
    row: Sequence[int | None] = (2,)
    input_specs: Sequence[Spec] = (Spec("x", (None, 2), "float32"),)
    output_specs: Sequence[Spec] = (Spec("y", (None, 2), "float32"),)
    batched: bool = True
    compiled: bool = False
    keras_version: str | None = "3.15.1"
    engines: Sequence[Any] = ()
    signatures: Mapping[str, Any] = field(
        default_factory=lambda: {"serving_default": Signature(("x",), ("output_0",), ("x",))}
    )
    #: Set while batches may run.
    gate: threading.Event = field(default_factory=threading.Event)
    #: Rows of each batch that began, and of each that ran.
    begun: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    #: What it was compiled with.
    compile_config: dict[str, Any] | None = None
    compile_problem: str = ""
    optimizer: Any = None

    def __post_init__(self) -> None:
        self.gate.set()
        if tuple(self.row) != (2,):
            self.input_specs = (Spec("x", (None, *self.row), "float32"),)

    def plan(self, outputs: Sequence[str] | None = None) -> FakePlan:
        names = tuple(outputs or ("y",))
        for name in names:
            if name not in ("y", "hidden"):
                raise UnknownTensorError(f"unknown tensor '{name}'; known: y, hidden")
        return FakePlan(self, names)

    def count_params(self) -> int:
        return 3

    def compile(self, **settings: Any) -> None:
        if settings["loss"] != "mse":
            raise ConfigError(f"unknown loss {settings['loss']!r}; did you mean 'mse'?")
        self.compile_config, self.compiled = settings, True

    def saved_format(self, name: str) -> None:
        """Any will do."""

    def log_direction(self, name: str) -> str:
        return "down"

    def fit(self, x: Any, y: Any, **options: Any) -> SimpleNamespace:
        if y["y"].shape[1:] != (2,):
            raise ShapeError("y 'y'", y["y"].shape, "(rows, 2)")
        return SimpleNamespace(history={"loss": [0.5]})

    def evaluate(self, x: Any, y: Any, **options: Any) -> None:
        self.fit(x, y, **options)

    def node_table(self) -> Sequence[Any]:
        return ()

    def output_nodes(self) -> Sequence[Any]:
        return ()


@dataclass
class FakePlan:
    model: FakeModel
    names: tuple[str, ...]

    @property
    def batched(self) -> bool:
        return self.model.batched

    @property
    def input_specs(self) -> Sequence[Spec]:
        return self.model.input_specs

    @property
    def output_specs(self) -> Sequence[Spec]:
        return tuple(Spec(name, (None, 2), "float32") for name in self.names)

    def tune(self, **options: Any) -> Any:
        raise AssertionError("tests of the server set `tuning_seconds` to 0")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = inputs["x"]
        self.model.begun.append(len(x))
        assert self.model.gate.wait(30)
        self.model.batches.append(len(x))
        if (x[..., 0] < 0).any():
            raise DataError(f"input 'x': got id {x[..., 0].min():g}, expected 0 or more")
        y = x * 2 + self.model.offset
        return {name: y if name == "y" else y + 100 for name in self.names}


def read_fake(path: Path, settings: object = None) -> FakeModel:
    """A 'model file' is JSON with the fake model's fields. The settings of the model are ignored."""
    try:
        return FakeModel(**json.loads(path.read_text()))
    except ValueError as error:
        raise CorruptFileError(path, "the file is truncated") from error


#: Modules of jobs: in a child that takes too much memory they can't be imported any more.
READERS = JOB_MODULES


class JobsHere(Jobs):
    """Tries requests in this process, where fake models are known, and forks fake training processes.

    What reads files and bodies is shared with other servers, and stays when one of them is closed.
    """

    def __init__(self, trainers: ForkServer, readers: ForkServer) -> None:
        super().__init__()
        self._trainers, self._cold = trainers, readers

    def fork(self, function: str, arguments: Mapping[str, Any]) -> ForkedProcess | None:
        with self._trainers.connection(None) as channel:
            channel.send({"function": "__main__:carry_out", "arguments": arguments})
            return ForkedProcess(channel)

    def close(self) -> None:
        self._warm.close()

    def run(
        self,
        job: Job,
        arguments: Mapping[str, Any],
        limits: JobLimits,
        gone: Callable[[], bool] = never,
        what: str = "",
    ) -> dict[str, Any]:
        if not job.queued:
            return super().run(job, arguments, limits, gone, what)
        function = getattr(importlib.import_module(job.module), job.function.partition(":")[2])
        try:
            reply: dict[str, Any] = function(json.loads(json.dumps(arguments)), None)
        except Exception as error:
            reply = failures.reply_of(error)
        failures.check(reply, job, what or job.what)
        return reply


@pytest.fixture
def load_fake() -> Callable[[Path], FakeModel]:
    """The loader of fake models."""
    return read_fake


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Puts a version of a fake model into the repository `tmp_path / "models"`, by rename."""

    def put_version(name: str = "double", version: int | str = 1, text: str | None = None, **fields: Any) -> Path:
        folder = tmp_path / "models" / name / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        written = tmp_path / "being_written"
        written.write_text(json.dumps(fields) if text is None else text)
        return written.rename(folder / "model.keras")

    return put_version


def local_settings(path: Path, **changes: Any) -> Settings:
    """Settings for a test: any free ports, and polls that come only when a test scans."""
    defaults = {"host": "127.0.0.1", "grpc_port": 0, "metrics_port": -1, "poll_seconds": 3600, "rpc_threads": 40}
    return Settings(path=path, **{**defaults, **changes})


@pytest.fixture(scope="session")
def trainers() -> Iterator[ForkServer]:
    """Forks the processes of `fake_trainer`: imports would take most of their time."""
    server = ForkServer("")
    server._command = [sys.executable, str(Path(__file__).with_name("fake_trainer.py"))]
    yield server
    server.close()


@pytest.fixture(scope="session")
def readers() -> Iterator[ForkServer]:
    """Forks what reads files and long bodies."""
    server = ForkServer(jobs.PROGRAM, ["cold", "inf", *READERS])
    yield server
    server.close()


@pytest.fixture
def make_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainers: ForkServer, readers: ForkServer
) -> Iterator[Callable[..., App]]:
    """Servers of the repository that have yet to be started, with the fake loader unless told otherwise."""
    apps = []

    def make_app(path: Path | None = None, load: Any = read_fake, **changes: Any) -> App:
        monkeypatch.setattr("layerserve_server.training.model.load_trainable", load)
        monkeypatch.setattr("layerserve_server.training.process.training_process.CHECK_SECONDS", 0.005)
        app = App(local_settings(path or tmp_path / "models", **changes), load, JobsHere(trainers, readers))
        apps.append(app)
        return app

    yield make_app
    for app in apps:
        app.stop()


@pytest.fixture
def start(make_server: Callable[..., App]) -> Callable[..., App]:
    """Starts servers of the repository."""

    def start_app(*arguments: Any, **options: Any) -> App:
        app = make_server(*arguments, **options)
        app.start()
        return app

    return start_app


@pytest.fixture
def serve(put: Any, start: Callable[..., App]) -> Iterator[Callable[..., tuple[App, Http]]]:
    """Starts servers of a fake model with a port for HTTP, and connects to it."""
    connections = []

    def serve_double(
        *, transport: str = "grpcio", fields: Mapping[str, Any] | None = None, **settings: Any
    ) -> tuple[App, Http]:
        put("double", **(fields or {}))
        app = start(transport=transport, http_port=0, **settings)
        connection = Http(app.http_port)
        connections.append(connection)
        return app, connection

    yield serve_double
    for connection in connections:
        connection.close()


@pytest.fixture(params=TRANSPORTS)
def serve_infer(
    request: pytest.FixtureRequest, put: Any, start: Callable[..., App], connect: Callable[[App], grpc.Channel]
) -> Callable[..., tuple[App, Stub]]:
    """Starts servers of a fake model with each transport, and calls them by the Open Inference Protocol."""

    def serve_double(**settings: Any) -> tuple[App, Stub]:
        put("double")
        app = start(transport=request.param, **settings)
        return app, Stub(connect(app))

    return serve_double


@dataclass
class Held:
    """Something that waits, when it is called, until it may go on."""

    does: Callable[..., Any]
    called: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)

    def __call__(self, *arguments: Any) -> Any:
        self.called.set()
        assert self.may_go_on.wait(30)
        return self.does(*arguments)


@pytest.fixture
def starting() -> Callable[[App, Held], AbstractContextManager[Callable[[], None]]]:
    """Starts a server in a thread, up to where it is held; gives what lets it go on, and waits until it serves."""

    @contextmanager
    def start_in_thread(app: App, held: Held) -> Iterator[Callable[[], None]]:
        thread = threading.Thread(target=app.start)

        def finish() -> None:
            held.may_go_on.set()
            thread.join()

        thread.start()
        try:
            assert held.called.wait(30)
            yield finish
        finally:
            finish()

    return start_in_thread


@pytest.fixture
def hold() -> type[Held]:
    """Holds a function up."""
    return Held


@pytest.fixture
def connect() -> Iterator[Callable[[App], grpc.Channel]]:
    """Channels to servers."""
    channels = []

    def connect_to(app: App) -> grpc.Channel:
        channel = grpc.insecure_channel(
            f"127.0.0.1:{app.grpc_port}", options=[("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
        )
        channels.append(channel)
        return channel

    yield connect_to
    for channel in channels:
        channel.close()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Any]], None]:
    """Looks until something that has been asked for has happened."""

    def wait(condition: Callable[[], Any]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.002)

    return wait


@pytest.fixture(params=SERVERS)
def serve_echo(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Any]]:
    """Starts a server of tests.echo_servers; gives its service, its observer, itself and a channel to it."""
    stops: list[Callable[[], Any]] = []

    def start(limits: Mapping[str, Any] | None = None, **options: Any) -> Any:
        echo, observer = Echo(), Observer()
        given = {"max_message_bytes": 10_000, "rpc_threads": 4, "max_streams": 4, "max_calls": 100, **(limits or {})}
        server = server_of(request.param, echo.routes(), some_limits(**given), observer, **options)
        server.start()
        channel = grpc.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.enable_retries", 0)])
        stops.extend([channel.close, lambda: server.stop(0)])
        return echo, observer, server, channel

    yield start
    for stop in reversed(stops):
        stop()
    # What goes wrong in an event loop or in the thread that polls costs no call, and is only in the log.
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    ours = [record.getMessage() for record in errors if record.name.startswith(("layerserve", "asyncio"))]
    assert [text for text in ours if not text.startswith("internal error in ")] == []


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has HDF5 do what `faulty_importer` lists, in processes that are started afterwards."""

    def use(fault: str) -> None:
        support = Path(__file__).parents[1] / "support"
        monkeypatch.setattr(jobs, "PROGRAM", "faulty_importer")
        monkeypatch.setenv("FAULT", fault)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(support), *filter(None, [os.environ.get("PYTHONPATH")])]))

    return use
