"""A server that is started again answers Predict before torch is imported; what needs torch waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layergraph import Input, Model, golden, layers

pytest.importorskip("onnxruntime")

ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")

#: A server in this process. `never` keeps it from reading files by itself, and prints what it answers.
PROGRAM = """
import json, sys, time
from pathlib import Path
import numpy as np
from layerserve import Client
from layerserve_server import wiring
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

folder, asked = Path(sys.argv[1]), sys.argv[2]
if asked != "tune":
    wiring.WHOLE_AFTER_SECONDS = float("inf") if asked != "aside" else 0.1
settings = Settings(
    path=folder / "models", state=folder / "state", host="127.0.0.1", grpc_port=0, http_port=-1, metrics_port=-1,
    tuning_seconds=5.0, poll_seconds=0.1, training_slots=0,
)
said = {}
rows = np.load(folder / "rows.npy")
def bits(results):
    return np.asarray(results).tobytes().hex()
with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as client:
    said["torch at start"] = "torch" in sys.modules
    said["first"] = bits(client.predict("m", rows))
    said["again"] = bits(client.predict("m", rows))
    said["torch after answers"] = "torch" in sys.modules
    said["model"] = str(client.models()[0].inputs) + str(client.models()[0].outputs)
    if asked == "tune":
        until = time.monotonic() + 120
        while not list((folder / "state" / "kept").glob("*/model.json")) and time.monotonic() < until:
            time.sleep(0.1)
        said["tuned"] = bits(client.predict("m", rows))
    if asked in ("together", "queued"):
        # As for values that engines don't compute.
        plan = app.repository.catalogue.entry("m", None, None).loaded.model.plan()
        plan._tuning.found[3] = plan._tuning.found[5] = None
        asks = rows if asked == "together" else np.concatenate([rows, rows[:2]])
        said["eager"] = np.asarray(client.predict("m", asks))[:3].tolist()
    if asked == "inner":
        said["inner"] = bits(client.predict("m", rows, outputs=["hidden:0:0"]))
    if asked == "nodes":
        said["nodes"] = len(list(client.node_shapes("m")))
    if asked == "aside":
        until = time.monotonic() + 60
        while app.repository.catalogue.entry("m", None, None).loaded.kept and time.monotonic() < until:
            time.sleep(0.05)
    said["kept"] = app.repository.catalogue.entry("m", None, None).loaded.kept
    said["last"] = bits(client.predict("m", rows))
print(json.dumps(said))
"""


def ask(folder: Path, what: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(folder), what], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return said


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A folder with a model whose engines were chosen, and what the server said that chose them."""
    folder = tmp_path_factory.mktemp("kept")
    version = folder / "models" / "m" / "1"
    version.mkdir(parents=True)
    entry = Input((4,), name="x")
    model = Model(entry, layers.Dense(2, name="y")(layers.Dense(8, activation="relu", name="hidden")(entry)))
    model.save(version / "model.keras")
    golden.write_golden(golden.make_golden(model), version / "golden.npz")
    np.save(folder / "rows.npy", ROWS)
    said = ask(folder, "tune")
    if not list((folder / "state" / "kept").glob("*/model.json")):
        pytest.skip("no engine was faster than torch on this machine")
    return folder, said


@pytest.mark.parametrize("what", ["together", "queued", "inner", "nodes", "aside"])
def test_answers_before_torch(tuned: tuple[Path, dict[str, object]], what: str) -> None:
    folder, before = tuned
    said = ask(folder, what)
    assert said["torch at start"] is False
    assert what == "aside" or said["torch after answers"] is False
    assert said["first"] == said["again"] == said["last"] == before["tuned"]
    assert said["model"] == before["model"]
    # What needs the whole model waits for it, and then it stays.
    assert said["kept"] is False
    if what in ("together", "queued"):
        expected = np.frombuffer(bytes.fromhex(str(said["first"])), "float32").reshape(3, 2)
        np.testing.assert_allclose(said["eager"], expected, rtol=1e-5, atol=1e-6)
    if what == "nodes":
        assert said["nodes"] == 3


def test_a_golden_file_that_says_otherwise(tuned: tuple[Path, dict[str, object]]) -> None:
    folder, _ = tuned
    proof = folder / "models" / "m" / "1" / "golden.npz"
    content = proof.read_bytes()
    arrays = dict(np.load(proof))
    try:
        np.savez(proof, **{name: one + 1 if name.startswith("output/") else one for name, one in arrays.items()})
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(folder), "never"], capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert "differs by" in done.stderr
    finally:
        proof.write_bytes(content)
