"""Exports models as ONNX and `.pt2`, and compares the files' numbers: `make -C lab converts COUNT=500 SEED=0`.

Three sets: the zoo; every model of keras.applications (built by stock Keras); COUNT random
graphs of each generator (`random_graphs`, and of stock Keras `random_wide_graphs` and `random_operations`). Each file
is opened by a process that doesn't import layergraph (`converts_reader.py`), with several numbers of rows and lengths
of open axes, other data than in the export itself. A file may differ by more than its tolerance only where rounding
explains it, measured in float64 (`layergraph.exporting.rounding`). What an export refuses is counted by reason.

    python lab/proofs/converts.py FOLDER [COUNT] [--seed FIRST] [--only SET ...] [--case SEED]
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import layergraph
import numpy as np
from layergraph.errors import ExportError, LayerGraphError
from layergraph.exporting.calls import Calls
from layergraph.exporting.cases import Case, differences
from layergraph.exporting.rounding import rounding_explains
from layergraph.models.export import Exported

READER = Path(__file__).with_name("converts_reader.py")
SUFFIXES = (".onnx", ".pt2")
ROWS, LENGTHS = (1, 3, 5), (4, 9)

#: Name and the function that makes the model.
Entry = tuple[str, Callable[[], Any]]


def zoo() -> Iterator[Entry]:
    """The zoo's models, in small sizes."""
    from layerserve_zoo.zoo import ZOO

    for name, entry in ZOO.items():
        yield name, lambda entry=entry: entry.make(small=True, seed=1)


