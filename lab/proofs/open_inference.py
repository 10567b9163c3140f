"""Compares what Triton's own client gets with what the SDK gets: open_inference.py PYTHON [--models FOLDER].

PYTHON is the command of a Python with `tritonclient[grpc]`. Both ask a server of the guide's models, over both
transports and with two processes. Fails if an answer differs, or a message has a field that Triton numbers otherwise.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.protocols.inference import inference_pb2

SERVERS = ({"transport": "grpcio"}, {"transport": "native"}, {"transport": "grpcio", "workers": 2})
KINDS = ("infer", "again", "async", "chosen", "stream", "aio")
CLIENT = Path(__file__).with_name("triton_client.py")
#: Engines may be chosen between two calls.
TOLERANCE = 1e-5


def random_inputs(client: Client, seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Arrays for each input of each model, of 3 rows."""
    draw = np.random.default_rng(seed)
    given: dict[str, dict[str, np.ndarray]] = {}
    for info in client.models():
        for spec in info.inputs:
            shape = [3, *(4 if length is None else length for length in spec.shape[1:])]
            array = draw.normal(size=shape) if spec.dtype.startswith("float") else draw.integers(0, 5, shape)
            given.setdefault(info.name, {})[spec.name] = array.astype(spec.dtype)
    return given


def compare(python: str, models: Path, **options: object) -> int:
    """Returns the number of differences that one server shows."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        settings = Settings(path=models, host="127.0.0.1", grpc_port=0, metrics_port=-1, state=here, **options)
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
            given = random_inputs(client)
            np.savez(here / "inputs.npz", **{f"{m}/{n}": a for m, arrays in given.items() for n, a in arrays.items()})
            command = [*shlex.split(python), str(CLIENT), str(app.grpc_port)]
            command += [str(here / "inputs.npz"), str(here / "answers.npz")]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            facts, answers = json.loads(done.stdout), np.load(here / "answers.npz")
            expected = {
                info.name: client.predict(info.name, given[info.name], outputs=[spec.name for spec in info.outputs])
                for info in client.models()
            }
    problems = []
    compared, largest = 0, 0.0
    for model, outputs in expected.items():
        for number, (name, array) in enumerate(outputs.items()):
            for kind in KINDS if number == 0 else [kind for kind in KINDS if kind != "chosen"]:
                difference = float(np.abs(answers[f"{model}/{name}/{kind}"] - array).max())
                compared, largest = compared + 1, max(largest, difference)
                if not difference <= TOLERANCE * max(1.0, float(np.abs(array).max())):
                    problems.append(f"{model}: output '{name}' by {kind} differs by {difference:.2g}")
    for name, (number, kind) in own_fields().items():
        if facts["fields"].get(name) != [number, kind]:
            problems.append(f"{name}: is number {number} of type {kind}, Triton has {facts['fields'].get(name)}")
    if facts["models"] != sorted(given) or facts["unknown"] != "StatusCode.NOT_FOUND":
        problems.append(f"models or errors: {facts['models']}, {facts['unknown']}")
    if dict.fromkeys(given, 5).items() - facts["counted"].items() and "workers" not in options:
        problems.append(f"statistics count {facts['counted']}, expected 5 for each model")
    print(f"{options}: {compared} outputs compared, largest difference {largest:.2g}, {len(problems)} problems")
    for problem in problems:
        print(f"  {problem}")
    return len(problems)


def own_fields() -> dict[str, tuple[int, int]]:
    """Number and type of every field of this server's messages."""

    def fields(messages):
        for message in messages:
            yield from ((f"{message.full_name}.{field.name}", (field.number, field.type)) for field in message.fields)
            yield from fields(message.nested_types)

    return dict(fields(inference_pb2.DESCRIPTOR.message_types_by_name.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", help="the command of a Python with tritonclient")
    parser.add_argument("--models", type=Path, help="a folder of models (default: the guide's, built now)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = arguments.models
        if models is None:
            from layerserve_zoo.commands import zoo

            models = Path(folder)
            zoo(["build", "--small", "--to", folder])
        sys.exit(1 if sum(compare(arguments.python, models, **options) for options in SERVERS) else 0)


if __name__ == "__main__":
    main()
