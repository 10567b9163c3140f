"""Scores rows with Ray and with Spark, kills actors meanwhile, and compares the rows with those of Predict.

    PYTHON lab/proofs/scoring_engines.py --engines ray spark --rows 1000000 --kills 5

PYTHON has layerserve[server,ray,spark], Keras and a JVM. By path and by the address of a server, a version is uploaded
while the job runs. Every row must be there once, with the numbers of the version of the start. With Ray, a model of
layergraph that is pickled by a function of the user must give those of stock Keras.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

# As for servers of tests: timing engines isn't what is looked at here, and they differ in the last bits.
os.environ.setdefault("LAYERSERVE_TUNING_SECONDS", "0")

from layerserve import Client, Scorer
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

FEATURES, OUTPUTS = 16, 3
#: Rows that Predict and Keras compute at a time.
PART = 50_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["ray", "spark"], choices=["ray", "spark"])
    parser.add_argument("--sources", nargs="+", default=["path", "server"], choices=["path", "server"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory(prefix="layerserve-scoring-") as name:
        folder = Path(name)
        make_model(folder / "models" / "m" / "1" / "model.keras", seed=1)
        make_model(folder / "next.keras", seed=2)
        make_rows(folder / "rows", arguments.rows)
        settings = Settings(
            path=folder / "models", host="127.0.0.1", grpc_port=0, metrics_port=0, poll_seconds=0.1, drain_seconds=0
        )
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
            expected = predicted(client, folder / "rows")
            for engine in arguments.engines:
                for source in arguments.sources:
                    scorer = Scorer(
                        folder / "models" if source == "path" else client.address, "m", version=1, columns=["id"]
                    )
                    out = folder / f"{engine}-{source}"
                    with uploading(client, folder / "next.keras"):
                        began = time.monotonic()
                        ENGINES[engine](scorer, folder / "rows", out, arguments.kills)
                        seconds = time.monotonic() - began
                    check(out, expected)
                    newest = client.model("m").version
                    print(
                        f"{engine}, {source}: {arguments.rows} rows in {seconds:.0f} s, each once, equal to Predict's "
                        f"of version 1; the newest is {newest} by now",
                        flush=True,
                    )
        if "ray" in arguments.engines:
            check_pickled(folder)
    return 0


def make_model(path: Path, seed: int) -> None:
    import layergraph
    from layergraph import layers

    layergraph.utils.set_random_seed(seed)
    x = layergraph.Input((FEATURES,), name="x")
    hidden = layers.BatchNormalization()(layers.Dense(32, activation="relu")(x))
    path.parent.mkdir(parents=True, exist_ok=True)
    layergraph.Model(x, layers.Dense(OUTPUTS, activation="softmax", name="y")(hidden)).save(path)


def make_rows(folder: Path, count: int) -> None:
    """Writes rows with keys to four files."""
    folder.mkdir()
    values = np.random.default_rng(0).random((count, FEATURES), "float32")
    for part, ids in enumerate(np.array_split(np.arange(count), 4)):
        lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values[ids].ravel()), FEATURES)
        table = pyarrow.table({"id": ids, "x": lists})
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet", row_group_size=25_000)


def arrays_of(folder: Path) -> np.ndarray[Any, Any]:
    """The rows by their keys."""
    table = pyarrow.parquet.read_table(folder).sort_by("id")
    return table["x"].combine_chunks().flatten().to_numpy().reshape(-1, FEATURES)


def predicted(client: Client, folder: Path) -> np.ndarray[Any, Any]:
    found = client.predict("m", arrays_of(folder), version=1, batch_size=PART)
    assert isinstance(found, np.ndarray)
    return found


@contextmanager
def uploading(client: Client, path: Path) -> Iterator[None]:
    """In the block, another version is uploaded after a few seconds."""
    timer = threading.Timer(5, lambda: client.upload("m", path))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def by_ray(scorer: Scorer, rows: Path, out: Path, kills: int) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    try:
        with killing(kills):
            dataset = ray.data.read_parquet(str(rows), override_num_blocks=40)
            # Less than a core each, so that files are read and written beside them.
            scorer.ray(dataset, concurrency=2, batch_size=2048, num_cpus=0.5).write_parquet(str(out))
    finally:
        ray.shutdown()


@contextmanager
def killing(kills: int) -> Iterator[None]:
    """In the block, an actor is killed at random moments."""
    done, ended = [0], threading.Event()

    def kill() -> None:
        while done[0] < kills and not ended.wait(random.uniform(0.5, 3)):
            actors = [pid for pid in descendants(os.getpid()) if "ScoringActor" in command(pid)]
            if actors:
                os.kill(random.choice(actors), signal.SIGKILL)
                done[0] += 1

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        print(f"  {done[0]} actors were killed", flush=True)


def descendants(pid: int) -> list[int]:
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, waiting = [], [pid]
    while waiting:
        one = waiting.pop()
        children = [child for child, parent in parents.items() if parent == one]
        found += children
        waiting += children
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def by_spark(scorer: Scorer, rows: Path, out: Path, kills: int) -> None:
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    for key in ("spark.driver.host", "spark.driver.bindAddress"):
        builder = builder.config(key, "127.0.0.1")
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        scores = scorer.spark_udf(batch_size=4096)("x")
        spark.read.parquet(str(rows)).select("id", scores.alias("y")).write.parquet(str(out))
    finally:
        spark.stop()


ENGINES: dict[str, Callable[[Scorer, Path, Path, int], None]] = {"ray": by_ray, "spark": by_spark}


def check(out: Path, expected: np.ndarray[Any, Any]) -> None:
    """Every row is there once, and has the expected numbers."""
    table = pyarrow.parquet.read_table(out).sort_by("id")
    assert np.array_equal(table["id"].to_numpy(), np.arange(len(expected))), f"{len(table)} rows"
    found = table["y"].combine_chunks().flatten().to_numpy().reshape(-1, OUTPUTS)
    # Batches of another size are rounded in another way.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    print(f"  differs by {np.abs(found - expected).max():.1g}", flush=True)


def check_pickled(folder: Path) -> None:
    """A user's own function, with a model of layergraph in it, against stock Keras."""
    import layergraph
    import ray

    model = layergraph.load_model(folder / "models" / "m" / "1" / "model.keras")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    try:
        dataset = ray.data.read_parquet(str(folder / "rows" / "0.parquet")).limit(20_000)
        scored = dataset.map_batches(
            lambda b: {"id": b["id"], "y": model.predict(np.stack(b["x"]), verbose=0)}, batch_size=4096
        )
        found = scored.to_pandas().sort_values("id")
    finally:
        ray.shutdown()
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    stock = keras.models.load_model(folder / "models" / "m" / "1" / "model.keras")
    expected = stock.predict(arrays_of(folder / "rows")[: len(found)], verbose=0)
    np.testing.assert_allclose(np.stack(found["y"]), expected, rtol=1e-5, atol=1e-6)
    print(f"ray, a pickled model: {len(found)} rows, equal to stock Keras's", flush=True)


if __name__ == "__main__":
    sys.exit(main())
