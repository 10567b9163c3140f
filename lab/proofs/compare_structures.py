"""Compares the graphs that `make_structures.py` saved with Keras's outputs.

make -C lab structures PEER=PYTHON COUNT=100
PYTHONPATH=tests/support python lab/proofs/compare_structures.py FOLDER...    # alone
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import layergraph
import numpy as np
from model_files import numbered

#: Relative to the largest number of an output: what rounding may do in a deep graph.
TOLERANCE = 2e-5


def compare(path: Path, inputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Raises AssertionError, or whatever goes wrong, where the file's model gives other numbers."""
    model = layergraph.load_model(path)
    plan = model.plan()
    needed = {spec.name for spec in plan.input_specs}
    given = dict(zip(model.input_names, inputs, strict=True))
    result = plan.run({name: array for name, array in given.items() if name in needed})
    for got, want in zip(result.values(), expected, strict=True):
        assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
        finite = np.abs(want[np.isfinite(want)])
        size = max(1.0, float(finite.max()) if finite.size else 1.0)
        np.testing.assert_allclose(got, want, rtol=TOLERANCE, atol=TOLERANCE * size)


def files_of(numbers: Path) -> Iterator[Path]:
    """What has the model of a file with numbers."""
    names = (".h5", ".keras", "", "_saved", "_checkpoint")
    places = (numbers.with_name(f"{numbers.stem}{name}") for name in names)
    return (place for place in places if place.exists())


def main(folders: list[str]) -> int:
    """Compares all files; the exit status is 1 if any differs."""
    warnings.filterwarnings("ignore")
    count = failed = 0
    for folder in folders:
        for numbers in sorted(Path(folder).glob("*.npz"), key=lambda path: int(path.stem)):
            with np.load(numbers) as arrays:
                inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")
            for path in files_of(numbers):
                count += 1
                try:
                    compare(path, inputs, expected)
                except Exception as wrong:
                    failed += 1
                    print(f"{path}: {type(wrong).__name__}: {' '.join(str(wrong).split())[:300]}", flush=True)
    print(f"{count} files, {failed} mismatches")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
