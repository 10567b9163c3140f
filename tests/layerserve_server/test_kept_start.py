"""A server that is started again answers Predict before torch is imported; what needs torch waits for it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from kept_engines import keep_engines
from layergraph import Input, Model, golden, layers
from layerserve_server.extensions.installed import Settings

pytest.importorskip("onnxruntime")

Said: TypeAlias = tuple[dict[str, Any], str]

ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
#: Copies of the model, each of which is asked for something that needs all of it.
COPIES = ("together", "queued", "inner")

#: What the program begins with.
SERVER = """
import json, logging, sys, time
from pathlib import Path
import numpy as np
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

logging.basicConfig(level=logging.INFO)
folder = Path(sys.argv[1])
settings = Settings(
    path=folder / "models", state=folder / "state", host="127.0.0.1", grpc_port=0, http_port=-1, metrics_port=-1,
    tuning_seconds=2.0, poll_seconds=0.1, training_slots=0,
)
said = {}
rows = np.load(folder / "rows.npy")
def bits(results):
    return np.asarray(results).tobytes().hex()
def model(name):
    found = client.models(name)[0]
    nodes = list(client.node_shapes(name))
    return str(found.inputs) + str(found.outputs) + str(nodes)
def wait(condition):
    until = time.monotonic() + 120
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
"""

#: Asks each copy of the model for what it is called.
AGAIN = """
with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as client:
    names = ("m", "together", "queued", "inner")
    entries = {name: app.repository.catalogue.entry(name, None, None) for name in names}
    said["kept at start"] = [entry.loaded.kept for entry in entries.values()]
    said["answers"] = [bits(client.predict(name, rows)) for name in (*names, "m")]
    said["model"] = model("m")
    said["torch"] = "torch" in sys.modules
    for name in ("together", "queued"):
        # As for values that engines don't compute.
        plan = entries[name].loaded.model.plan()
        plan._tuning.found[3] = plan._tuning.found[5] = None
        asks = rows if name == "together" else np.concatenate([rows, rows[:2]])
        said[name] = np.asarray(client.predict(name, asks))[:3].tolist()
    client.predict("inner", rows, outputs=["hidden:0:0"])
    said["whole model"] = model("inner")
    said["kept"] = [name for name, entry in entries.items() if entry.loaded.kept]
    said["last"] = [bits(client.predict(name, rows)) for name in names]
    (folder / "models" / ".wrong").rename(folder / "models" / "wrong")
    wait(lambda: [one.reason for one in app.repository.catalogue.describe() if one.name == "wrong" and one.reason])
    said["wrong"] = app.repository.catalogue.describe("wrong")[0].reason
print(json.dumps(said))
"""


def ask(program: str, folder: Path) -> Said:
    """Runs a program. Returns what it said, and its log."""
    command = [sys.executable, "-c", SERVER + program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray[Any, Any]]:
    """A folder with a model whose engines are kept, and its copies; and the outputs of the engines."""
    folder = tmp_path_factory.mktemp("kept")
    version = folder / "models" / "m" / "1"
    version.mkdir(parents=True)
    entry = Input((4,), name="x")
    model = Model(entry, layers.Dense(2, name="y")(layers.Dense(8, activation="relu", name="hidden")(entry)))
    model.save(version / "model.keras")
    golden.write_golden(golden.make_golden(model), version / "golden.npz")
    np.save(folder / "rows.npy", ROWS)
    settings = Settings(path=folder / "models", state=folder / "state", tuning_seconds=2.0)
    tuned = keep_engines(settings, version / "model.keras")
    for name in COPIES:
        # What was kept is found by the digest of the files.
        shutil.copytree(folder / "models" / "m", folder / "models" / name)
    # One that isn't seen yet, with another golden file.
    wrong = shutil.copytree(folder / "models" / "m", folder / "models" / ".wrong") / "1" / "golden.npz"
    arrays = {name: one + 1 if name.startswith("output/") else one for name, one in np.load(wrong).items()}
    np.savez(wrong, **arrays)
    return folder, tuned.plan().run({"x": ROWS})["y"]


@pytest.fixture(scope="module")
def again(kept: tuple[Path, np.ndarray[Any, Any]]) -> Said:
    """What the server said, and its log."""
    return ask(AGAIN, kept[0])


def test_answers_before_torch(kept: tuple[Path, np.ndarray[Any, Any]], again: Said) -> None:
    _, expected = kept
    said, _ = again
    assert said["kept at start"] == [True] * 4
    assert said["torch"] is False
    assert said["answers"] == [expected.tobytes().hex()] * 5
    assert said["model"] == said["whole model"]
    # What needs the whole model waits for it, and then it stays.
    assert said["kept"] == ["m"]
    assert said["last"] == [expected.tobytes().hex()] * 4
    for name in ("together", "queued"):
        np.testing.assert_allclose(said[name], expected, rtol=1e-5, atol=1e-6)


def test_a_golden_file_that_says_otherwise(again: Said) -> None:
    said, log = again
    # Of the engines first, and then of the file.
    assert re.search("model 'wrong' version 1: what was kept isn't used: .*differs by", log)
    assert "differs by" in str(said["wrong"])
