"""Every model of keras.applications against stock Keras: python tests/compare_applications.py [NAME ...].

Random weights and small images; each model is built, saved and asked by stock Keras in a process of its own
(applications_oracle.py) and loaded here. The outputs, before the softmax, must agree to 1e-4 of the largest value. The
NASNets don't exist on Keras's torch backend: `--tensorflow PYTHON` names an interpreter with Keras 3 on TensorFlow for
them, or for all with `--all-by-tensorflow`. Takes some minutes and several GiB of memory.
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

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np

TOLERANCE = 1e-4
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


def compare(name: str, folder: Path) -> tuple[float, float, float]:
    """Difference to Keras and between the answers to two images, relative to the largest output; seconds of loading."""
    started = time.perf_counter()
    loaded = layergraph.load_model(folder / f"{name}.keras")
    seconds = time.perf_counter() - started
    with np.load(folder / f"{name}.npz") as arrays:
        images, want = arrays["images"], arrays["outputs"]
    (got,) = loaded.plan().run({loaded.input_names[0]: images}).values()
    largest = float(np.abs(want).max())
    return float(np.abs(got - want).max()) / largest, float(np.abs(want[0] - want[1]).max()) / largest, seconds


def main() -> int:
    """Compares the named models, or all; the exit status is 1 if any differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--tensorflow", metavar="PYTHON")
    parser.add_argument("--all-by-tensorflow", action="store_true")
    options = parser.parse_args()
    failed = []
    print("| model | by Keras on | difference | images differ by | loaded in |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or names():
            other = name in NOT_ON_TORCH or options.all_by_tensorflow
            if other and options.tensorflow is None:
                print(f"| {name} | not compared: needs --tensorflow | | | |", flush=True)
                continue
            python, backend = (options.tensorflow, "tensorflow") if other else (sys.executable, "torch")
            try:
                ask_keras(name, python, backend, Path(folder))
                difference, spread, seconds = compare(name, Path(folder))
            except Exception as error:
                print(f"| {name} | {backend} | {type(error).__name__}: {str(error)[:300]} | | |", flush=True)
                failed.append(name)
                continue
            finally:
                for file in Path(folder).iterdir():
                    file.unlink()
            print(f"| {name} | {backend} | {difference:.1e} | {spread:.1e} | {seconds:.2f} s |", flush=True)
            if not difference < TOLERANCE:
                failed.append(name)
    print(f"{len(failed)} mismatches" + (f": {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