def applications(folder: Path, chosen: list[str] | None) -> Iterator[Entry]:
    """The models of keras.applications that exist on torch, or the chosen ones, built and saved by stock Keras."""
    import keras
    from applications_oracle import SIZE, build, vary
    from compare_applications import NOT_ON_TORCH, names

    def load(name: str) -> Any:
        keras.backend.clear_session()
        keras.utils.set_random_seed(0)
        model = build(name)
        vary(model, np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32"))
        path = folder / "model.keras"
        model.save(path)
        try:
            return layergraph.load_model(path)
        finally:
            path.unlink()

    for name in chosen or names():
        if name not in NOT_ON_TORCH:
            yield name, lambda name=name: load(name)


def graphs(seeds: range) -> Iterator[Entry]:
    """Random graphs, built here."""
    from random_graphs import random_model

    def made(seed: int) -> Any:
        layergraph.clear_session()
        layergraph.utils.set_random_seed(seed)
        model = random_model(layergraph, seed, rich=seed % 2 == 1)
        rng = np.random.default_rng(seed)
        model.set_weights([w + rng.uniform(0.05, 0.3, w.shape).astype(w.dtype) for w in model.get_weights()])
        return model

    for seed in seeds:
        yield f"graph-{seed}", lambda seed=seed: made(seed)


def wide_graphs(seeds: range, folder: Path) -> Iterator[Entry]:
    """Random graphs of all families of layers, built and saved by stock Keras."""
    import keras3

    def made(seed: int) -> Any:
        keras3.make(seed, folder)
        try:
            return layergraph.load_model(folder / "model.keras")
        finally:
            for file in folder.iterdir():
                file.unlink()

    for seed in seeds:
        yield f"wide-{seed}", lambda seed=seed: made(seed)


def operations(seeds: range, folder: Path) -> Iterator[Entry]:
    """Random graphs of operations, built and saved by stock Keras."""
    import operations as fuzzer

    def made(seed: int) -> Any:
        model, _, _ = fuzzer.made(seed)
        path = folder / "model.keras"
        try:
            model.save(path)
            return layergraph.load_model(path)
        finally:
            path.unlink(missing_ok=True)

    for seed in seeds:
        yield f"operations-{seed}", lambda seed=seed: made(seed)


def write_cases(model: Any, path: Path) -> None:
    """Writes inputs that the model accepts, and its outputs: arrays `K/in/NAME` and `K/out/POSITION`."""
    plan, rng, arrays = model.plan(), np.random.default_rng(7), dict[str, np.ndarray]()
    opened = any(None in spec.shape[1:] for spec in plan.input_specs)
    for rows in ROWS:
        for length in LENGTHS if opened else LENGTHS[:1]:
            for draw in (distinct, bits):
                given = {}
                for spec in plan.input_specs:
                    shape = [(length if axis else rows) if n is None else n for axis, n in enumerate(spec.shape)]
                    whole = spec.dtype.startswith(("int", "uint"))
                    drawn = draw(rng, shape) if whole else rng.standard_normal(shape)
                    drawn = bits(rng, shape) if spec.dtype == "bool" else drawn
                    given[spec.name] = drawn.astype("float32" if spec.dtype == "bfloat16" else spec.dtype)
                try:
                    empty: list[str] = []
                    want = plan.run_eagerly([given[spec.name] for spec in plan.input_specs], empty)
                except LayerGraphError:
                    continue
                if not empty and all(
                    y.ndim == len(spec.shape) for y, spec in zip(want, plan.output_specs, strict=True)
                ):
                    place = f"{rows}x{length}"
                    arrays |= {f"{place}/in/{name}": array for name, array in given.items()}
                    arrays |= {f"{place}/out/{i}": y for i, y in enumerate(want)}
                break
    np.savez(path, **arrays)


def distinct(rng: np.random.Generator, shape: list[int]) -> np.ndarray:
    """Different integers: which of equal ones `top_k` takes first isn't defined."""
    return rng.permutation(math.prod(shape)).reshape(shape)


def bits(rng: np.random.Generator, shape: list[int]) -> np.ndarray:
    """Integers that are ids in any table."""
    return rng.integers(0, 2, shape)


def read(folder: Path) -> dict[str, dict[str, np.ndarray] | str]:
    """What the reader computes for each file of `folder`, or its error. The files are removed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-P", str(READER), str(folder)], check=True, env=environment)
    found: dict[str, dict[str, np.ndarray] | str] = {}
    for path in folder.glob("*.results.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            named = dict(arrays)
        found[path.name.removesuffix(".results.npz")] = str(named["error"]) if "error" in named else named
    return found


def compared(got: dict[str, np.ndarray] | str | None, wanted: Path, report: Exported, plan: Any) -> tuple[str, int]:
    """What is wrong with a file's outputs, empty if nothing is; and for how many inputs rounding explains it."""
    if got is None or isinstance(got, str):
        return str(got), 0
    names, rounded = [tensor.name for tensor in report.outputs], 0
    tolerances = [tensor.tolerance or 0.0 for tensor in report.outputs]
    for place, case in cases_of(wanted, plan).items():
        mine = {key: array for key, array in got.items() if key.startswith(f"{place}/")}
        if report.conditions and not mine:
            continue
        if mine.keys() != {f"{place}/out/{name}" for name in names}:
            return f"has outputs {sorted(mine)}, expected {names}", rounded
        arrays = [mine[f"{place}/out/{name}"] for name in names]
        offs = differences([case], [arrays])
        if all(off <= most for off, most in zip(offs, tolerances, strict=True)):
            continue
        if not rounding_explains(plan, Calls.of(plan), case, arrays, tolerances):
            wrong = [(name, off) for name, off, most in zip(names, offs, tolerances, strict=True) if not off <= most]
            return ", ".join(f"{place}: {name} differs by {off:.2g}" for name, off in wrong), rounded
        rounded += 1
    return "", rounded


def cases_of(path: Path, plan: Any) -> dict[str, Case]:
    """The inputs that `write_cases` has written, with the model's outputs."""
    with np.load(path) as arrays:
        places = dict.fromkeys(key.split("/")[0] for key in arrays)
        return {
            place: Case(
                [arrays[f"{place}/in/{spec.name}"] for spec in plan.input_specs],
                [arrays[f"{place}/out/{i}"] for i in range(len(plan.output_specs))],
            )
            for place in places
        }


def reason(error: Exception) -> str:
    """An error's text without names and numbers, to be counted."""
    text = str(error).split(": ", 1)[-1] if isinstance(error, ExportError) else f"{type(error).__name__}: {error}"
    return re.sub(r"\d[\d.e+-]*", "N", re.sub(r"'[^']*'", "'...'", text))[:160]


def check(entries: Iterator[Entry], folder: Path, counts: Counter[str], failed: list[str], *, whole: bool) -> None:
    """Exports all models of a set and compares the files."""
    folder.mkdir(parents=True, exist_ok=True)
    exported: dict[str, tuple[Exported, Any]] = {}

    def settle() -> None:
        if not exported:
            return
        results = read(folder)
        for file, (report, plan) in exported.items():
            suffix = Path(file).suffix
            wrong, rounded = compared(results.get(file), folder / f"{Path(file).stem}.npz", report, plan)
            if rounded:
                counts[f"{suffix} inputs on which rounding decides"] += rounded
            way = "converted, with conditions on lengths" if report.conditions else "converted"
            counts[f"{suffix} {'mismatch' if wrong else way}"] += 1
            if wrong:
                failed.append(file)
                print(f"{file}: {wrong}", flush=True)
        exported.clear()
        for path in folder.iterdir():
            path.unlink()

    for name, make in entries:
        try:
            model = make()
        except Exception as error:
            counts["not made by the reference"] += 1
            if whole:
                print(f"{name}: {type(error).__name__}: {error}")
            continue
        for suffix in SUFFIXES:
            file = f"{name}{suffix}"
            try:
                exported[file] = model.export(folder / file, verbose=whole), model.plan()
            except Exception as error:
                known = isinstance(error, ExportError)
                counts[f"{suffix} {'refused' if known else 'ERROR'}: {reason(error)}"] += 1
                print(f"{file}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                if whole:
                    traceback.print_exc()
                if not known:
                    failed.append(file)
        if any(file.startswith(f"{name}.") for file in exported):
            write_cases(model, folder / f"{name}.npz")
        if len(exported) >= 100 or sum(p.stat().st_size for p in folder.iterdir()) > 1_000_000_000:
            settle()
    settle()


def main() -> int:
    """Runs the sets; the exit status is 1 if a file gives other numbers, or an export fails without a typed error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int, nargs="?", default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int)
    parser.add_argument("--only", nargs="*", metavar="SET")
    parser.add_argument("--applications", nargs="*", metavar="NAME")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    seeds = range(options.seed, options.seed + options.count)
    if options.case is not None:
        seeds = range(options.case, options.case + 1)
    scratch = options.folder / "made"
    scratch.mkdir(parents=True, exist_ok=True)
    sets: dict[str, Callable[[], Iterator[Entry]]] = {
        "zoo": zoo,
        "applications": lambda: applications(scratch, options.applications),
        "graphs": lambda: graphs(seeds),
        "wide_graphs": lambda: wide_graphs(seeds, scratch),
        "operations": lambda: operations(seeds, scratch),
    }
    failed: list[str] = []
    for name in options.only or sets:
        counts: Counter[str] = Counter()
        check(sets[name](), options.folder / name, counts, failed, whole=options.case is not None)
        print(f"{name}:\n" + "\n".join(f"  {times} {what}" for what, times in counts.most_common()), flush=True)
    print(f"{len(failed)} mismatches and errors" + (f": {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
