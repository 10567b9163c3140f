"""`layerserve convert`: what it writes, prints and refuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from layergraph import Input, Model, layers, load_model
from layergraph.golden import golden_path, make_golden, write_golden
from layerserve_server.extensions.model_files.commands import convert


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A version folder with a model."""
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    x = Input((4,), name="x")
    Model(x, layers.Dense(3, name="y")(x), name="small").save(folder / "model.keras")
    return folder


def test_a_version_folder_is_converted_and_the_report_printed(version: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "m.onnx"
    assert convert([str(version), str(out), "--opset", "19"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"wrote {out}: format onnx, opset 19, {out.stat().st_size:,} bytes"
    assert lines[0] == "  input x: (batch, 4) float32"
    assert lines[1].startswith("  output y: (batch, 3) float32, largest difference ")
    given = np.ones((2, 4), "float32")
    (got,) = onnxruntime.InferenceSession(str(out)).run(["y"], {"x": given})
    want = load_model(version / "model.keras").plan().run({"x": given})["y"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    # A second time only if it's asked for.
    before = out.stat().st_mtime_ns
    assert convert([str(version), str(out)]) == 2
    assert capsys.readouterr().err.splitlines()[1] == f"  {out} already exists; use --force to replace"
    assert out.stat().st_mtime_ns == before
    assert convert([str(version), str(out), "--force", "--format", "h5"]) == 0
    assert out.read_bytes().startswith(b"\x89HDF")


def test_the_golden_inputs_are_compared_too(version: Path, tmp_path: Path, capsys: Any) -> None:
    def compared() -> int:
        assert convert([str(version), str(tmp_path / "m.keras"), "--json", "--force"]) == 0
        return int(json.loads(capsys.readouterr().out)["compared"])

    alone = compared()
    proof = golden_path(version / "model.keras")
    write_golden(make_golden(load_model(version / "model.keras")), proof)
    assert compared() == alone + 1
    arrays = dict(np.load(proof))
    arrays["output/y"] = arrays["output/y"] + 1
    np.savez(proof, **arrays)
    assert convert([str(version), str(tmp_path / "other.onnx")]) == 1
    assert "output 'y' differs by" in capsys.readouterr().err
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["m/1", "m.pb"], 2, "ends in .keras or .h5 or .onnx or .pt2"),
        (["m/1", "m.onnx", "--opset", "5"], 2, "got opset 5, expected 17 to 20"),
        (["m/1", "m.onnx", "--tolerance", "nan"], 2, "got tolerance nan"),
        (["m/2", "m.onnx"], 1, "can't be opened"),
        (["damaged.keras", "m.onnx"], 1, "damaged or incomplete zip"),
        (["m/1", "missing/m.onnx"], 1, "the folder 'missing' doesn't exist"),
        (["m/1", "m", "--force", "--format", "onnx"], 1, "'m' is a folder, expected a path for a file"),
        (
            ["m/1", "m/1/model.keras", "--force", "--format", "onnx"],
            2,
            "is the model file itself, expected another path",
        ),
        # Before the file is opened.
        (["m/2", "m.pb"], 2, "ends in .keras or .h5 or .onnx or .pt2"),
    ],
)
def test_what_is_refused_leaves_nothing(
    arguments: list[str], status: int, text: str, version: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("damaged.keras").write_bytes((version / "model.keras").read_bytes()[:500])
    assert convert(arguments) == status
    assert text in capsys.readouterr().err
    assert convert([*arguments, "--json"]) == status
    assert text in " ".join(json.loads(capsys.readouterr().out)["problems"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.keras", "m"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_and_leaves_nothing(
    number: signal.Signals, version: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Even where exceptions are lost."""
    left: list[list[str]] = []

    def write(exporter: Any, plan: Any, cases: Any, path: Path, tolerances: Any) -> Any:
        path.write_text("half")
        assert len(list(tmp_path.iterdir())) == 2
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)
        raise AssertionError(f"still running: {left}")

    def leave(status: int) -> None:
        left.append([str(status), *(path.name for path in tmp_path.iterdir())])

    monkeypatch.setattr("layergraph.models.export.write_compared", write)
    monkeypatch.setattr(os, "_exit", leave)
    before = signal.getsignal(number)
    with pytest.raises(AssertionError, match="still running"):
        convert([str(version), str(tmp_path / "m.onnx")])
    assert left == [[str(128 + number), "m"]]
    assert signal.getsignal(number) is before


def test_a_folder_that_cannot_be_written_to_is_named(
    version: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    # Root may write anywhere.
    monkeypatch.setattr("layergraph.models.export.os.access", lambda path, mode: path != tmp_path)
    assert convert([str(version), str(tmp_path / "m.onnx")]) == 1
    assert f"the folder '{tmp_path}' can't be written to" in capsys.readouterr().err


def test_the_file_is_read_by_another_process(version: Path, tmp_path: Path, faulty: Any, capsys: Any) -> None:
    faulty("SIGFPE")
    assert convert([str(version), str(tmp_path / "m.onnx")]) == 1
    assert "crashes its parser (SIGFPE), when another process reads it" in capsys.readouterr().err
