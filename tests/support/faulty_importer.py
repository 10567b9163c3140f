"""The program of an importer whose HDF5 parser does what the variable FAULT says, instead of opening a file."""

from __future__ import annotations

import functools
import os
import runpy
import signal
import time
from typing import Any

import h5py
from layerserve_server.forking import forked


def supervise_shortly(supervise: Any, *arguments: Any, **limits: Any) -> None:
    """Limits the processor time to a second."""
    supervise(*arguments, **{**limits, "seconds": 1.0})


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
    forked.supervise = functools.partial(supervise_shortly, forked.supervise)
    runpy.run_module("layerserve_server.importing.program", run_name="__main__")
