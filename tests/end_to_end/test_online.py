"""Online training through a server: Keras's numbers, and no step lost or applied twice, whatever is killed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import layergraph
import numpy as np
import pytest
from layergraph import layers
from layerserve import (
    AsyncClient,
    Checkpoints,
    Client,
    FailedPrecondition,
    InvalidArgument,
    InvalidTensor,
    NotCompiled,
    Overloaded,
    Publish,
    RunNotFound,
    ServerFile,
    TakenOver,
    UnknownInput,
)
from layerserve.v1 import online_pb2 as pb
from layerserve.v1 import online_pb2_grpc
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from small_runs import assert_bit_for_bit, kill_training, training_processes, weights

RNG = np.random.default_rng(6)
X = RNG.standard_normal((40, 3)).astype("f4")
Y = RNG.integers(0, 2, (40, 1)).astype("f4")
TEXT = np.array(["red", "green", "blue", "?"] * 10, object)


def settings(repository: Path, **changes: Any) -> Settings:
    given = {
        "path": repository,
        "host": "127.0.0.1",
        "grpc_port": 0,
        "metrics_port": -1,
        "poll_seconds": 0.1,
        # Training would pause while other tests need the cores.
        "training_nice": 0,
    }
    return Settings(**{**given, **changes})


def save_numbers(folder: Path) -> None:
    inputs = layergraph.Input((3,), name="x")
    x = layers.BatchNormalization()(layers.Dense(4, activation="tanh")(inputs))
    model = layergraph.Model(inputs, layers.Dense(1, activation="sigmoid", name="y")(x))
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    save(model, folder / "numbers")


def save(model: layergraph.Model, folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    model.save(folder / "1" / "model.keras")


@pytest.fixture(name="repository", scope="module")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("online")
    save_numbers(folder)
    word, number = layergraph.Input((), dtype="string", name="word"), layergraph.Input((3,), name="number")
    ids = layers.StringLookup(vocabulary=["red", "green", "blue"])(word)
    x = layers.concatenate([layers.Flatten()(layers.Embedding(4, 2)(ids)), number])
    heads = [layers.Dense(1, name="left")(x), layers.Dense(2, activation="softmax", name="right")(x)]
    save(layergraph.Model([word, number], heads), folder / "words")
    return folder


class Server:
    """A server that can be stopped and started again on its port."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self.port = 0
        self.start()

    def start(self) -> None:
        self.app = App(settings(self._repository, grpc_port=self.port))
        self.app.start()
        self.port = self.app.grpc_port


@pytest.fixture(name="server", scope="module")
def _server(repository: Path) -> Iterator[Server]:
    server = Server(repository)
    yield server
    server.app.stop()


@pytest.fixture(name="client", scope="module")
def _client(server: Server) -> Iterator[Client]:
    with Client(f"127.0.0.1:{server.port}", timeout=60) as client:
        yield client


def batch(number: int) -> tuple[Any, Any]:
    """The batch of a step, counted from 1."""
    start = 4 * ((number - 1) % 10)
    return X[start : start + 4], Y[start : start + 4]


def own_loop(repository: Path, steps: int) -> tuple[list[dict[str, float]], list[np.ndarray]]:
    """Logs and weights of the same steps in this process."""
    model = layergraph.load_model(repository / "numbers" / "1" / "model.keras")
    logs = [model.train_on_batch(*batch(number), return_dict=True) for number in range(1, steps + 1)]
    return logs, model.get_weights()


