"""Trains on Parquet that doesn't fit into memory, by row groups: `make -C lab row-groups ARGS="1500 20"`.

1. A run of one worker, and one of two, on a folder of 1500 megabytes, each within MAX_MEMORY for a worker: their logs
   agree to 1e-5. The examples a second are those of the second epoch, beside a run on the same rows in a .npy file.
2. Stock Keras (torch backend, if it is installed) in the same order of rows: its losses agree to 1e-5.
3. On 300 MB, 20 kills of the training process, or of one of two workers, at random moments: each run ends as the
   unbroken one did, bit for bit.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import pyarrow
from layergraph import Input, Model, load_model
from layergraph.layers import Dense
from layergraph.training.epochs import GroupedOrder
from layerserve import Checkpoints, Client, EpochEnd, Resources, RunStarted, ServerFile
from layerserve.values.table_files.table import Selection
from layerserve_server.app import App
from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.parquet_data import ParquetData
from layerserve_server.extensions.installed import Settings
from layerserve_server.system_memory import memory_of
from layerserve_server.training.proc_files import children_of
from pyarrow import parquet
from small_runs import training_processes

WIDTH = 256
ROW_BYTES = 4 * WIDTH
#: Rows of a row group, and number of groups of a file.
GROUP, GROUPS = 16_000, 5
#: What a worker may take, in bytes: far less than the data.
MAX_MEMORY = 900 << 20
BATCH, SEED = 256, 7


def write(folder: Path, megabytes: int) -> int:
    """Writes Parquet files, and the same rows as .npy files beside them. Returns the number of rows."""
    rows = megabytes * 10**6 // ROW_BYTES
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(WIDTH).astype(np.float32)
    (folder / "parquet").mkdir(parents=True)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, WIDTH))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.float32, (rows,))
    for number, start in enumerate(range(0, rows, GROUP * GROUPS)):
        part = slice(start, min(rows, start + GROUP * GROUPS))
        x[part] = rng.standard_normal((part.stop - start, WIDTH), np.float32)
        y[part] = np.tanh(x[part] @ truth / 4) + part.start / rows
        lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x[part].ravel()), WIDTH)
        # Without a dictionary, as numbers that are all different have none.
        table, path = pyarrow.table({"x": lists, "y": y[part]}), folder / "parquet" / f"part-{number:04}.parquet"
        parquet.write_table(table, path, row_group_size=GROUP, use_dictionary=False, compression="zstd")
    x.flush()
    y.flush()
    return rows


def save_model(path: Path) -> None:
    path.mkdir(parents=True)
    x = Input((WIDTH,), name="x")
    model = Model(x, Dense(1, name="y")(Dense(64, activation="tanh")(x)))
    model.compile("adam", "mse")
    model.save(path / "model.keras")


class Watched:
    """The most memory of each training process while a run goes on, without mapped files, and the times of epochs."""

    def __init__(self, run: Any, workers: int) -> None:
        self.most = 0
        self.epochs: list[float] = []
        for event in run:
            if isinstance(event, RunStarted | EpochEnd):
                self.epochs.append(time.monotonic())
            for process in training_processes(os.getpid()):
                for pid in children_of(process) if workers > 1 else (process,):
                    self.most = max(self.most, memory_of(pid))
        run.wait()


def train(client: Client, folder: str, workers: int = 1, **changes: Any) -> Any:
    x, y = (
        (ServerFile(f"{folder}/x.npy"), ServerFile(f"{folder}/y.npy"))
        if changes.pop("arrays", False)
        else (ServerFile(f"{folder}/parquet/", columns=["x"]), ServerFile(f"{folder}/parquet/", columns=["y"]))
    )
    options: dict[str, Any] = {
        "batch_size": BATCH, "epochs": 2, "seed": SEED, "publish": False, "resources": Resources(workers=workers),
    }  # fmt: skip
    return client.train("wide", x, y, **options | changes)


def compare(client: Client, data: Path, models: Path, megabytes: int) -> None:
    rows = write(data / "large", megabytes)
    size = sum(path.stat().st_size for path in (data / "large" / "parquet").iterdir())
    print(f"{rows} rows of {ROW_BYTES} bytes, {size / 1e6:.0f} MB of Parquet")
    histories = {}
    for name, workers, options in (
        (".npy, mapped", 1, {"arrays": True}),
        ("row groups", 1, {}),
        ("row groups, two workers", 2, {}),
        (".npy, mapped, two workers", 2, {"arrays": True}),
    ):
        run = train(client, "large", workers, **options)
        watched = Watched(run, workers)
        histories[name] = run.history["loss"]
        rate = rows / (watched.epochs[-1] - watched.epochs[-2])
        print(
            f"{name}: {rate:.0f} examples/s, {watched.most / 2**20:.0f} MiB in a worker, loss {run.history['loss']}",
            flush=True,
        )
        if "groups" in name:
            assert watched.most < MAX_MEMORY, f"a worker took {watched.most} bytes, expected less than {MAX_MEMORY}"
    one, two = histories["row groups"], histories["row groups, two workers"]
    np.testing.assert_allclose(two, one, rtol=1e-5)
    keras_in_the_same_order(data / "large", models, one)


def keras_in_the_same_order(folder: Path, models: Path, losses: list[float]) -> None:
    try:
        import keras
    except ImportError:
        print("Keras isn't installed: not compared")
        return
    file = DataFile(str(folder), "parquet/")
    described, arrays = reader.describe(file, [Selection(("x",))])
    groups = ParquetData(described).grouped(arrays)[0].groups
    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy", mmap_mode="r")
    model = keras.saving.load_model(models / "wide" / "1" / "model.keras")

    class InOrder(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self, epoch: int) -> None:
            super().__init__()
            self._order = GroupedOrder(groups, SEED, epoch)

        def __len__(self) -> int:
            return -(-groups.rows // BATCH)

        def __getitem__(self, batch: int) -> Any:
            rows = self._order[batch * BATCH : min(groups.rows, (batch + 1) * BATCH)].numpy()
            return x[rows], y[rows]

    for epoch, expected in enumerate(losses):
        history = model.fit(InOrder(epoch), shuffle=False, verbose=0).history
        print(f"Keras, epoch {epoch + 1}: loss {history['loss'][0]}, here {expected}", flush=True)
        np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-5)


def kill(client: Client, data: Path, kills: int) -> None:
    write(data / "small", 300)
    rng = random.Random(3)
    options: dict[str, Any] = {"epochs": 2, "checkpoints": Checkpoints(resume_seconds=0.01), "publish": True}
    for workers in (1, 2):
        unbroken = train(client, "small", workers, **options).wait()
        expected = _weights(client, unbroken.version)
        seconds = (unbroken.info().ended_time - unbroken.info().started_time).total_seconds()
        for number in range(kills // 2):
            run = train(client, "small", workers, version=1, **options)
            events = iter(run)
            while not isinstance(next(events), RunStarted):
                pass
            after = rng.uniform(0, seconds)
            time.sleep(after)
            for process in training_processes(os.getpid()):
                os.kill(rng.choice(children_of(process)) if workers > 1 else process, signal.SIGKILL)
            run.wait()
            for ours, theirs in zip(_weights(client, run.version), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)
            assert run.history == unbroken.history
            print(f"{workers} workers, kill {number + 1} after {after:.2f} s: resumed {run.info().resumed}", flush=True)


def _weights(client: Client, version: int) -> list[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = client.download("wide", folder, version=version)
        return load_model(path).get_weights()


def main(megabytes: int = 1500, kills: int = 20) -> None:
    with tempfile.TemporaryDirectory() as folder:
        models, data = Path(folder) / "models", Path(folder) / "data"
        save_model(models / "wide" / "1")
        data.mkdir()
        settings = Settings(
            path=models, host="127.0.0.1", grpc_port=0, metrics_port=-1, data_root=data, max_workers=2, training_nice=0
        )  # fmt: skip
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=600) as client:
            if megabytes:
                compare(client, data, models, megabytes)
            if kills:
                kill(client, data, kills)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
