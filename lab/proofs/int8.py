"""Times int8 beside float32 on large convolutional models, and compares their outputs: `python int8.py`.

Weights that others have trained can't be taken for granted, so models of `keras.applications` are trained first, on
written digits of scikit-learn: the convolutions on small images, the classifier on large ones that are full of them.
With `--published`, also MobileNetV2 of the npm package nsfwjs, as its authors have trained it, on photographs.

float32 is tuned as in a server. The two are called in turns in one process, so that other load affects both.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
import torch
from layergraph.execution.engines.engine import UnfitError
from layergraph.golden import Golden, GoldenMismatchError, write_golden
from layergraph.lower_precision import reduce_precision
from sklearn.datasets import load_digits, load_sample_images
from sklearn.linear_model import LogisticRegression

#: Rows that fit the classifier, calibrate int8, are in the proof, and measure how often classes agree. The convolutions
#: are trained on the others.
FITTING, CALIBRATING, PROOF, TESTING = 160, 32, 16, 64
#: Height and width of images, and of those that the convolutions are trained on.
SIZE, TILE = 224, 64
EPOCHS = 2
#: Pairs of calls for each row count.
PAIRS = {1: 40, 8: 12}
#: For float32; large, as other work may slow it down.
TUNING_SECONDS = 300.0
#: What int8 must reach.
TIMES_AS_FAST = 1.5


@dataclass(frozen=True)
class Case:
    """A model file with rows, of which the last TESTING are for the comparison; `labels` of all rows if it has any."""

    name: str
    file: Path
    rows: Any
    labels: Any = None


def main() -> int:
    """Returns the number of models for which int8 is too slow or too far off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--atol", type=float, default=0.1, help="largest difference of a probability")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--published", action="store_true", help="also the model in npm's nsfwjs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for case in _cases(Path(folder), published=options.published):
            failed += not _compare(case, Path(folder), options.atol, options.threads)
    return failed


def _cases(folder: Path, *, published: bool) -> Iterator[Case]:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    rows, labels = _enlarged(digits.images[order, :, :, None] / 8 - 1, TILE), digits.target[order]
    own = FITTING + CALIBRATING + PROOF + TESTING
    tiled = np.tile(rows[-own:], (1, 4, 4, 1))[:, :SIZE, :SIZE]
    for make in (keras.applications.ResNet50, keras.applications.MobileNetV2):
        file = folder / f"{make.__name__}.keras"
        _trained(make, rows[:-own], tiled[:FITTING], labels[: FITTING - own], file)
        yield Case(make.__name__, file, tiled[FITTING:], labels[FITTING - own :])
    if published:
        from published_packages import model_file, unpacked

        file = model_file(unpacked("npm:nsfwjs@4.4.0", folder), "mobilenet_v2/model.min.js")
        yield Case("nsfwjs MobileNetV2", file, _photographs(CALIBRATING + PROOF + TESTING))


def _enlarged(images: Any, size: int = SIZE) -> Any:
    """Images of `size` x `size` with three channels, of images (rows, height, width, channels)."""
    tensor = torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)
    large = torch.nn.functional.interpolate(tensor, size=(size, size), mode="bilinear")
    return large.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _photographs(count: int) -> Any:
    """Crops of scikit-learn's photographs, from 0 to 1."""
    random, images = np.random.default_rng(0), load_sample_images().images
    crops = []
    for number in range(count):
        image = images[number % len(images)]
        side = int(random.integers(60, min(image.shape[:2])))
        top, left = (int(random.integers(0, length - side)) for length in image.shape[:2])
        crops.append(_enlarged(image[None, top : top + side, left : left + side] / 255)[0])
    return np.stack(crops)


def _trained(make: Any, small: Any, rows: Any, labels: Any, path: Path) -> Path:
    """Saves a model for images of SIZE x SIZE.

    Its convolutions are trained on `small`, images of TILE x TILE, and its normalizations and classifier are fitted to
    `rows`, images of its own size. `labels` are those of both, one after the other.
    """
    keras.utils.set_random_seed(0)
    trunk = make(weights=None, include_top=False, pooling="avg", input_shape=(TILE, TILE, 3))
    _classified(trunk).save(path)
    trained = layergraph.load_model(path)
    trained.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    began = time.monotonic()
    history = trained.fit(small, labels[: len(small)], epochs=EPOCHS, batch_size=32, verbose=0).history
    print(f"{make.__name__}: trained in {time.monotonic() - began:.0f} s, accuracy {history['accuracy'][-1]:.3f}")
    trunk = make(weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3))
    trunk.set_weights(trained.get_weights()[:-2])
    _fit_normalizations(trunk, rows[:32])
    features = trunk.predict(rows, batch_size=16, verbose=0)
    center, spread = features.mean(0), features.std(0) + 1e-6
    fitted = LogisticRegression(max_iter=1000).fit((features - center) / spread, labels[len(small) :])
    kernel = fitted.coef_.T / spread[:, None]
    model = _classified(trunk)
    model.layers[-1].set_weights([kernel, fitted.intercept_ - center @ kernel])
    model.save(path)
    return path


