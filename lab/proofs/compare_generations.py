"""Compares models of many releases of Keras with their own numbers: `make -C lab generations GENERATIONS=FOLDER`.

FOLDER has a folder for each release: a virtual environment with TensorFlow (1.13 to 2.15, or a later one and tf_keras),
or what `pip install --no-deps --target FOLDER/3.8.0 keras==3.8.0` makes. `make_generation.py` runs in each; its files
are loaded here. For each release the counts of files, refused ones with their reasons, and mismatches are printed.

PYTHONPATH=tests/support:lab/generators:lab/proofs python lab/proofs/compare_generations.py GENERATIONS OUT
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import layergraph
import numpy as np
from layergraph.errors import LayerGraphError
from model_files import numbered

#: Relative to the largest number of an output: what rounding may do in a deep graph.
TOLERANCE = 2e-5
HALF, HALVES = 2e-2, ("float16", "bfloat16")
#: Releases, labels, and why the numbers differ or a file is refused: Keras on torch from Keras on TensorFlow, a release
#: from the next one, and files that the release itself can't load.
KNOWN = (
    (r"Keras 3\.\d", r"Conv\dDTranspose [135] .*", "transposed convolutions are padded otherwise on torch"),
    (r"Keras 3\.\d", r"ContrastLimited.*", "torch has other histograms than TensorFlow"),
    (r"Keras 3\.[0-8]\.", r"(Max|Average)Pooling\dD [13] .*", "pools are padded otherwise on torch, up to 3.8"),
    (
        r"Keras 3\.[0-4]\.",
        r"masked Model of a float64 .*",
        "up to 3.4, casts lose masks within a nested model, and only there",
    ),
    (
        r"TensorFlow 2.* v1",
        r"(masked )?Random\w+ .*",
        "these layers train by default in graphs of TensorFlow 1: their outputs are random",
    ),
    (
        r"TensorFlow 2.* v1",
        r"(String|Integer)Lookup .*",
        "in graphs of TensorFlow 1 these layers give 0 for every term",
    ),
    (
        r"TensorFlow 2\.[3-5]",
        r"Hashing [02] .*",
        "up to 2.5, the config has a salt that the layer only uses once it is loaded",
    ),
    (r"TensorFlow 2\.6", r"TextVectorization .*", "2.6 writes no vocabulary into an .h5, and can't load it"),
    (
        r"TensorFlow 1\.1[34]|Keras 2\.",
        r"(sequential input|masked Sequential of a float64 \w+) \(which it can't load.*",
        "the release writes no input shape of a Sequential with an InputLayer, and can't load it",
    ),
    (
        "TensorFlow 1.13",
        r"masked (\w+ in (Model|Sequential)|Model of|ActivityRegularization).*",
        "files of 1.13, in which models pass no masks on, look like those of 1.14, in which they do",
    ),
)
MAKER = Path(__file__).parents[1] / "generators" / "make_generation.py"


@dataclass
class Counts:
    """What became of one release's files."""

    files: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)


def peers(folder: Path) -> Iterator[tuple[str, list[str], dict[str, str], str]]:
    """Name, command, environment, and which of its Kerases, of every release in a folder."""
    for place in sorted(folder.iterdir()):
        python = place / "bin" / "python"
        if (place / "keras").is_dir():
            yield place.name, [sys.executable], {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{place}"}, ""
        elif python.exists() and (found := list(place.glob("lib/python*/site-packages/tensorflow*-*.dist-info"))):
            # From 2.16 on, `tf.keras` is then tf_keras.
            legacy = {"TF_USE_LEGACY_KERAS": "1"}
            yield place.name, [str(python)], legacy, ""
            version = min(found, key=lambda path: len(path.name)).name.partition("-")[2]
            if version.startswith("1.") and list(place.glob("lib/python*/site-packages/keras/__init__.py")):
                yield f"{place.name}-keras", [str(python)], {}, "keras"
            if version.startswith("2."):
                yield f"{place.name}-v1", [str(python)], legacy, "v1"


def compare(path: Path, inputs: list[np.ndarray], expected: list[np.ndarray]) -> None:
    """Raises LayerGraphError if the file is refused, AssertionError if its model gives other numbers."""
    model = layergraph.load_model(path)
    plan = model.plan()
    needed = {spec.name for spec in plan.input_specs}
    given = dict(zip(model.input_names, inputs, strict=True))
    try:
        result = plan.run({name: array for name, array in given.items() if name in needed})
    except Exception as wrong:
        raise AssertionError(f"{type(wrong).__name__}: {wrong}") from wrong
    tolerance = HALF if computes_in_half(model) else TOLERANCE
    for got, want in zip(result.values(), expected, strict=True):
        assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
        if want.dtype.kind not in "fiub":
            assert np.array_equal(got.astype(str), want.astype(str)), "other texts"
            continue
        finite = np.abs(want[np.isfinite(want)])
        size = max(1.0, float(finite.max()) if finite.size else 1.0)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * size)


