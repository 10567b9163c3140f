"""Compares every model of keras.applications with stock Keras: `make -C lab applications`, or ARGS='NAME ...' for some.

Random weights and small images. Stock Keras builds, saves and computes each model in a process of its own
(`applications_oracle.py`); the file is loaded here. The outputs, before the softmax, must agree to 1e-4 of the largest
value. Where Keras itself is about that far from its own result in float64, the result here may be 1.5 times as far from
it. The NASNets don't exist on Keras's torch backend: `--tensorflow PYTHON` names an interpreter with Keras 3 on
TensorFlow for them; `--all-by-tensorflow` uses it for all. Takes some minutes and several GiB of memory.
"""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np

TOLERANCE = 1e-4
#: How many times as far from float64 as Keras's ours may be, where Keras's are further than half of the tolerance.
MOST_ERROR = 1.5
ORACLE = Path(__file__).with_name("applications_oracle.py")
#: Models that Keras refuses to build on torch.
NOT_ON_TORCH = ("NASNetLarge", "NASNetMobile")


def names() -> list[str]:
    """The models of keras.applications."""
    found = vars(keras.applications).items()
    return sorted(
        name for name, made in found if inspect.isfunction(made) and "weights" in inspect.signature(made).parameters
    )


def ask_keras(name: str, python: str, backend: str, folder: Path) -> None:
    """Raises RuntimeError with Keras's last words."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [python, str(ORACLE), name, str(folder)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip().splitlines()[-1][:200])


class Comparison(NamedTuple):
    """Differences relative to the largest output: to Keras, of both to float64, between two images; and seconds."""

    difference: float
    error: float
    keras_error: float
    spread: float
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether it is as near as it has to be."""
        return self.difference < TOLERANCE or (
            self.keras_error > TOLERANCE / 2 and self.error <= MOST_ERROR * self.keras_error
        )


def compare(name: str, folder: Path) -> Comparison:
    """Compares the model with what Keras wrote."""
    started = time.perf_counter()
    loaded = layergraph.load_model(folder / f"{name}.keras")
    seconds = time.perf_counter() - started
    with np.load(folder / f"{name}.npz") as arrays:
        images, want, exact = arrays["images"], arrays["outputs"], arrays["exact"]
    (got,) = loaded.plan().run({loaded.input_names[0]: images}).values()

    def largest(values: np.ndarray) -> float:
        return float(np.abs(values).max() / np.abs(exact).max())

    return Comparison(
        largest(got - want), largest(got - exact), largest(want - exact), largest(want[0] - want[1]), seconds
    )


def main() -> int:
    """Compares the named models, or all; the exit status is 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--tensorflow", metavar="PYTHON")
    parser.add_argument("--all-by-tensorflow", action="store_true")
    options = parser.parse_args()
    failed = []
    print(
        "| model | by Keras on | difference | to float64 | Keras to float64 | images differ by | loaded in |\n"
        + "|---" * 7
        + "|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or names():
            other = name in NOT_ON_TORCH or options.all_by_tensorflow
            if other and options.tensorflow is None:
                print(f"| {name} | not compared: needs --tensorflow | | | | | |", flush=True)
                continue
            python, backend = (options.tensorflow, "tensorflow") if other else (sys.executable, "torch")
            try:
                ask_keras(name, python, backend, Path(folder))
                found = compare(name, Path(folder))
            except Exception as error:
                print(f"| {name} | {backend} | {type(error).__name__}: {str(error)[:300]} | | | | |", flush=True)
                failed.append(name)
                continue
            finally:
                for file in Path(folder).iterdir():
                    file.unlink()
            figures = [found.difference, found.error, found.keras_error, found.spread]
            cells = " | ".join([name, backend, *(f"{figure:.1e}" for figure in figures), f"{found.seconds:.2f} s"])
            print(f"| {cells} |", flush=True)
            if not found.holds:
                failed.append(name)
    print(f"{len(failed)} mismatches" + (f": {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
