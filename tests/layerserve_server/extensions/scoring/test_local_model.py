"""Models on disk, computed in this process: which one is found at a path, and that its numbers are a server's."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers
from layerserve import (
    InvalidArgument,
    InvalidTensor,
    ModelMismatch,
    ModelNotFound,
    ModelNotReady,
    Scorer,
    UnknownOutput,
    VersionNotFound,
)
from layerserve.scoring.threads import THREADS, limit_threads
from layerserve_server.disk import sha256
from layerserve_server.extensions.scoring.local_model import find
from layerserve_server.repository.layout import find_version
from layerserve_server.repository.version_reader import version_digest
from serving import serving


def model(units: int = 2) -> layergraph.Model:
    x = layergraph.Input((3,), name="x")
    return layergraph.Model(x, layers.Dense(units, name="y")(layers.Dense(4, activation="relu", name="hidden")(x)))


@pytest.fixture(scope="module", name="content")
def _content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("content") / "model.keras"
    model().save(path)
    return path.read_bytes()


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, content: bytes) -> Path:
    """A repository with `one` in three versions, and `two` as a file."""
    for version in "123":
        (tmp_path / "models" / "one" / version).mkdir(parents=True)
        (tmp_path / "models" / "one" / version / "model.keras").write_bytes(content)
    (tmp_path / "models" / "two.keras").write_bytes(content)
    return tmp_path / "models"


def rows(count: int = 4) -> dict[str, Any]:
    return {"x": np.random.default_rng(0).random((count, 3), "float32")}


@pytest.mark.parametrize(
    ("path", "name", "version", "expected"),
    [
        ("", "one", None, ("one", 3)),
        ("", "one", 2, ("one", 2)),
        ("", "two", None, ("two", 1)),
        ("one", None, None, ("one", 3)),
        ("one", "one", 1, ("one", 1)),
        ("one/2", None, None, ("one", 2)),
        ("one/2/model.keras", None, 2, ("one", 2)),
        ("two.keras", None, None, ("two", 1)),
    ],
)
def test_versions_are_found(
    folder: Path, path: str, name: str | None, version: int | None, expected: tuple[str, int]
) -> None:
    found = find(folder / path, name, version)
    assert (found.name, found.version) == expected
    assert found.path.is_file()


@pytest.mark.parametrize(
    ("path", "name", "version", "error", "text"),
    [
        (
            "",
            None,
            None,
            InvalidArgument,
            "model: got None, expected the name of one of the models in .*: one, twice, two",
        ),
        ("", "three", None, ModelNotFound, "model 'three': .* has 'one', 'twice', 'two'"),
        ("one", "two", None, ModelNotFound, "model 'two': .* has 'one'"),
        ("one", None, 7, VersionNotFound, "model 'one' has no version 7; .* has 1, 2, 3"),
        ("empty", None, None, ModelNotFound, "got no model, expected a model file or a repository"),
        ("twice/1", None, None, ModelNotReady, "model 'twice' version 1: .* 2 model files"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    folder: Path, path: str, name: str | None, version: int | None, error: type[Exception], text: str
) -> None:
    (folder / "empty").mkdir()
    (folder / "twice" / "1").mkdir(parents=True)
    for file in ("a.keras", "b.keras"):
        (folder / "twice" / "1" / file).touch()
    with pytest.raises(error, match=text):
        find(folder / path, name, version)


def test_a_model_in_several_files_is_found_by_its_folder(tmp_path: Path) -> None:
    saved = Path(__file__).parents[3] / "fixtures" / "saved_models"
    folder = next(path.parent for path in sorted(saved.rglob("saved_model.pb")))
    (tmp_path / "exported").symlink_to(folder)
    found = find(tmp_path / "exported", None, None)
    assert (found.name, found.version, found.path.name) == ("exported", 1, "saved_model.pb")
    # Of several files it is that of all.
    digest = version_digest(found, sha256)
    assert len(digest) == 64
    assert digest != sha256(found.path)


def test_the_newest_version_is_taken_that_can_be_and_the_one_of_the_settings(folder: Path) -> None:
    (folder / "one" / "4").mkdir()
    (folder / "one" / "5").mkdir()
    (folder / "one" / "5" / "notes.txt").touch()
    assert find(folder, "one", None).version == 3
    (folder / "one" / "layerserve.toml").write_text("default_version = 2\n")
    assert find(folder, "one", None).version == 2
    (folder / "one" / "layerserve.toml").write_text("default_version = true\n")
    with pytest.raises(ModelNotReady, match="default_version"):
        Scorer(folder, "one")


def test_its_numbers_are_those_of_predict_and_its_digest_is_the_servers(folder: Path) -> None:
    with serving(folder) as client:
        for outputs in (None, ["hidden", "y"]):
            here, there = (Scorer(source, "one", outputs=outputs) for source in (folder, client.address))
            assert (here.digest, here.version) == (there.digest, there.version) == (client.model("one").digest, 3)
            assert (here.inputs, here.outputs) == (there.inputs, there.outputs)
            expected = client.predict("one", rows(), outputs=[spec.name for spec in here.outputs])
            for scored in (here(rows()), there(rows())):
                assert list(scored) == list(expected)
                for name, array in expected.items():
                    np.testing.assert_array_equal(scored[name], array)


def test_the_inputs_are_those_that_the_outputs_depend_on(tmp_path: Path) -> None:
    a, b = layergraph.Input((2,), name="a"), layergraph.Input((), dtype="string", name="b")
    of_a, of_b = layers.Dense(1, name="of_a")(a), layers.StringLookup(vocabulary=["u"], name="of_b")(b)
    layergraph.Model([a, b], [of_a, of_b]).save(tmp_path / "m.keras")
    scorer = Scorer(tmp_path / "m.keras", outputs="of_b", columns=["k"])
    assert [spec.name for spec in scorer.inputs] == ["b"]
    scored = scorer({"k": [7, 8], "b": ["u", "v"]})
    assert {name: list(array) for name, array in scored.items()} == {"k": [7, 8], "of_b": [1, 0]}


def test_a_file_that_is_replaced_is_refused_in_another_process(folder: Path) -> None:
    """The process that has the model goes on with it, so no result is of two models."""
    scorer = Scorer(folder, "two")
    expected = scorer(rows())["y"]
    # Newer versions are nothing to it.
    content, newer = pickle.dumps(scorer), Scorer(folder, "one", version=3)
    (folder / "one" / "4").mkdir()
    model().save(folder / "one" / "4" / "model.keras")
    assert pickle.loads(pickle.dumps(newer)).version == 3
    model().save(folder / "two.keras")
    np.testing.assert_array_equal(scorer(rows())["y"], expected)
    digest = scorer.digest
    del scorer
    replaced = sha256(folder / "two.keras")
    with pytest.raises(ModelMismatch, match=f"'two' version 1: got the digest {replaced}, expected {digest}"):
        pickle.loads(content)(rows())
    (folder / "two.keras").unlink()
    with pytest.raises(ModelNotFound):
        pickle.loads(content)(rows())


def test_errors_are_those_that_a_server_gives(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownOutput, match="'nope'"):
        Scorer(folder, "one", outputs="nope")
    with pytest.raises(InvalidTensor, match="input 'x': got length 2 on axis 1"):
        Scorer(folder, "one")({"x": np.ones((4, 2))})
    (tmp_path / "half.keras").write_bytes((folder / "two.keras").read_bytes()[:1000])
    with pytest.raises(ModelNotReady, match=r"half\.keras"):
        Scorer(tmp_path / "half.keras")
    x = layergraph.Input((2,), name="x")
    layergraph.Model(x, layergraph.ops.flip(x, axis=0)).save(tmp_path / "mixes.keras")
    with pytest.raises(InvalidArgument, match="'mixes': its outputs aren't computed row by row"):
        Scorer(tmp_path / "mixes.keras")


#: Scores in the process that made the scorer, whose threads have computed before, and in one that it forks.
FORKS = """
import multiprocessing, pickle, sys
import numpy as np
from layerserve import Scorer
assert "torch" not in sys.modules