def published(repository: Path, run: str) -> list[int]:
    """The steps of the versions that a session has published, in the order of their numbers."""
    from layerserve_server.repository.publishing import read_manifest, version_numbers

    manifests = [
        read_manifest(repository / "numbers" / str(version))
        for version in sorted(version_numbers(repository / "numbers"))
    ]
    return [int(one["checkpoint"].removeprefix("step-")) for one in manifests if one.get("run") == run]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_steps_are_those_of_a_loop_in_one_process(client: Client, repository: Path) -> None:
    logs = []
    with client.online.session("numbers", version=1, publish_every_steps=5, publish=Publish(label="live")) as session:
        for number in range(1, 13):
            logs.append(session.train_on_batch(*batch(number)))
            if number == 7:
                tested = session.test_on_batch(*batch(7))
                assert session.predict_on_batch(X).shape == (40, 1)
                assert (session.save(), session.step) == (7, 7)
                early = session.publish()
                assert session.publish() == early == session.version
                np.testing.assert_array_equal(session.predict_on_batch(X), client.predict("numbers", X, label="live"))
    expected, final = own_loop(repository, 12)
    assert logs == expected
    assert tested["loss"] != logs[6]["loss"]
    assert published(repository, session.id) == [5, 7, 10, 12]
    assert_bit_for_bit(weights(repository, "numbers", session.version), final)
    assert_bit_for_bit(weights(repository, "numbers", early), own_loop(repository, 7)[1])
    info = client.run(session.id).info()
    assert (info.kind, info.state, info.version) == ("online", "finished", session.version)
    with (
        pytest.raises(FailedPrecondition, match="has ended"),
        client.online.session("numbers", session=session.id) as s,
    ):
        s.train_on_batch(*batch(1))


def test_a_killed_process_goes_on_without_its_client(client: Client, repository: Path) -> None:
    with client.online.session(
        "numbers", version=1, publish_every_steps=4, checkpoints=Checkpoints(resume_seconds=0.05)
    ) as session:
        logs = []
        for number in range(1, 13):
            if number in (3, 9):
                kill_training()
            logs.append(session.train_on_batch(*batch(number)))
    expected, final = own_loop(repository, 12)
    assert logs == expected
    assert published(repository, session.id) == [4, 8, 12]
    assert_bit_for_bit(weights(repository, "numbers", session.version), final)
    assert client.run(session.id).info().resumed == 2


def test_a_session_goes_on_when_its_server_is_back(server: Server, client: Client, repository: Path) -> None:
    with client.online.session("numbers", version=1, publish_every_steps=5) as session:
        logs = [session.train_on_batch(*batch(number)) for number in range(1, 8)]
        began = time.monotonic()
        server.app.stop(grace=60.0)
        assert time.monotonic() - began < 30, "an open session isn't waited for"
        assert not training_processes(os.getpid()), "the session was interrupted"
        server.start()
        logs += [session.train_on_batch(*batch(number)) for number in range(8, 13)]
    with client.online.session("numbers", session=session.id) as again:
        assert (again.step, again.version) == (12, session.version)
    expected, final = own_loop(repository, 12)
    assert logs == expected
    assert published(repository, session.id) == [5, 10, 12]
    assert_bit_for_bit(weights(repository, "numbers", session.version), final)


def test_several_inputs_outputs_text_and_weights(client: Client) -> None:
    targets = {"left": X[:, :1], "right": Y[:, 0]}
    weight = {"left": np.ones(40, "f4"), "right": np.linspace(0, 1, 40).astype("f4")}
    options = {
        "optimizer": "sgd",
        "loss": {"left": "mse", "right": "sparse_categorical_crossentropy"},
        "metrics": {"left": ["mae"]},
        "weighted_metrics": {"right": ["accuracy"]},
    }
    with pytest.raises(NotCompiled), client.online.session("words"):
        pass
    with client.online.session("words", **options, replay_steps=2, replay_share=0.5) as session:
        logs = session.train_on_batch({"word": TEXT, "number": X}, targets, weight)
        assert set(logs) == {"loss", "left_loss", "right_loss", "left_mae", "right_accuracy"}
        session.train_on_batch({"word": TEXT[:5], "number": X[:5]}, {k: v[:5] for k, v in targets.items()})
        outputs = session.predict_on_batch([TEXT[:2], X[:2]])
        assert {name: array.shape for name, array in outputs.items()} == {"left": (2, 1), "right": (2, 2)}


