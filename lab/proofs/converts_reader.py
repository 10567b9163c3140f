"""The part of `converts.py` that opens exported files, with ONNX Runtime and torch alone.

    python converts_reader.py FOLDER

For each FOLDER/NAME.onnx and NAME.pt2, computes the outputs for the inputs of NAME.npz, and writes them to
NAME.onnx.results.npz, or an error's text.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch


def of_onnx(path: Path, given: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The outputs of an ONNX file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_outputs()]
    return {
        f"{place}/out/{name}": array
        for place, inputs in given.items()
        for name, array in zip(names, session.run(names, inputs), strict=True)
    }


def of_program(path: Path, given: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The outputs of a `.pt2` file."""
    module = torch.export.load(path).module()
    found = {}
    for place, inputs in given.items():
        try:
            with torch.no_grad():
                outputs = module({name: torch.from_numpy(array) for name, array in inputs.items()})
        except AssertionError as refused:
            # A condition on lengths, which the report of the export has.
            if not str(refused).startswith("Guard failed"):
                raise
            continue
        for name, value in outputs.items():
            found[f"{place}/out/{name}"] = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return found


def main(folder: Path) -> None:
    """Computes the outputs of all files."""
    for path in sorted(folder.iterdir()):
        compute = {".onnx": of_onnx, ".pt2": of_program}.get(path.suffix)
        if compute is None:
            continue
        with np.load(folder / f"{path.stem}.npz") as arrays:
            given: dict[str, dict[str, np.ndarray]] = {}
            for name, array in arrays.items():
                place, way, own = name.split("/", 2)
                if way == "in":
                    given.setdefault(place, {})[own] = array
        try:
            results = compute(path, given)
        except Exception as error:
            results = {"error": np.array(f"{type(error).__name__}: {str(error)[:300]}")}
        np.savez(folder / f"{path.name}.results.npz", **results)
    assert "layergraph" not in sys.modules, "the files must not need layergraph"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
