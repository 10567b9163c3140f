"""Pushing to the hub and to MLflow: the model, golden numbers of the server, and a card."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile

import numpy as np
import pytest
from fake_mlflow import MlflowException
from layerserve import TensorSpec
from layerserve.errors import InvalidArgument
from layerserve.registries.hub import Registry
from layerserve.registries.push import push

FILES = {"config.json": b"{}", "metadata.json": b'{"keras_version": "3.15.0"}', "model.weights.h5": b"weights"}


def zipped(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


@pytest.fixture
def keras_file(server):
    """The file of the model `double`."""
    server.models[0].file = zipped(FILES)
    return server.models[0].file


def golden(content):
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def check_golden(arrays):
    assert arrays["input/x"].shape == (2, 3)
    assert np.array_equal(arrays["output/y"], 2 * arrays["input/x"])
    assert (float(arrays["rtol"]), float(arrays["atol"])) == (1e-4, 1e-5)


def test_a_model_is_pushed_to_the_hub_as_keras_saves_it_there(client, hub, keras_file):
    pushed = push(client, "double", "hf://me/double")
    digest = hashlib.sha256(keras_file).hexdigest()
    assert (pushed.version, pushed.address, pushed.sha256) == (1, "hf://me/double@c1", digest)
    assert (hub.name, hub.private, hub.commits) == ("me/double", True, [("double version 1", None)])
    assert {path: hub.files[path] for path in FILES} == FILES
    assert hub.files.keys() - FILES.keys() == {"golden.npz", "README.md"}
    check_golden(golden(hub.files["golden.npz"]))
    card = hub.files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: keras\n")
    digests = {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}
    assert all(f"| `{path}` | {len(FILES[path])} | `{digest}` |" in card for path, digest in digests.items())
    for line in ("| input | `x` | (None, 3) | float32 |", f"`{digest}`", "layerserve serve hf://me/double\n"):
        assert line in card
    values = ", ".join(f"{value:.7g}" for value in golden(hub.files["golden.npz"])["output/y"].reshape(-1))
    assert f"| `y` | (2, 3) | {values} |" in card


def test_a_file_of_hdf5_is_pushed_as_it_is(hub, tmp_path):
    model = tmp_path / "served-3.h5"
    files = Registry("hf://me/iris").files(model, tmp_path / "golden.npz")
    assert files == {"iris.h5": model, "iris.golden.npz": tmp_path / "golden.npz"}
    assert Registry("hf://me/iris").files(model, None) == {"iris.h5": model}


def test_a_card_that_people_have_written_stays_and_other_models_go(client, server, hub, keras_file):
    hub.files = {
        "README.md": b"---\nlicense: mit\n---\nOurs.\n",
        "notes.txt": b"x",
        "assets/old.txt": b"x",
        "double.h5": b"x",
    }
    push(client, "double", "hf://me/double@dev")
    server.models[0].name = "two"
    first = hub.files["README.md"].decode()
    assert first.startswith("---\nlicense: mit\n---\nOurs.\n\n<!-- layerserve push: begin -->\n# double\n")
    assert hub.branches == ["dev"]
    assert hub.commits[0][1] == "dev"
    assert hub.files.keys() == {"README.md", "notes.txt", "golden.npz", *FILES}
    hub.files["README.md"] += b"\nMore of ours.\n"
    push(client, "two", "hf://me/double", version=1)
    second = hub.files["README.md"].decode()
    assert second.count("layerserve push: begin") == 1
    assert "\n# two\n" in second
    assert second.endswith("\nMore of ours.\n")


def test_a_model_is_pushed_to_mlflow_as_mlflow_logs_it(client, mlflow, keras_file):
    pushed = push(client, "double", "models:/mine@best", label="stable")
    assert pushed.address == "models:/mine/1"
    assert mlflow.aliases == {("mine", "best"): 1}
    place = mlflow.place("models:/mine/1")
    assert (place / "data" / "model.keras").read_bytes() == keras_file
    check_golden(golden((place / "golden.npz").read_bytes()))
    logged = mlflow.logged["mine", 1]
    assert json.loads((place / "MLmodel").read_text())["flavors"].keys() == {"keras", "python_function"}
    assert logged.signature == (
        [(np.dtype("float32"), (-1, 3), None)],
        [(np.dtype("float32"), (-1, 3), None)],
    )
    assert logged.metadata["layerserve"]["sha256"] == hashlib.sha256(keras_file).hexdigest()
    assert logged.description == (place / "README.md").read_text()
    assert "layerserve serve models:/mine@best\n" in logged.description
    assert push(client, "double", "models:/mine").address == "models:/mine/2"
    assert "layerserve serve models:/mine/latest\n" in mlflow.logged["mine", 2].description
    assert mlflow.aliases == {("mine", "best"): 1}


def test_models_that_have_no_random_rows_have_no_golden_numbers(client, server, hub, keras_file):
    text, number = TensorSpec("text", (None,), "string"), TensorSpec("image", (None, None, 3), "float32")
    server.add_model("texts", lambda a: {"y": a["text"]}, [text], [text], file=keras_file)

    def sized(arrays):
        if arrays["image"].shape[1] < 60:
            raise InvalidArgument("got 8 pixels, expected 60 or more")
        return {"image": arrays["image"]}

    server.add_model("images", sized, [number], [number], file=keras_file)
    push(client, "texts", "hf://me/texts")
    assert "golden.npz" not in hub.files
    assert "None: input 'text' takes text" in hub.files["README.md"].decode()
    push(client, "images", "hf://me/texts")
    assert golden(hub.files["golden.npz"])["input/image"].shape == (2, 64, 3)


def test_names_of_models_are_no_markdown(client, server, hub, keras_file):
    x, y = TensorSpec("a`|<b>\n# c", (None, 2), "float32"), TensorSpec("y", (None, 2), "float32")
    server.add_model("odd", lambda a: {"y": next(iter(a.values()))}, [x], [y], file=keras_file)
    push(client, "odd", "hf://me/odd")
    assert "| input | `a <b> # c` | (None, 2) | float32 |" in hub.files["README.md"].decode()


def test_a_file_that_is_damaged_or_leads_out_of_the_repository_is_refused(client, server, hub):
    for content, problem in ((zipped({"../evil": b"x"}), "has a file outside of it"), (b"x", "can't be unpacked")):
        server.models[0].file = content
        with pytest.raises(OSError, match=problem):
            push(client, "double", "hf://me/double")
    assert hub.files == {}


@pytest.mark.parametrize("to", ["s3://bucket/x", "hf://me", "hf://me/x/y", "models:/mine/3", "models:/", "mine"])
def test_other_addresses_are_refused(client, hub, mlflow, to):
    with pytest.raises(InvalidArgument, match=r"expected hf://USER/REPOSITORY|expected models:/NAME"):
        push(client, "double", to)


def test_the_command(cli, hub, mlflow, keras_file, monkeypatch):
    assert cli("push double hf://me/double") == (0, "double: version 1 is at hf://me/double@c1\n", "")
    digest = hashlib.sha256(keras_file).hexdigest()
    document = {"model": "double", "version": 1, "to": "models:/m/1", "sha256": digest}
    assert json.loads(cli("push double models:/m --json")[1]) == document
    hub.error = RuntimeError("403 Forbidden:\nno token")
    assert cli("push double hf://me/double") == (1, "", "layerserve: hf://me/double: 403 Forbidden: no token\n")
    mlflow.error = MlflowException("API request to http://me:secret@mlflow/api failed")
    line = "layerserve: models:/m: API request to http://mlflow/api failed\n"
    assert cli("push double models:/m") == (1, "", line)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "MLFLOW_TRACKING_URI isn't set" in cli("push double models:/m")[2]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    line = "layerserve: push to hf://me/x: requires huggingface_hub: pip install huggingface_hub\n"
    assert cli("push double hf://me/x") == (1, "", line)
