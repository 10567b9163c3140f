"""In-process inference beside Keras on torch, TensorFlow, ONNX Runtime and OpenVINO, on the same weights.

    python lab/benchmarks/bench_compute.py [--peers PYTHON] [--models A,B] [--rows 1,8,32] [--seconds 1] [--threads 2]

PYTHON is the interpreter of a venv with `tensorflow-cpu keras tf2onnx onnxruntime openvino`; without it only Keras on
torch is measured. Prints a Markdown table of p50 in milliseconds, tuned ("by" the engine that was chosen) and on torch
call by call ("eager"), and the ratio of the best other engine to ours (above 1: ours is faster). Rows are measured one
after the other in one run: read the ratios, not the milliseconds.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
import torch
from bench_timing import p50
from layerserve_zoo.zoo import ZOO

HERE = Path(__file__).parent
LARGE = ("inception", "residual", "resnet50", "efficientnetb0")
#: For each row of the table: what servers take by default.
TUNING_SECONDS = 10.0
ENGINES = ("keras_torch", "keras_tensorflow", "tensorflow", "onnxruntime", "openvino")


def transformer() -> Any:
    """One encoder block over 128 steps of 256 features."""
    x = entry = keras.Input((128, 256))
    attended = keras.layers.MultiHeadAttention(8, 32)(x, x)
    x = keras.layers.LayerNormalization()(keras.layers.Add()([x, attended]))
    dense = keras.layers.Dense(256)(keras.layers.Dense(1024, activation="gelu")(x))
    return keras.Model(entry, keras.layers.LayerNormalization()(keras.layers.Add()([x, dense])))


def bigru() -> Any:
    """A text classifier: embedding, bidirectional GRU, dense."""
    entry = keras.Input((200,), dtype="int32")
    x = keras.layers.Embedding(5000, 128)(entry)
    x = keras.layers.Bidirectional(keras.layers.GRU(64))(x)
    return keras.Model(entry, keras.layers.Dense(10, activation="softmax")(x))


def builders() -> dict[str, Callable[[], Any]]:
    """Name -> what makes the model: the guide's at the guide's sizes, and five more."""
    guide = ("dense", "headline", "tweets", "shared_vision", "inception", "residual")
    made: dict[str, Callable[[], Any]] = {name: ZOO[name].make for name in guide}
    made["transformer"] = transformer
    made["bigru"] = bigru
    made["mobilenetv2"] = lambda: keras.applications.MobileNetV2(weights=None)
    made["efficientnetb0"] = lambda: keras.applications.EfficientNetB0(weights=None)
    made["resnet50"] = lambda: keras.applications.ResNet50(weights=None)
    return made


def data_for(specs: Any, rows: int) -> dict[str, np.ndarray]:
    """Random rows, by input name."""
    rng = np.random.default_rng(0)
    shapes = {spec.name: (rows, *(100 if size is None else size for size in spec.shape[1:])) for spec in specs}
    return {
        spec.name: rng.integers(0, 1000, shapes[spec.name]).astype(spec.dtype)
        if "int" in spec.dtype
        else rng.standard_normal(shapes[spec.name]).astype(spec.dtype)
        for spec in specs
    }


def measure(path: Path, rows: int, seconds: float, peers: str | None) -> tuple[dict[str, float], str]:
    """Engine -> p50 in milliseconds, and the engine that tuning chose for us."""
    ours = layergraph.load_model(path)
    data = data_for(ours.input_specs, rows)
    plan = ours.plan()
    found = {"eager": p50(lambda: plan.run(data), seconds)}
    # As a server does: where so many rows take too long to be tried, what one row says goes.
    tuned = plan.tune(rows=sorted({1, rows}), seconds=TUNING_SECONDS)
    print(f"{path.stem} {rows}: {tuned}", file=sys.stderr)
    found["layergraph"] = p50(lambda: plan.run(data), seconds)
    stock = keras.models.load_model(path, compile=False)
    inputs = [data[tensor.name] for tensor in stock.inputs]
    structure = inputs if len(inputs) > 1 else inputs[0]
    found["keras_torch"] = p50(lambda: stock.predict_on_batch(structure), seconds)
    gc.collect()
    if peers:
        with tempfile.NamedTemporaryFile(suffix=".npz") as file:
            np.savez(file, **data)
            file.flush()
            command = [peers, str(HERE / "compute_peers.py"), str(path), file.name, str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stderr[-400:], file=sys.stderr)
        else:
            found |= {engine: values[0] for engine, values in json.loads(done.stdout.splitlines()[-1]).items()}
    return found, tuned.choices[-1].engine if tuned.choices else "eager"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers")
    parser.add_argument("--models", default=",".join(builders()))
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = os.environ["TF_NUM_INTRAOP_THREADS"] = str(options.threads)
    heads = ("model", "rows", "layergraph", "by", "eager", *ENGINES, "best other / ours", "Keras on torch / ours")
    print("| " + " | ".join(heads) + " |")
    print("|" + "---|" * len(heads))
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            path = Path(folder) / f"{name}.keras"
            builders()[name]().save(path)
            for rows in (int(rows) for rows in options.rows.split(",")):
                if name in LARGE and rows > 8:
                    continue
                found, engine = measure(path, rows, options.seconds, options.peers)
                ours = found["layergraph"]
                best = min(found[peer] for peer in ENGINES if peer in found) / ours
                cells = [f"{found[engine]:.3g}" if engine in found else "" for engine in ENGINES]
                cells += [f"{best:.2f}", f"{found['keras_torch'] / ours:.1f}"]
                eager = f"{found['eager']:.3g}"
                print(" | ".join(("| " + name, str(rows), f"{ours:.3g}", engine, eager, *cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
