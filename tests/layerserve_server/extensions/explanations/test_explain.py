"""Explanations by a server: numbers, rights, limits and errors."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from image_files import encoded
from layergraph import Input, Model, layers
from layergraph.explaining.integrated_gradients import integrated_gradients
from layergraph.utils import set_random_seed
from layerserve import (
    Client,
    DeadlineExceeded,
    Explanation,
    Forbidden,
    InvalidArgument,
    InvalidTensor,
    LabelNotFound,
    MissingInput,
    ModelNotReady,
    Overloaded,
    TooLarge,
    UnknownInput,
    UnknownOutput,
)
from layerserve.cli.app import run
from layerserve_server.app import App
from layerserve_server.extensions.explanations import service
from layerserve_server.extensions.installed import Settings
from layerserve_server.jobs.jobs import Jobs
from shared_jobs import used
from tokens import write_tokens

RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, 6, 6, 3), "float32")
IDS = np.array([[1, 2, 3, 0], [4, 5, 0, 0]], "int32")


def pictures() -> Model:
    image = Input((6, 6, 3), name="image")
    h = layers.Conv2D(4, 3, activation="relu", name="conv")(image)
    return Model(image, layers.Dense(3, activation="softmax", name="class")(layers.Flatten()(h)))


def words() -> Model:
    ids = Input((4,), dtype="int32", name="ids")
    h = layers.LSTM(5, name="lstm")(layers.Embedding(8, 3, mask_zero=True, name="embedding")(ids))
    return Model(ids, {"a": layers.Dense(2, name="a")(h), "b": layers.Dense(1, name="b")(h)})


def wide() -> Model:
    """A model whose explanation of many rows in many steps takes minutes."""
    x = Input((1024,), name="x")
    h = x
    for _ in range(4):
        h = layers.Dense(1024, activation="relu")(h)
    return Model(x, layers.Dense(1, name="y")(h))


MAKERS = {"pictures": pictures, "words": words, "wide": wide}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    set_random_seed(1)
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture(scope="module")
def app(models, jobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name, model in models.items():
        path = folder / "models" / name / "1"
        path.mkdir(parents=True)
        model.save(path / "model.keras")
    (folder / "models" / "pictures" / "layerserve.toml").write_text('[inputs.image]\ndecode = "image"\n')
    tokens = write_tokens(
        folder / "tokens.toml",
        {
            "reader": 'rights = ["predict", "read"]',
            "caller": 'rights = ["predict"]',
            "third": 'rights = ["predict"]',
            "watcher": 'rights = ["read"]',
        },
    )
    settings = Settings(
        path=folder / "models", host="127.0.0.1", grpc_port=0, metrics_port=-1, drain_seconds=0, tokens=tokens
    )
    with used(jobs):
        started = App(settings)
    with started:
        yield started


@pytest.fixture(scope="module")
def connect(app):
    opened = []

    def client(token: str = "reader", **options) -> Client:
        made = Client(f"127.0.0.1:{app.grpc_port}", token=token, timeout=120, **options)
        opened.append(made)
        return made

    yield client
    for one in opened:
        one.close()


def test_attributions_are_those_of_the_graph_and_add_up(connect, models):
    client = connect()
    found = client.explain("pictures", IMAGES, [2, 0, 1], n_steps=20)
    expected = integrated_gradients(models["pictures"], {"image": IMAGES}, target=[[2], [0], [1]], n_steps=20)
    assert found.attributions.shape == IMAGES.shape
    np.testing.assert_allclose(found.attributions, expected.attributions["image"], atol=1e-6)
    predicted, black = client.predict("pictures", IMAGES), client.predict("pictures", 0 * IMAGES)
    at = np.arange(3), [2, 0, 1]
    np.testing.assert_allclose(found.outputs, predicted[at], atol=1e-6)
    np.testing.assert_allclose(found.baseline_outputs, black[at], atol=1e-6)
    difference = found.attributions.sum((1, 2, 3)) - (predicted - black)[at]
    np.testing.assert_allclose(difference, found.convergence_delta, atol=1e-6)
    assert np.abs(difference).max() < 1e-3


def test_ids_are_explained_by_the_output_of_their_embedding(connect, models):
    client = connect()
    found = client.explain("words", IDS, 1, output="a", to="embedding", n_steps=30)
    expected = integrated_gradients(models["words"], {"ids": IDS}, output="a", to=["embedding"], target=[1], n_steps=30)
    np.testing.assert_allclose(found.attributions, expected.attributions["embedding"], atol=1e-6)
    # Masked timesteps add nothing.
    assert (found.attributions[IDS == 0] == 0).all()
    assert np.abs(found.attributions[IDS != 0]).min() > 0
    assert np.abs(found.convergence_delta).max() < 1e-4
    listed = client.explain("words", IDS, output="b", to=["lstm:0:0"])
    assert [(name, array.shape) for name, array in listed.attributions.items()] == [("lstm:0:0", (2, 5))]
    assert (listed.tensors, listed.model, listed.version) == (("lstm:0:0",), "words", 1)


def test_images_in_bytes_are_decoded_and_baselines_have_one_row_or_all(connect):
    client = connect()
    image = encoded((6, 6))
    pixels = client.predict("pictures", [image], outputs="image")
    black = np.zeros((1, 6, 6, 3), "float32")
    by_bytes = client.explain("pictures", [image, image], 1, baselines=black + 7)
    by_pixels = client.explain("pictures", np.repeat(pixels, 2, 0), 1, baselines=np.repeat(black, 2, 0) + 7)
    assert by_bytes.attributions.tolist() == by_pixels.attributions.tolist()
    assert by_bytes.baseline_outputs.tolist() == pytest.approx(client.predict("pictures", [black[0] + 7] * 2)[:, 1])
    # An image is a baseline, too.
    itself = client.explain("pictures", [image], 1, baselines=[image])
    assert not itself.attributions.any()


REFUSED = [
    ("pictures", IMAGES, {}, InvalidArgument, r"target: got none, expected the element of output 'class'"),
    ("pictures", IMAGES, {"target": 3}, InvalidArgument, r"target: got \[3\], expected indices from 0 .* shape \(3,\)"),
    ("pictures", IMAGES, {"target": [0, 1]}, InvalidArgument, "got 2 indices, expected 1 for output 'class' .* or 3"),
    ("pictures", IMAGES, {"target": 0, "output": "clas"}, UnknownOutput, "clas"),
    ("pictures", IMAGES, {"target": 0, "to": "convolution"}, UnknownOutput, "convolution"),
    ("pictures", IMAGES, {"target": 0, "to": ["conv", "conv:0"]}, InvalidArgument, "'conv': got it under another name"),
    ("pictures", IMAGES, {"target": 0, "n_steps": 10001}, InvalidArgument, "steps: got 10001, expected at most 10000"),
    ("pictures", IMAGES[:, :5], {"target": 0}, InvalidTensor, "input 'image'"),
    ("pictures", IMAGES, {"target": 0, "baselines": IMAGES[:2]}, InvalidTensor, "got 2 rows, expected 1 or 3"),
    ("pictures", IMAGES, {"target": 0, "baselines": {"x": IMAGES}}, UnknownInput, "x"),
    ("words", IDS, {}, InvalidArgument, "output: got none, expected one of a, b"),
    (
        "words",
        IDS,
        {"output": "b"},
        InvalidArgument,
        "input 'ids': got int32, expected floats.* that an Embedding makes",
    ),
    ("words", IDS, {"output": "b", "to": ["embedding", "lstm"]}, InvalidArgument, "'embedding'.* but for the other"),
    ("words", {}, {"output": "b", "to": "lstm"}, MissingInput, "ids"),
    ("words", IDS, {"output": "lstm", "to": "a", "target": 0}, InvalidArgument, "output 'lstm' doesn't depend on it"),
    ("words", IDS, {"output": "b", "label": "stable", "to": "lstm"}, LabelNotFound, "stable"),
]


@pytest.mark.parametrize(("model", "inputs", "options", "error", "text"), REFUSED)
def test_what_cant_be_explained_is_told(connect, model, inputs, options, error, text):
    with pytest.raises(error, match=text):
        connect(retries=0).explain(model, inputs, **options)


def test_tensors_inside_of_the_graph_need_the_right_to_read(connect):
    caller = connect("caller", retries=0)
    assert caller.explain("pictures", IMAGES[:1], 0, n_steps=2).attributions.shape == (1, 6, 6, 3)
    for options in ({"to": "conv"}, {"output": "conv", "target": (0, 0, 0)}):
        with pytest.raises(Forbidden, match="read"):
            caller.explain("pictures", IMAGES[:1], **{"target": 0, **options})
    with pytest.raises(Forbidden, match="predict"):
        connect("watcher", retries=0).explain("pictures", IMAGES[:1], 0)


def test_rows_times_steps_are_limited(connect, monkeypatch):
    monkeypatch.setattr(service, "MAX_PASSES", 100)
    client = connect(retries=0)
    assert client.explain("pictures", IMAGES[:2], 0).attributions.shape[0] == 2
    with pytest.raises(TooLarge, match="got 3 rows and 50 steps, expected at most 2 rows"):
        client.explain("pictures", IMAGES, 0)


def test_a_caller_that_leaves_ends_the_work(connect, monkeypatch):
    explained, ended = service.explained, threading.Event()

    def noted(*arguments):
        try:
            return explained(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(service, "explained", noted)
    with pytest.raises(DeadlineExceeded):
        connect(retries=0).explain("wide", np.ones((1000, 1024), "float32"), n_steps=1000, timeout=3)
    assert ended.wait(30)


def test_a_few_are_computed_at_a_time(connect, monkeypatch):
    explained, began, may_go_on = service.explained, threading.Semaphore(0), threading.Event()

    def held(*arguments):
        began.release()
        assert may_go_on.wait(60)
        return explained(*arguments)

    monkeypatch.setattr(service, "explained", held)
    first, second, third = (connect(name, retries=0) for name in ("reader", "caller", "third"))
    with ThreadPoolExecutor() as pool:

        def begin(client: Client) -> Future[Explanation]:
            one = pool.submit(client.explain, "pictures", IMAGES, 0, n_steps=2)
            assert began.acquire(timeout=60)
            return one

        try:
            made = [begin(first)]
            # A caller leaves room for others.
            with pytest.raises(Overloaded, match="other outputs are being explained"):
                first.explain("pictures", IMAGES, 0)
            made.append(begin(second))
            with pytest.raises(Overloaded, match="other outputs are being explained"):
                third.explain("pictures", IMAGES, 0)
        finally:
            may_go_on.set()
        assert [one.result(120).outputs.shape for one in made] == [(3,)] * service.MAX_EXPLANATIONS


def test_memory_is_limited(connect, monkeypatch):
    limits = Jobs.limits
    monkeypatch.setattr(Jobs, "limits", lambda *of: replace(limits(*of), memory_bytes=16 << 20))
    client = connect(retries=0)
    with pytest.raises(TooLarge, match="explaining the output takes more than 16777216 bytes of memory"):
        client.explain("wide", np.ones((4096, 1024), "float32"), n_steps=100)
    monkeypatch.undo()
    assert client.explain("wide", np.ones((1, 1024), "float32"), n_steps=1).outputs.shape == (1,)


@pytest.fixture
def versions(models, jobs, tmp_path):
    """A server of a model with two versions, the second of which is the canary, and their files."""
    folder = tmp_path / "changed" / "m"
    files = {}
    for version, factor in ((1, 1.0), (2, 100.0)):
        x = Input((2,), name="x")
        files[version] = folder / str(version) / "model.keras"
        files[version].parent.mkdir(parents=True)
        Model(x, layers.Rescaling(factor, name="y")(layers.Reshape((2, 1))(x))).save(files[version])
    (folder / "layerserve.toml").write_text('default_version = 1\ncanary = "50 %"\n')
    (folder / "labels.json").write_text('{"canary": 2}')
    with used(jobs):
        app = App(Settings(path=folder.parent, host="127.0.0.1", grpc_port=0, metrics_port=-1, drain_seconds=0))
    with app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120, retries=0) as client:
        yield client, files


PAIR = np.array([[2.0, 3.0]], "float32")


def test_the_version_is_that_of_a_prediction_and_is_told(versions):
    client, _ = versions
    found = {key: client.explain("m", PAIR, (1, 0), n_steps=1, key=key) for key in "abcdef"}
    assert {one.version for one in found.values()} == {1, 2}
    for key, one in found.items():
        assert (
            one.outputs.tolist()
            == client.predict("m", PAIR, key=key)[:, 1, 0].tolist()
            == [3 * 100 ** (one.version - 1)]
        )
    assert client.explain("m", PAIR, (1, 0), n_steps=1, label="canary").version == 2


@pytest.mark.parametrize("moment", ["before", "meanwhile", "deleted"])
def test_a_file_that_changed_since_it_was_loaded_isnt_explained_as_the_version(versions, monkeypatch, moment):
    client, files = versions
    other = files[1].with_name("other")
    other.write_bytes(files[2].read_bytes())

    def change():
        files[1].unlink() if moment == "deleted" else other.rename(files[1])

    if moment == "meanwhile":
        explained = service.explained
        monkeypatch.setattr(service, "explained", lambda *of: (change(), explained(*of))[1])
    else:
        change()
    with pytest.raises(
        ModelNotReady, match=r"model 'm' version 1: its file (was replaced after|can't be read any more)"
    ):
        client.explain("m", PAIR, (1, 0), version=1)
    # What is loaded answers on, or what replaced it.
    assert client.predict("m", PAIR, version=1)[0, 1, 0] in (3, 300)


def test_a_version_that_is_deleted_meanwhile_is_explained_to_the_end(versions, monkeypatch):
    client, _ = versions
    explained, began, may_go_on = service.explained, threading.Event(), threading.Event()

    def held(*arguments):
        found = explained(*arguments)
        began.set()
        assert may_go_on.wait(60)
        return found

    monkeypatch.setattr(service, "explained", held)
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(client.explain, "m", PAIR, (1, 0), version=1)
        assert began.wait(60)
        client.delete_version("m", 1, force=True)
        may_go_on.set()
        assert (made.result(60).version, made.result().outputs.tolist()) == (1, [3])


def test_the_command_prints_and_writes_attributions(app, tmp_path, capsys):
    np.save(tmp_path / "ids.npy", IDS)
    of = ["--address", f"127.0.0.1:{app.grpc_port}", "--input", str(tmp_path / "ids.npy"), "--of", "a"]
    target = ["--target", "1", "--target", "0", "--to", "embedding", "--steps", "5"]
    written = str(tmp_path / "found.npy")
    assert run(["--token", "reader", "explain", "words", *of, *target, "--output", written]) == 0
    assert "attributions to embedding: float32 (2, 4, 3)" in capsys.readouterr().out
    assert run(["--token", "reader", "explain", "words", *of, *target, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(document["attributions"]["embedding"], np.load(written), atol=1e-6)
    assert document.keys() >= {"model", "version", "outputs", "baseline_outputs", "convergence_delta"}
    assert run(["--token", "reader", "explain", "words", *of, "--target", "one"]) == 1
    assert "--target: got one, expected indices" in capsys.readouterr().err
