"""Kept models answer without torch, with the same bits. What is damaged, or made for something else, isn't used."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.execution.kept_plan import NotKeptError
from layerserve_server.artifacts import keys
from layerserve_server.engines import kept_models as module
from layerserve_server.engines.chosen_engines import ChosenEngines
from layerserve_server.engines.kept_models import KeptModels

DIGEST = "ab" * 32
ROWS = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
ENGINES = ("onnxruntime", "openvino")


def model(seed: int = 0) -> Model:
    entry = Input((4,), name="x")
    made = Model(entry, layers.Dense(2, activation="tanh", name="y")(layers.Dense(8, activation="relu")(entry)))
    draw = np.random.default_rng(seed)
    made.set_weights([draw.standard_normal(weight.shape).astype("float32") for weight in made.get_weights()])
    return made


def kept(folder: Path, engine: str = "onnxruntime", made: Model | None = None) -> tuple[KeptModels, Model]:
    """A model that was kept in a folder with its engine."""
    made = made or model()
    engines = ChosenEngines(folder / "engines")
    models = KeptModels(folder / "kept", engines, 1, 1)

    def make(unfinished: Path) -> None:
        made.plan().tune(engines=(engine,), pin=True, threads=1, shared=True, folder=unfinished)

    with engines.made(made, 1, make):
        pass
    models.keep(SimpleNamespace(model=made, digest=DIGEST, parts={}))  # type: ignore[arg-type]
    return models, made


def opened(folder: Path) -> Any:
    return KeptModels(folder / "kept", ChosenEngines(folder / "engines"), 1, 1).open(DIGEST)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_bits_without_torch(tmp_path: Path, engine: str) -> None:
    pytest.importorskip(engine)
    _, made = kept(tmp_path, engine)
    np.save(tmp_path / "rows.npy", ROWS)
    program = f"""
import sys
from pathlib import Path
import numpy as np
from layerserve_server.engines.chosen_engines import ChosenEngines
from layerserve_server.engines.kept_models import KeptModels
folder = Path({str(tmp_path)!r})
model = KeptModels(folder / "kept", ChosenEngines(folder / "engines"), 1, 1).open({DIGEST!r})
results = model.plan().run({{"x": np.load(folder / "rows.npy")}})
np.savez(folder / "results.npz", **results)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    expected = made.plan().run({"x": ROWS})
    assert [choice.tuned is not None for choice in made.plan().engines] == [True] * len(made.plan().engines)
    with np.load(tmp_path / "results.npz") as results:
        assert results["y"].tobytes() == expected["y"].tobytes()


def test_what_is_told_of_it(tmp_path: Path) -> None:
    models, made = kept(tmp_path)
    found: Any = models.open(DIGEST)
    assert found.input_specs == made.input_specs
    assert found.output_specs == made.output_specs
    assert found.count_params() == made.count_params()
    assert found.compiled is made.compiled
    assert found.keras_version == made.keras_version
    assert found.plan().batched is made.plan().batched
    assert list(found.node_table()) == list(made.node_table())
    assert list(found.output_nodes()) == list(made.output_nodes())
    assert [choice.engine for choice in found.engines] == [choice.engine for choice in made.engines]
    assert {key: tuple(one.inputs) for key, one in found.signatures.items()} == {
        key: tuple(one.inputs) for key, one in made.signatures.items()
    }


def test_nodes_that_are_damaged_or_gone_are_not_told(tmp_path: Path) -> None:
    for damage in ("flipped", "missing"):
        models, _ = kept(tmp_path / damage)
        found: Any = models.open(DIGEST)
        spoil(next((tmp_path / damage).glob("kept/*/nodes.json")), damage)
        with pytest.raises(NotKeptError, match="nodes"):
            found.node_table()
        with pytest.raises(NotKeptError, match="nodes"):
            found.output_nodes()


def test_another_file_is_another_model(tmp_path: Path) -> None:
    models, _ = kept(tmp_path)
    assert models.open("cd" * 32) is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
