"""Runs of scoring on a server: begun, followed and kept from others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layergraph import layers
from layerserve import (
    Client,
    DatasetNotFound,
    FailedPrecondition,
    Forbidden,
    InvalidArgument,
    MissingInput,
    ModelNotFound,
)
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.extensions.scoring import service
from shared_jobs import SharedJobs, used
from tokens import write_tokens

TOKENS = {
    "owner": "rights = ['predict', 'read', 'train']",
    "other": "rights = ['predict', 'read', 'train']",
    "trainer": "rights = ['train', 'read']",
    "predictor": "rights = ['predict', 'read']",
    "manager": "rights = ['manage']",
    "manager-of-m": "rights = ['read', 'train', 'manage']\nmodels = ['m']",
}


@pytest.fixture(scope="module", name="address")
def _address(tmp_path_factory: pytest.TempPathFactory, jobs: SharedJobs) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "models" / "m" / "1").mkdir(parents=True)
    x = layergraph.Input((3,), name="x")
    layergraph.Model(x, layers.Dense(2, name="y")(x)).save(folder / "models" / "m" / "1" / "model.keras")
    settings = Settings(
        path=folder / "models",
        host="127.0.0.1",
        grpc_port=0,
        metrics_port=-1,
        drain_seconds=0,
        training_nice=0,
        training_threads=1,
        tokens=write_tokens(folder / "tokens.toml", TOKENS),
    )
    with used(jobs):
        app = App(settings)
    with app:
        yield f"127.0.0.1:{app.grpc_port}"


@pytest.fixture(scope="module", name="client")
def _client(address: str) -> Iterator[Callable[[str], Client]]:
    """Clients of a server by token."""
    clients: dict[str, Client] = {}
    yield lambda name: clients.setdefault(name, Client(address, timeout=120, token=name))
    for one in clients.values():
        one.close()


@pytest.fixture(scope="module", name="dataset")
def _dataset(client: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    x = np.random.default_rng(0).random((20, 3), "float32")
    pq.write_table(pa.table({"key": np.arange(20), "x": list(x)}), path)
    return client("owner").datasets.upload(path)


def test_a_run_is_followed_and_its_result_downloaded_by_its_owner_only(
    client: Any, dataset: Any, tmp_path: Path
) -> None:
    owner, other = client("owner"), client("other")
    run = owner.score("m", dataset=dataset, columns=["key"])
    with pytest.raises(FailedPrecondition, match=f"run '{run.id}' uses it"):
        owner.datasets.delete(dataset.id)
    with pytest.raises(FailedPrecondition, match="of kind scoring, which can't be stopped early; cancel it instead"):
        run.stop()
    run.wait(timeout=200)
    info = run.info()
    assert (info.state, info.kind, info.version, info.logs) == (
        "finished",
        "scoring",
        None,
        {"rows": 20, "rejected": 0},
    )
    assert [one.name for one in run.files()] == ["scores.parquet", "scores.parquet.manifest.json"]
    made = pq.read_table(run.download("scores.parquet", tmp_path))
    assert made["key"].to_pylist() == list(range(20))
    x = np.random.default_rng(0).random((20, 3), "float32")
    np.testing.assert_allclose(made["y"].to_pylist(), owner.predict("m", x), rtol=1e-5, atol=1e-6)
    assert [one.id for one in owner.runs(kind="scoring")] == [run.id]
    seen = other.run(run.id)
    for refused in (seen.cancel, seen.pause, seen.delete, lambda: seen.download("scores.parquet", tmp_path)):
        with pytest.raises(Forbidden, match="it belongs to another caller"):
            refused()
    # The rows are of a dataset, which doesn't exist for who manages this model only.
    with pytest.raises(Forbidden, match="its files have rows of another caller's dataset"):
        client("manager-of-m").run(run.id).download("scores.parquet", tmp_path)
    (tmp_path / "all").mkdir()
    assert client("manager").run(run.id).download("scores.parquet", tmp_path / "all").exists()


def test_a_call_that_is_made_again_finds_its_run(client: Any, dataset: Any) -> None:
    owner, other = client("owner"), client("other")
    first = owner.score("m", dataset=dataset, columns=["key"], idempotency_key="nightly")
    for _ in range(2):
        assert owner.score("m", dataset=dataset, columns=["key"], idempotency_key="nightly").id == first.id
        first.wait(timeout=200)
    assert first.info().idempotency_key == "nightly"
    with pytest.raises(FailedPrecondition, match=f"the key of run '{first.id}', with another request; .* in columns$"):
        owner.score("m", dataset=dataset, idempotency_key="nightly")
    with pytest.raises(FailedPrecondition, match="with another request; it differs in kind"):
        owner.evaluate("m", np.ones((2, 3)), np.ones((2, 2)), loss="mse", idempotency_key="nightly")
    with pytest.raises(InvalidArgument, match="idempotency_key: got 'a b', expected 1 to 128 letters"):
        owner.score("m", dataset=dataset, idempotency_key="a b")
    # What didn't fit has begun nothing.
    with pytest.raises(InvalidArgument, match="'id' to keep is missing"):
        owner.score("m", dataset=dataset, columns=["id"], idempotency_key="weekly")
    second = owner.score("m", dataset=dataset, idempotency_key="weekly")
    assert second.id != first.id
    second.cancel()
    # Keys are each caller's own.
    with pytest.raises(DatasetNotFound):
        other.score("m", dataset=dataset, columns=["key"], idempotency_key="nightly")


def test_a_call_whose_connection_is_cut_begins_one_run(
    client: Any, dataset: Any, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = client("owner")
    known = {one.id for one in owner.runs()}
    relay = Relay(address)
    described = service.run_message
    cuts = []

    def cut_once(run: Any) -> Any:
        if not cuts:
            cuts.append(run.id)
            relay.cut()
        return described(run)

    monkeypatch.setattr(service, "run_message", cut_once)
    with closing(relay), Client(relay.address, timeout=120, token="owner") as through:
        run = through.score("m", dataset=dataset)
    assert [run.id] == cuts
    assert {one.id for one in owner.runs()} - known == {run.id}
    owner.run(run.id).cancel()


class Relay:
    """Forwards connections to a server until they are cut."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._server = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(self._server)
                self._open += [ours, theirs]
                for one, other in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    def _forward(self, one: socket.socket, other: socket.socket) -> None:
        with one, suppress(OSError):
            while content := one.recv(1 << 16):
                other.sendall(content)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Ends the connections that are open. Their threads close them."""
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends all connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()


def test_a_version_that_is_uploaded_during_a_run_is_not_in_its_result(
    client: Any, dataset: Any, tmp_path: Path
) -> None:
    owner, manager = client("owner"), client("manager")
    for number in (1, 2):
        x = layergraph.Input((3,), name="x")
        layergraph.Model(x, layers.Dense(2, name="y")(x)).save(tmp_path / f"{number}.keras")
    manager.upload("n", tmp_path / "1.keras")
    run = owner.score("n", dataset=dataset)
    manager.upload("n", tmp_path / "2.keras")
    manager.delete_version("n", 1)
    assert owner.model("n").version == 2
    run.wait(timeout=200)
    made = pq.read_table(run.download("scores.parquet", tmp_path))
    assert made.schema.metadata[b"layerserve.version"] == b"1"
    x = np.random.default_rng(0).random((20, 3), "float32")
    first = layergraph.load_model(tmp_path / "1.keras").predict(x)
    np.testing.assert_allclose(made["y"].to_pylist(), first, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_leaves_no_run(client: Any, dataset: Any) -> None:
    owner = client("owner")
    known = len(owner.runs())
    for error, text, arguments in (
        (MissingInput, "got the columns 'key', 'x', but model 'm' needs 'z'", {"input_columns": {"x": "z"}}),
        (InvalidArgument, "'id' to keep is missing", {"columns": ["id"]}),
        (InvalidArgument, "to: got '../x', expected the name of a file", {"to": "../x"}),
        (InvalidArgument, "to: got '.x', expected the name of a file", {"to": ".x"}),
        # Of 29 characters, but more bytes than a disk takes for the longest name of its parts.
        (InvalidArgument, "of 1 to 100 bytes in UTF-8", {"to": "\N{GRINNING FACE}" * 25 + ".csv"}),
        (DatasetNotFound, "no dataset", {"dataset": "0" * 64}),
    ):
        with pytest.raises(error, match=text):
            owner.score("m", **{"dataset": dataset} | arguments)
    with pytest.raises(ModelNotFound):
        owner.score("nope", dataset=dataset)
    assert len(owner.runs()) == known


def test_it_takes_both_rights_and_a_dataset_that_the_caller_sees(client: Any, dataset: Any) -> None:
    with pytest.raises(DatasetNotFound):
        client("other").score("m", dataset=dataset)
    with pytest.raises(Forbidden, match="caller 'trainer' has no right 'predict' on it"):
        client("trainer").score("m", dataset=dataset)
    with pytest.raises(Forbidden, match="caller 'predictor' has no right 'train'"):
        client("predictor").score("m", dataset=dataset)
