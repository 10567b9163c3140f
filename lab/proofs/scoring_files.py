"""Scores a Parquet file by `layerserve score`, beside `Plan.run` on the same rows, and kills it at random moments.

    PYTHON lab/proofs/scoring_files.py --rows 10000000 --kills 10

A worker, or all processes, are killed; after --resume every row must be there once, and the files must be those of an
undisturbed run, bit for bit. Rates are rows a second of CPU time, so that other programs of the machine count little.
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

FEATURES, GROUP = 16, 1 << 17
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
        options = ["--keep", "id", "--workers", "2", "--batch-size", str(arguments.batch_size)]
        # What it takes to start is no part of the rate.
        few = [plain[0], str(folder / "few.parquet")]
        starts, _, _ = measured([*COMMAND, "score", *few, str(folder / "few"), *options])
        spent, seconds, memory = measured([*COMMAND, "score", *plain, str(folder / "whole"), *options])
        rate = arguments.rows / (spent - starts)
        computed = plan_rate(folder, arguments.batch_size)
        print(f"{arguments.rows:,} rows in {seconds:.1f} s with 2 workers: {rate:,.0f} rows/s of a core")
        print(f"Plan.run: {computed:,.0f} rows/s of a core; ratio {rate / computed:.3f}")
        print("memory of all processes, MB:", ", ".join(f"{one / 1e6:.0f}" for one in memory))
        killed(folder, [*COMMAND, "score", *plain], options, seconds, arguments.kills)
        check(folder / "whole", folder / "killed", arguments.rows)
    return 0


def make(folder: Path, rows: int, units: int) -> None:
    x = layergraph.Input((FEATURES,), name="x")
    hidden = layers.Dense(units, activation="relu")(layers.Dense(units, activation="relu")(x))
    layergraph.Model(x, layers.Dense(1, name="y")(hidden)).save(folder / "model.keras")
    for name, count in (("rows", rows), ("few", 1)):
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
    """Returns the rows that `Plan.run` computes in a second of a core, in a process with one thread."""
    program = f"""
import time, resource, numpy, pyarrow.parquet, torch, layergraph
torch.set_num_threads(1)
plan = layergraph.load_model({str(folder / "model.keras")!r}).plan()
rows = 0
spent = 0.0
for batch in pyarrow.parquet.ParquetFile({str(folder / "rows.parquet")!r}).iter_batches({size}, columns=["x"]):
    x = batch.column(0).flatten().to_numpy().reshape(-1, {FEATURES})
    start = time.process_time()
    plan.run({{"x": x}})
    spent += time.process_time() - start
    rows += len(x)
    if spent > 30:
        break
print(rows / spent)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return float(subprocess.run([sys.executable, "-c", program], env=environment, stdout=-1, check=True).stdout)


def measured(command: list[str]) -> tuple[float, float, list[int]]:
    """Returns the CPU time and the wall time of a command, in seconds, and the memory of its processes over time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    memory = []
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            memory.append(sum(map(resident, [process.pid, *children(process.pid)])))
            time.sleep(1)
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent, time.monotonic() - start, memory[:: max(1, len(memory) // 12)]


def children(pid: int) -> list[int]:
    found = [Path(f"/proc/{pid}/task/{one}/children") for one in os.listdir(f"/proc/{pid}/task")]
    return [int(child) for file in found if file.exists() for child in file.read_text().split()]


def resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def killed(folder: Path, command: list[str], options: list[str], seconds: float, kills: int) -> None:
    """Scores to "killed", in which a worker or the whole job is killed in turn."""
    left = kills
    for attempt in range(100):
        line = [*command, str(folder / "killed"), *options, *(["--resume"] if attempt else [])]
        with subprocess.Popen(line, stderr=subprocess.DEVNULL) as process:
            while left:
                try:
                    process.wait(random.uniform(0.1, 0.3) * seconds)
                    break
                except subprocess.TimeoutExpired:
                    pass
                workers = children(process.pid)
                left -= 1
                if left % 2 and workers:
                    print("killed: a worker")
                    os.kill(random.choice(workers), signal.SIGKILL)
                else:
                    print("killed: all")
                    for pid in [process.pid, *workers]:
                        os.kill(pid, signal.SIGKILL)
                    break
            process.wait()
        if process.returncode == 0:
            print(f"done at attempt {attempt + 1}, {kills - left} kills")
            return
    raise AssertionError("the job didn't end")


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