@pytest.mark.parametrize("file", ["engines/onnxruntime", "engines/engines.json", "engines/example.npz"])
def test_damaged_engines(tmp_path: Path, file: str, damage: str) -> None:
    kept(tmp_path)
    folder, _, name = file.partition("/")
    spoil(next(tmp_path.glob(f"{folder}/*/{name}")), damage)
    assert opened(tmp_path) is None


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "missing"])
@pytest.mark.parametrize(
    "file", ["kept/*/model.json", "kept/*/nodes.json", "kept/*/digests.json", "engines/*/digests.json"]
)
def test_damaged_notes(tmp_path: Path, file: str, damage: str) -> None:
    kept(tmp_path)
    spoil(next(tmp_path.glob(file)), damage)
    assert opened(tmp_path) is None


def spoil(file: Path, damage: str) -> None:
    content = file.read_bytes()
    middle = len(content) // 2
    spoiled = {
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "cut": content[:middle],
        "empty": b"",
    }
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(spoiled[damage])


def test_engines_that_are_chosen_again_are_kept_again(tmp_path: Path) -> None:
    _, made = kept(tmp_path)
    (engines,) = tmp_path.glob("engines/*/engines.json")
    shutil.rmtree(engines.parent)
    assert opened(tmp_path) is None
    pytest.importorskip("openvino")
    models, _ = kept(tmp_path, "openvino", made)
    assert {choice.engine for choice in opened(tmp_path).engines} == {"openvino"}
    (note,) = tmp_path.glob("kept/*/model.json")
    before = note.stat().st_mtime_ns
    models.keep(SimpleNamespace(model=made, digest=DIGEST, parts={}))  # type: ignore[arg-type]
    assert note.stat().st_mtime_ns == before


def test_engines_of_another_model_in_their_place(tmp_path: Path) -> None:
    kept(tmp_path / "one")
    kept(tmp_path / "two", made=model(seed=1))
    (place,) = [one for one in (tmp_path / "one/engines").iterdir() if one.name != "locks"]
    (other,) = [one for one in (tmp_path / "two/engines").iterdir() if one.name != "locks"]
    assert place.name != other.name
    shutil.rmtree(place)
    # Whole in itself, with digests that fit.
    shutil.copytree(other, place)
    assert opened(tmp_path / "one") is None


def test_a_note_that_names_another_folder(tmp_path: Path) -> None:
    kept(tmp_path)
    (note,) = tmp_path.glob("kept/*/model.json")
    values = json.loads(note.read_text())
    (digests,) = tmp_path.glob("kept/*/digests.json")
    for name in ("../engines", "/", "", 3, None):
        note.write_text(json.dumps(values | {"engines": name}))
        digests.write_text(json.dumps({"model.json": module.sha256(note)}))
        assert opened(tmp_path) is None


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "processor": lambda patch: patch.setattr(module, "machine", lambda: ("x86_64", "2", "flags : none")),
    "packages": lambda patch: patch.setattr(module, "installed", lambda names: ["0"] * len(names)),
    "threads": lambda patch: patch.setenv("OMP_NUM_THREADS", "7"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_of_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    models, _ = kept(tmp_path)
    assert models.open(DIGEST) is not None
    CHANGES[change](monkeypatch)
    assert models.open(DIGEST) is None


@pytest.mark.parametrize("package", ["torch", "onnxruntime", "openvino", "layerserve", "numpy"])
def test_each_package_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    models, _ = kept(tmp_path)
    known = keys.installed
    monkeypatch.setattr(
        module, "installed", lambda names: [("0" if name == package else known([name])[0]) for name in names]
    )
    assert models.open(DIGEST) is None


REFUSED = {
    "not finite": np.full((1, 4), np.nan, "float32"),
    "no rows": ROWS[:0],
    "dtype": ROWS.astype("float64"),
    "length": ROWS[:, :3],
    "rank": ROWS[0],
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_eager_torch_would_compute_is_refused(tmp_path: Path, case: str) -> None:
    pytest.importorskip("openvino")
    models, _ = kept(tmp_path, "openvino")
    found: Any = models.open(DIGEST)
    with pytest.raises(NotKeptError):
        found.plan().run({"x": REFUSED[case]})


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    models, made = kept(tmp_path)
    found: Any = models.open(DIGEST)
    assert found.plan(tuple(made.output_names)) is found.plan()
    with pytest.raises(NotKeptError):
        found.plan(("dense:0",))


def test_open_lengths_are_not_kept(tmp_path: Path) -> None:
    entry = Input((None, 4), name="x")
    made = Model(entry, layers.Dense(2, name="y")(entry))
    models, _ = kept(tmp_path, made=made)
    assert models.open(DIGEST) is None