def computes_in_half(model: layergraph.Model) -> bool:
    """Whether a layer, or a tensor of the graph, is of half precision."""
    if any(layer.compute_dtype in HALVES for layer in model.walk_layers()):
        return True
    nodes = model.graph.nodes if model.built else ()
    return any(tensor.dtype in HALVES for node in nodes for tensor in node.output_tensors)


def compared(folder: Path) -> Counts:
    """Loads all files of a folder."""
    counts, peer = Counts(), (folder / "peer.txt").read_text()
    for numbers in sorted(folder.glob("*/*.npz")):
        with np.load(numbers, allow_pickle=True) as arrays:
            inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")
        label = numbers.with_suffix(".txt").read_text()
        for path in (numbers.with_suffix(suffix) for suffix in (".h5", ".keras")):
            if not path.exists():
                continue
            counts.files += 1
            try:
                compare(path, inputs, expected)
            except Exception as wrong:
                if reason := _known(peer, label):
                    counts.known[reason] += 1
                    continue
                if isinstance(wrong, LayerGraphError):
                    counts.refused[_reason(str(wrong))] += 1
                    print(f"refused: {path} ({label}): {_line(wrong)}", flush=True)
                    continue
                counts.mismatches.append(f"{path} ({label}): {type(wrong).__name__}: {_line(wrong)}")
                print(f"MISMATCH: {counts.mismatches[-1]}", flush=True)
    return counts


def _known(peer: str, label: str) -> str | None:
    return next((why for who, what, why in KNOWN if re.match(who, peer) and re.fullmatch(what, label)), None)


def _line(wrong: Exception) -> str:
    return " ".join(str(wrong).split())[:300]


def _reason(text: str) -> str:
    """An error's text without the names of files and layers."""
    text = re.sub(r"^\S+\.(h5|keras): ", "", " ".join(text.split()))
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", text)[:140]


def main() -> int:
    """Runs all releases; the exit status is 1 if a file mismatches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("generations", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", default="40", help="random graphs of each release")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--only", default=".*", help="regular expression of the names of releases")
    parser.add_argument("--compare-only", action="store_true", help="compare what an earlier run has made")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows: dict[str, Counts] = {}
    for name, command, environment, which in peers(options.generations):
        if not re.fullmatch(options.only, name):
            continue
        folder = options.out / name
        if not options.compare_only:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            making = [*command, str(MAKER), str(folder), options.count, options.seed, which]
            subprocess.run(making, env={**os.environ, **environment}, stderr=subprocess.DEVNULL, check=False)
        if (folder / "peer.txt").exists():
            rows[f"{name}: {(folder / 'peer.txt').read_text()}"] = compared(folder)
    for name, counts in rows.items():
        print(f"{name}: {counts.files} files, {counts.refused.total()} refused, {len(counts.mismatches)} mismatches")
        for reason, number in counts.refused.most_common():
            print(f"    {number} refused: {reason}")
        for reason, number in counts.known.most_common():
            print(f"    {number} known: {reason}")
    return 1 if any(counts.mismatches for counts in rows.values()) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
