"""The program that forks, with an HDF5 parser that does what the variable FAULT says, instead of opening a file."""

from __future__ import annotations

import functools
import os
import signal
import time
from typing import Any

import h5py
from layerserve_server.jobs import program


def limit_shortly(limit: Any, seconds: float, memory_bytes: int | None) -> None:
    """Limits the processor time to a second."""
    limit(1.0, memory_bytes)


def fault(*_: object, **__: object) -> Any:
    name = os.environ["FAULT"]
    if name == "sleeps":
        time.sleep(600)
    if name == "loops":
        while True:
            pass
    if name == "takes memory":
        return bytearray(1 << 40)
    if name == "exits":
        os._exit(3)
    if name == "reads":
        with open(os.environ["FAULT_FILE"]) as file:
            raise RuntimeError(file.read())
    if name == "writes":
        with open(os.environ["FAULT_FILE"], "w") as file:
            file.write("taken over")
    if name == "fills the disk":
        with open(os.environ["FAULT_FILE"], "w") as file:
            os.posix_fallocate(file.fileno(), 0, 1 << 40)
    return signal.raise_signal(signal.Signals[name])


if __name__ == "__main__":
    h5py.File = fault
    # Seconds of processor time would make the tests slow.
    program._limit = functools.partial(limit_shortly, program._limit)
    program.main()