def _classified(trunk: Any) -> Any:
    return keras.Model(trunk.input, keras.layers.Dense(10, activation="softmax", name="classes")(trunk.output))


def _fit_normalizations(trunk: Any, rows: Any) -> None:
    """Gives the normalizations the statistics of these rows."""
    layers = [layer for layer in trunk.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = 0.0
    with torch.no_grad():
        trunk(rows, training=True)
    for layer in layers:
        layer.momentum = 0.99


def _compare(case: Case, folder: Path, atol: float, threads: int) -> bool:
    wide, narrow = layergraph.load_model(case.file), layergraph.load_model(case.file)
    entry, exit = wide.input_specs[0].name, wide.output_specs[0].name
    proof, calibration = folder / "golden.npz", folder / "calibration.npz"
    known = case.rows[CALIBRATING : CALIBRATING + PROOF]
    outputs = wide.plan().run({entry: known})
    write_golden(Golden({entry: known}, outputs, rtol=0.0, atol=atol), proof)
    np.savez(calibration, case.rows[:CALIBRATING])
    began = time.monotonic()
    try:
        reduce_precision(narrow, proof, "int8", threads, shared=True, calibration=calibration)
    except (GoldenMismatchError, UnfitError) as reason:
        print(f"{case.name} stays in float32: {reason}")
        return False
    took = time.monotonic() - began
    engines = ("onnxruntime", "openvino")
    wide.plan().tune(engines=engines, seconds=TUNING_SECONDS, threads=threads, shared=True, rows=tuple(PAIRS))
    ratios = {rows: _ratio(wide, narrow, {entry: case.rows[:rows]}, pairs) for rows, pairs in PAIRS.items()}
    tested = case.rows[-TESTING:]
    expected, got = (_outputs(model, entry, exit, tested) for model in (wide, narrow))
    agree = float((got.argmax(1) == expected.argmax(1)).mean())
    print(f"{case.name}: quantized in {took:.0f} s, largest difference in the proof {narrow.engines[0].difference:.3f}")
    for rows, (ratio, milliseconds) in ratios.items():
        print(f"  {rows} rows: {ratio:.2f} times float32, {milliseconds[0]:.1f} and {milliseconds[1]:.1f} ms")
    for name, model in (("float32", wide), ("int8", narrow)):
        print(f"  {name} engines: { {choice.rows: choice.engine for choice in model.engines} }")
    off = np.abs(got - expected)
    print(f"  {TESTING} other rows: difference {off.max():.3f} at most, {off.mean():.4f} on average, ", end="")
    print(f"the same class for {agree:.0%}", end="")
    if case.labels is not None:
        right = [float((one.argmax(1) == case.labels[-TESTING:]).mean()) for one in (expected, got)]
        print(f", the right class: float32 {right[0]:.0%}, int8 {right[1]:.0%}", end="")
    print(flush=True)
    return all(ratio >= TIMES_AS_FAST for ratio, _ in ratios.values())


def _ratio(wide: Any, narrow: Any, inputs: dict[str, Any], pairs: int) -> tuple[float, tuple[float, float]]:
    """Median of the ratios of two calls, and the lower quartiles of both in milliseconds."""
    times = []
    for model in (wide, narrow):
        model.plan().run(inputs)
    for _ in range(pairs):
        pair = []
        for model in (wide, narrow):
            began = time.perf_counter()
            model.plan().run(inputs)
            pair.append(time.perf_counter() - began)
        times.append(pair)
    array = np.array(times)
    quartiles = np.quantile(array, 0.25, axis=0) * 1000
    return float(np.median(array[:, 0] / array[:, 1])), (float(quartiles[0]), float(quartiles[1]))


def _outputs(model: Any, entry: str, exit: str, rows: Any) -> Any:
    batches = [rows[start : start + 8] for start in range(0, len(rows), 8)]
    return np.concatenate([model.plan().run({entry: batch})[exit] for batch in batches])


if __name__ == "__main__":
    sys.exit(main())
