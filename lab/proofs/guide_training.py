"""Trains the guide's models through a server and in stock Keras.

`make -C lab guide-training`, or ARGS='NAME ...' for some.

All ten at the guide's sizes, except for a video with small frames: three epochs, a last partial batch, and validation.
Every log of every epoch must equal Keras's to 1e-4.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "torch"

import keras
import stock_zoo
from guide_runs import SIZES, logs, worst
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO

TOLERANCE = 1e-4


def main(names: list[str]) -> int:
    """Trains the models; the exit status is 1 if a log differs."""
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            keras.utils.clear_session()
            keras.utils.set_random_seed(1)
            path = Path(folder) / name / "1" / "model.keras"
            path.parent.mkdir(parents=True)
            stock_zoo.in_keras(name).build(**SIZES.get(name, {})).save(path)
        settings = Settings(
            path=Path(folder), host="127.0.0.1", grpc_port=0, metrics_port=0, poll_seconds=0.5, drain_seconds=0
        )
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=600) as client:
            for name in names:
                began = time.monotonic()
                path = Path(folder) / name / "1" / "model.keras"
                apart = worst(logs(client, name, path, name, rows=8, batch_size=4))
                print(f"{name}: logs {apart:.1e} apart, {time.monotonic() - began:.0f} s", flush=True)
                if apart > TOLERANCE:
                    failed.append(name)
    print(f"{len(names)} models, {len(failed)} mismatches" + (f": {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(ZOO)))
