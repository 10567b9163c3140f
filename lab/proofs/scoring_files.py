"""Scores a Parquet file by `layerserve score`, beside `Plan.run` on the same rows, and kills it at random moments.

    PYTHON lab/proofs/scoring_files.py --rows 10000000 --kills 10

A worker, the parent, or all processes are killed; after --resume every row must be there once, and the files must be
those of an undisturbed run, bit for bit. Rates are rows a second of CPU time, so that other programs of the machine
count little; `Plan.run` is measured before and after, in as many processes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import layergraph
import numpy as np
import pyarrow
import pyarrow.parquet
from layergraph import layers

FEATURES, GROUP, WORKERS = 16, 1 << 17, 2
#: What is killed in turn.
VICTIMS = ("a worker", "all", "the parent")
COMMAND = [sys.executable, "-c", "import sys; from layerserve.cli import main; sys.exit(main())"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--units", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="layerserve-scoring-") as name:
        folder = Path(name)
        make(folder, arguments.rows, arguments.units)
        plain = [str(folder / "model.keras"), str(folder / "rows.parquet")]
        options = ["--keep", "id", "--workers", str(WORKERS), "--batch-size", str(arguments.batch_size)]
        # What it takes to start is no part of the rate.
        few = [plain[0], str(folder / "few.parquet")]
        starts, _, _ = measured([*COMMAND, "score", *few, str(folder / "few"), *options])
        before = plan_rate(folder, arguments.batch_size)
        spent, seconds, memory = measured([*COMMAND, "score", *plain, str(folder / "whole"), *options])
        rate = (arguments.rows - WORKERS * GROUP) / (spent - starts)
        after = plan_rate(folder, arguments.batch_size)
        print(f"{arguments.rows:,} rows in {seconds:.1f} s with {WORKERS} workers: {rate:,.0f} rows/s of a core")
        print(f"Plan.run: {before:,.0f} and {after:,.0f} rows/s of a core; ratio {2 * rate / (before + after):.3f}")
        for name, several in zip(("parent", *["worker"] * WORKERS), zip(*memory, strict=True), strict=True):
            print(f"memory of the {name}, MB:", *(f"{one / 1e6:.0f}" for one in several), flush=True)
        killed(folder, [*COMMAND, "score", *plain], options, arguments.kills)
        check(folder / "whole", folder / "killed", arguments.rows)
    return 0


def make(folder: Path, rows: int, units: int) -> None:
    x = layergraph.Input((FEATURES,), name="x")
    hidden = layers.Dense(units, activation="relu")(layers.Dense(units, activation="relu")(x))
    layergraph.Model(x, layers.Dense(1, name="y")(hidden)).save(folder / "model.keras")
    for name, count in (("rows", rows), ("few", WORKERS * GROUP)):
        random_numbers = np.random.default_rng(0)
        schema = pyarrow.schema([("id", pyarrow.int64()), ("x", pyarrow.list_(pyarrow.float32(), FEATURES))])
        with pyarrow.parquet.ParquetWriter(
            folder / f"{name}.parquet", schema, compression="none", use_dictionary=False
        ) as file:
            for start in range(0, count, GROUP):
                numbers = random_numbers.standard_normal((min(GROUP, count - start), FEATURES), np.float32)
                ids = np.arange(start, start + len(numbers))
                columns = [ids, pyarrow.FixedSizeListArray.from_arrays(numbers.ravel(), FEATURES)]
                file.write_table(pyarrow.Table.from_arrays(list(map(_array, columns)), schema=schema), GROUP)


def _array(column: object) -> object:
    return pyarrow.array(column) if isinstance(column, np.ndarray) else column


def plan_rate(folder: Path, size: int) -> float:
    """Returns the rows that `Plan.run` computes in a second of a core, in processes with one thread at once."""
    program = f"""
import time, resource, numpy, pyarrow.parquet, torch, layergraph
torch.set_num_threads(1)
plan = layergraph.load_model({str(folder / "model.keras")!r}).plan()
rows = 0
spent = 0.0
file = pyarrow.parquet.ParquetFile({str(folder / "rows.parquet")!r})
x = file.read_row_group(0, columns=["x"])["x"].combine_chunks().flatten().to_numpy().reshape(-1, {FEATURES})
while spent < 10:
    for begin in range(0, len(x), {size}):
        start = time.process_time()
        plan.run({{"x": x[begin : begin + {size}]}})
        spent += time.process_time() - start
        rows += len(x[begin : begin + {size}])
print(rows / spent)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    several = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(WORKERS)]
    return sum(float(one.communicate()[0]) for one in several) / WORKERS


def measured(command: list[str]) -> tuple[float, float, list[list[int]]]:
    """Returns the CPU time and the wall time of a command, in seconds, and its processes' memory at some moments."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    memory: list[list[int]] = []
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            sizes = list(map(resident, [process.pid, *children(process.pid)]))
            if len(sizes) == 1 + WORKERS and all(sizes):
                memory.append(sizes)
            time.sleep(1)
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.monotonic() - start, memory[:: max(1, len(memory) // 15)]


def children(pid: int) -> list[int]:
    found = [Path(f"/proc/{pid}/task/{one}/children") for one in os.listdir(f"/proc/{pid}/task")]
    return [int(child) for file in found if file.exists() for child in file.read_text().split()]


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def killed(folder: Path, command: list[str], options: list[str], kills: int) -> None:
    """Scores to "killed", in which a worker, the parent or the whole job is killed in turn."""
    # In numbers of parts: 0 is while the job starts.
    moments = sorted(random.choices(range(parts(folder / "whole")), k=kills))
    for attempt in range(kills + 1):
        line = [*command, str(folder / "killed"), *options, *(["--resume"] if attempt else [])]
        with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
            while moments and process.poll() is None:
                if parts(folder / "killed") < moments[0]:
                    time.sleep(0.05)
                    continue
                time.sleep(random.uniform(0, 0.5))
                workers = children(process.pid)
                victim = VICTIMS[len(moments) % 3]
                print(f"killed after {parts(folder / 'killed')} parts: {victim}", flush=True)
                del moments[0]
                if victim == "a worker" and workers:
                    os.kill(random.choice(workers), signal.SIGKILL)
                    continue
                for pid in [process.pid, *(workers if victim == "all" else [])]:
                    os.kill(pid, signal.SIGKILL)
                break
        if process.returncode == 0:
            assert not moments, f"the job ended before {len(moments)} of the kills; pass more --rows"
            print(f"done at attempt {attempt + 1}, {kills} kills")
            return
        assert process.returncode == -signal.SIGKILL, process.returncode
    raise AssertionError("the job didn't end")


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*")))


def check(whole: Path, killed: Path, rows: int) -> None:
    digests = [
        {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(one.glob("part-*"))}
        for one in (whole, killed)
    ]
    assert digests[0] == digests[1], "files differ"
    total = count = 0
    for file in sorted(killed.glob("part-*")):
        ids = pyarrow.parquet.read_table(file, columns=["id"])["id"].to_numpy()
        total, count = total + int(ids.sum()), count + len(ids)
    assert (count, total) == (rows, rows * (rows - 1) // 2), (count, total)
    assert not [file for file in killed.iterdir() if file.name.startswith(".tmp-")]
    print(f"{count:,} rows once each, {len(digests[0])} files equal bit for bit")


if __name__ == "__main__":
    sys.exit(main())
