"""Loads and runs files of 1,000, 10,000 and 100,000 layers, calls or inputs: python sizes.py FOLDER [--forms dense ...]

Prints CPU seconds and memory of each file, and the CPU time of one layer relative to that of the file before. A file is
loaded by a process of its own, after small files of the same kind. Fails if a layer takes more than twice the time that
it takes in a tenth of the layers, or if the memory of a layer doubles.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from large_files import FORMS, WRITERS

COUNTS = (1000, 10_000, 100_000)
#: Layers of the small files, which are loaded before the time is measured.
SMALL = 2
MOST_GROWTH = 2.0
#: Seconds and MiB that are too few to compare.
FEW_SECONDS, FEW_MIB = 0.2, 20


def measure(path: Path, small: Path) -> dict[str, float]:
    """CPU seconds to load and to run the model at `path`, and the memory that it adds, in MiB."""
    import layergraph
    import numpy as np

    def run(model: layergraph.Model) -> float:
        start = time.process_time()
        model.plan().run({spec.name: np.ones((1, 2), "float32") for spec in model.input_specs})
        return time.process_time() - start

    for known in sorted(small.glob(f"*-{SMALL}{path.suffix}")):
        run(layergraph.load_model(known))
    before, start = _peak(), time.process_time()
    model = layergraph.load_model(path)
    loaded = time.process_time() - start
    return {"load": loaded, "first": run(model), "next": run(model), "memory": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def written(folder: Path, form: str, count: int, suffix: str) -> Path:
    """The file of a form, written if it isn't there."""
    path = folder / f"{form}-{count}{suffix}"
    return path if path.exists() else WRITERS[suffix](path, FORMS[form](count))


def compare(folder: Path, form: str, suffix: str, counts: list[int]) -> list[str]:
    """Prints the rows of a form; returns what grows faster than the count."""
    problems = []
    before: dict[str, float] = {}
    for count in counts:
        path = written(folder, form, count, suffix)
        command = [sys.executable, __file__, str(folder), "--measure", str(path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        seconds = found["load"] + found["first"]
        growth = ""
        if before:
            times = count / before["count"]
            ratio = seconds / (times * before["seconds"])
            growth = f"{ratio:6.2f}"
            if ratio > MOST_GROWTH and before["seconds"] > FEW_SECONDS:
                problems.append(f"{path.name}: a layer takes {ratio:.1f} times as long")
            if before["memory"] > FEW_MIB and found["memory"] > MOST_GROWTH * times * before["memory"]:
                problems.append(f"{path.name}: a layer takes more than twice the memory")
        print(
            f"{form:14} {suffix:7} {count:8,} {found['load']:8.2f} {found['first']:8.2f} {found['next']:8.2f} "
            f"{found['memory']:8.0f} {growth:>7}",
            flush=True,
        )
        before = {"count": count, "seconds": seconds, "memory": found["memory"]}
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.folder)))
        return 0
    given.folder.mkdir(parents=True, exist_ok=True)
    for form in FORMS:
        for suffix in WRITERS:
            written(given.folder, form, SMALL, suffix)
    print(f"{'form':14} {'file':7} {'count':>8} {'load, s':>8} {'first, s':>8} {'next, s':>8} {'MiB':>8} {'growth':>7}")
    problems = [
        problem
        for form in given.forms
        for suffix in WRITERS
        for problem in compare(given.folder, form, suffix, given.counts)
    ]
    print("\n".join(problems) or "time and memory grow with the size of the file")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
