"""Compares what TensorFlow Serving's own client gets with what the SDK and TensorFlow get.

    compare_tensorflow_serving.py PYTHON [--maker PYTHON ...] [--models FOLDER]

PYTHON is the command of a Python with TensorFlow and `tensorflow-serving-api`, whose stubs ask a server of the guide's
models, and of models that the Keras of each maker has saved (default: that of PYTHON), over both transports and with
two processes. Fails if an answer, or a name in TensorFlow's export of a model, differs, or a message has a field that
TensorFlow Serving numbers otherwise.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow import (
    error_codes_pb2,
    signature_pb2,
    tensor_pb2,
)
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving import (
    model_pb2,
    model_service_pb2,
    prediction_service_pb2,
)
from open_inference import SERVERS, TOLERANCE, random_inputs

OURS = (error_codes_pb2, signature_pb2, tensor_pb2, model_pb2, model_service_pb2, prediction_service_pb2)
KINDS = ("content", "again", "values", "reversed", "filter")
CLIENT = Path(__file__).with_name("tensorflow_client.py")
#: Statuses of calls that are refused.
ERRORS = {
    "model": "NOT_FOUND",
    "version": "NOT_FOUND",
    "signature": "FAILED_PRECONDITION",
    "inputs": "INVALID_ARGUMENT",
    "status": "NOT_FOUND",
    "classify": "UNIMPLEMENTED",
}
AVAILABLE = [[1, 30, 0]]


def run(python: str, *arguments: object) -> str:
    """Runs the client half; returns what it prints."""
    command = [*shlex.split(python), str(CLIENT), *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def compare(python: str, folder: Path, **options: object) -> int:
    """Returns the number of differences that one server shows."""
    state = folder / "state"
    settings = Settings(path=folder / "models", host="127.0.0.1", grpc_port=0, metrics_port=-1, state=state, **options)
    with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
        given = random_inputs(client)
        np.savez(folder / "inputs.npz", **{f"{m}/{n}": a for m, arrays in given.items() for n, a in arrays.items()})
        facts = json.loads(run(python, "ask", app.grpc_port, folder).splitlines()[-1])
        answers = np.load(folder / "answers.npz")
        expected = {model: client.predict_named(model, inputs) for model, inputs in given.items()}
        names = {}
        for model in given:
            with app.repository.leases.lease(model) as version:
                names[model] = version.model.signatures["serving_default"].outputs
    problems = list(facts["problems"])
    compared, largest = facts["compared"], 0.0
    for model, outputs in expected.items():
        own = dict(zip(names[model], outputs.values(), strict=True))
        for kind in KINDS:
            for name in sorted(own)[: 1 if kind == "filter" else None]:
                difference = float(np.abs(answers[f"{model}/{kind}/{name}"] - own[name]).max())
                compared, largest = compared + 1, max(largest, difference)
                if not difference <= TOLERANCE * max(1.0, float(np.abs(own[name]).max())):
                    problems.append(f"{model}: output '{name}' by {kind} differs by {difference:.2g}")
    for name, found in described().items():
        if facts["described"].get(name) != found:
            problems.append(f"{name}: is {found}, TensorFlow Serving has {facts['described'].get(name)}")
    if facts["errors"] != ERRORS:
        problems.append(f"statuses: {facts['errors']}, expected {ERRORS}")
    if wrong := {model: states for model, states in facts["states"].items() if states != AVAILABLE}:
        problems.append(f"states: {wrong}")
    print(f"{options}: {compared} outputs compared, largest difference {largest:.2g}, {len(problems)} problems")
    for problem in problems:
        print(f"  {problem}")
    return len(problems)


def described() -> dict[str, list]:
    """Number and type of every field of this server's messages, its enum values and methods, by full name."""
    from tensorflow_contents import contents

    found = {}
    for module in OURS:
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        found.update(contents(file))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the command of a Python with TensorFlow and tensorflow-serving-api")
    parser.add_argument(
        "--maker", action="append", help="the command of a Python with TensorFlow, whose Keras saves models"
    )
    parser.add_argument("--models", type=Path, help="a folder of models (default: the guide's, built now)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for maker in arguments.maker or [arguments.python]:
            run(maker, "make", folder)
        if arguments.models is None:
            from layerserve_zoo.commands import zoo

            zoo(["build", "--small", "--to", str(folder / "models")])
        else:
            shutil.copytree(arguments.models, folder / "models", dirs_exist_ok=True)
        sys.exit(1 if sum(compare(arguments.python, folder, **options) for options in SERVERS) else 0)


if __name__ == "__main__":
    main()