def test_what_does_not_fit_is_refused_and_ends_nothing(client: Client) -> None:
    for wrong, text in (
        ({"replay_share": 17}, "replay_share: got 17"),
        ({"publish_every_steps": -1}, "publish_every_steps: got -1"),
        ({"idle_seconds": 1000}, "idle_seconds: got 1000, expected at most 300, the server's setting"),
        ({"loss": "mst"}, "did you mean"),
        ({"freeze": ["nothing*"]}, "nothing"),
    ):
        with pytest.raises(InvalidArgument, match=text), client.online.session("numbers", **wrong):
            pass
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        client.online.session("numbers", epochs=2)
    with pytest.raises(TypeError, match="for a session that exists"):
        client.online.session("numbers", session="20260101-0000-00000000", seed=1)
    with pytest.raises(RunNotFound), client.online.session("numbers", session="20260101-0000-00000000"):
        pass
    run = client.train("numbers", X, Y, epochs=1, publish=False).wait()
    with pytest.raises(InvalidArgument, match="is no session"), client.online.session("numbers", session=run.id):
        pass
    x, y = batch(1)
    with client.online.session("numbers", version=1, publish=False) as session:
        before = session.predict_on_batch(X)
        for given, error in (
            ((x[:, :2], y), InvalidTensor),
            ((x, y[:3]), InvalidArgument),
            (({"z": x}, y), UnknownInput),
            ((x, np.array([b"a"] * 4, object)), InvalidTensor),
            ((np.full_like(x, np.inf), y), InvalidArgument),
            ((ServerFile("x.npy"), ServerFile("y.npy")), InvalidArgument),
        ):
            with pytest.raises(error):
                session.train_on_batch(*given)
        assert session.step == 0
        np.testing.assert_array_equal(session.predict_on_batch(X), before)
        assert session.publish() is None
        session.train_on_batch(x, y)
    assert (session.step, session.version) == (1, None)


def test_a_second_client_takes_a_session_over(client: Client) -> None:
    with client.online.session("numbers", publish=False) as first:
        first.train_on_batch(*batch(1))
        with client.online.session("numbers", session=first.id) as second:
            assert second.step == 1
            second.train_on_batch(*batch(2))
            with pytest.raises(TakenOver):
                first.train_on_batch(*batch(2))
            second.detach()
        with client.online.session("numbers", session=first.id) as third:
            assert third.step == 2
        with pytest.raises(FailedPrecondition, match="has ended"):
            first.train_on_batch(*batch(3))


def test_sessions_are_counted_cancelled_and_left(client: Client) -> None:
    left = client.online.session("numbers")
    with pytest.raises(InvalidTensor), left:
        left.train_on_batch(X[:4, :2], Y[:4])
    other = client.online.session("numbers").__enter__()
    with pytest.raises(Overloaded, match="2 sessions of online training are open"), client.online.session("numbers"):
        pass
    client.run(other.id).cancel()
    with pytest.raises(FailedPrecondition, match="was cancelled"):
        other.train_on_batch(*batch(1))
    with client.online.session("numbers", session=left.id) as again:
        assert again.id == left.id
        assert {run.id for run in client.runs("numbers") if run.state == "running"} == {left.id}


def test_a_session_is_paused_and_ended_by_calls(client: Client, repository: Path) -> None:
    with client.online.session("numbers", version=1) as session:
        session.train_on_batch(*batch(1))
        run = client.run(session.id)
        run.pause()
        wait_until(lambda: run.info().state == "paused")
        with pytest.raises(FailedPrecondition, match="was paused; resume it"):
            session.train_on_batch(*batch(2))
        with client.online.session("numbers", session=session.id) as again:
            again.train_on_batch(*batch(2))
            run.stop()
            wait_until(lambda: run.info().state == "finished")
            assert again.finish() == run.info().version
    assert published(repository, session.id) == [2]


def test_an_idle_session_is_interrupted_and_goes_on(client: Client, server: Server) -> None:
    with client.online.session("numbers", idle_seconds=0.3, publish=False) as session:
        session.train_on_batch(*batch(1))
        wait_until(lambda: server.app.runs.table.get(session.id).log.ended)
        run = client.run(session.id).info()
        assert (run.resumable, run.reason) == (True, "the session got no request for 0.3 seconds")
        session.train_on_batch(*batch(2))
        assert session.step == 2