def score(given):
    made = pickle.loads(given)({"x": np.ones((512, 3))})["y"]
    return torch.get_num_threads(), made

scorer = Scorer(sys.argv[1])
import torch
torch.set_num_threads(3)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)
given = pickle.dumps(scorer)
found = [score(given)]
with multiprocessing.get_context("fork").Pool(1) as pool:
    found += pool.map(score, [given])
print([threads for threads, _ in found], np.array_equal(found[0][1], found[1][1]))
"""


def test_a_forked_process_opens_the_model_anew_with_one_thread(folder: Path) -> None:
    command = [sys.executable, "-c", FORKS, str(folder / "two.keras")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.stdout == "[3, 1] True\n", done.stderr


@pytest.mark.parametrize(
    ("variable", "is_maker", "threads"),
    [("2", True, 2), ("2", False, 2), ("", True, 3), ("", False, 1), ("x", False, 1)],
)
def test_other_processes_compute_with_the_cores_that_they_are_given(
    monkeypatch: pytest.MonkeyPatch, variable: str, is_maker: bool, threads: int
) -> None:
    monkeypatch.setenv(THREADS, variable)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        limit_threads(is_maker=is_maker)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_a_version_digest_is_that_of_its_file(folder: Path) -> None:
    assert version_digest(find_version("one", 1, folder / "one" / "1"), sha256) == sha256(folder / "two.keras")