def test_an_asyncio_client_trains_two_sessions_at_once(server: Server, repository: Path) -> None:
    async def train(client: AsyncClient) -> list[dict[str, float]]:
        async with client.online.session("numbers", version=1, publish=False) as session:
            return [await session.train_on_batch(*batch(number)) for number in range(1, 6)]

    async def both() -> list[list[dict[str, float]]]:
        async with AsyncClient(f"127.0.0.1:{server.port}", timeout=60) as client:
            return await asyncio.gather(train(client), train(client))

    assert asyncio.run(both()) == [own_loop(repository, 5)[0]] * 2


def test_requests_are_answered_in_order(server: Server) -> None:
    """A client that doesn't wait for replies; what is wrong with one request ends nothing."""
    x, y = batch(1)
    tensors = {
        "x": [pb.OnlineStep().x.add(dtype=11, shape=x.shape, data=x.tobytes())],
        "y": [pb.OnlineStep().y.add(dtype=11, shape=y.shape, data=y.tobytes())],
    }
    wrong = pb.OnlineStep(number=3, x=tensors["x"], y=[pb.OnlineStep().y.add(dtype=11, shape=[2**60] * 3, data=b"")])
    requests = [
        pb.TrainOnlineRequest(id=1, spec=pb.OnlineSpec(model=ModelSpec(name="numbers"), publish=False)),
        pb.TrainOnlineRequest(id=2, step=pb.OnlineStep(number=1, **tensors)),
        pb.TrainOnlineRequest(id=3, step=pb.OnlineStep(number=1, **tensors)),
        pb.TrainOnlineRequest(id=4, step=pb.OnlineStep(number=9, **tensors)),
        pb.TrainOnlineRequest(id=5, step=wrong),
        pb.TrainOnlineRequest(id=6),
        pb.TrainOnlineRequest(id=7, step=pb.OnlineStep(number=2, **tensors)),
        pb.TrainOnlineRequest(id=8, publish=pb.OnlinePublish()),
        pb.TrainOnlineRequest(id=9, end=pb.OnlineEnd()),
        # The stream ends with the session: what comes after has no reply.
        pb.TrainOnlineRequest(id=10, publish=pb.OnlinePublish()),
        pb.TrainOnlineRequest(id=11),
    ]
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = online_pb2_grpc.OnlineTrainingServiceStub(channel)
        replies = list(stub.TrainOnline(iter(requests), timeout=60))
        with pytest.raises(grpc.RpcError) as refused:
            list(stub.TrainOnline(iter(requests[1:2]), timeout=60))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    kinds = [(reply.id, reply.WhichOneof("part")) for reply in replies]
    assert kinds == [
        (1, "accepted"),
        (1, "ready"),
        (2, "stepped"),
        (3, "stepped"),
        (4, "error"),
        (5, "error"),
        (6, "error"),
        (7, "stepped"),
        (8, "published"),
        (9, "ended"),
    ]
    assert replies[2].stepped == replies[3].stepped
    assert "expected number 2" in replies[4].error.message
    assert replies[9].ended.step == 2


def test_a_client_that_reads_nothing_stops_nothing(server: Server, client: Client) -> None:
    """Its stream waits; the session's process, the server and other sessions go on."""
    reading = threading.Event()

    def requests() -> Iterator[pb.TrainOnlineRequest]:
        yield pb.TrainOnlineRequest(id=1, spec=pb.OnlineSpec(model=ModelSpec(name="numbers"), publish=False))
        many = np.zeros((20_000, 3), "f4")
        for number in range(2, 40):
            tensor = pb.OnlinePredict().x.add(dtype=11, shape=many.shape, data=many.tobytes())
            yield pb.TrainOnlineRequest(id=number, predict=pb.OnlinePredict(x=[tensor]))
        reading.wait(60)
        yield pb.TrainOnlineRequest(id=40, end=pb.OnlineEnd())

    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = online_pb2_grpc.OnlineTrainingServiceStub(channel).TrainOnline(requests(), timeout=60)
        with client.online.session("numbers", publish=False) as other:
            for number in range(1, 4):
                other.train_on_batch(*batch(number))
        reading.set()
        assert [reply.id for reply in call] == [1, *range(1, 41)]
