"""Clients of three makers over HTTP, one of them also over gRPC, against one server; the answers must be the SDK's.

compare_http.py MODELS --triton PYTHON --kserve PYTHON --mlserver PYTHON [--transport native]

MODELS is a repository; the three are Pythons with tritonclient[http], with kserve and requests, and with
mlserver and requests.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

CLIENT = Path(__file__).with_name("http_clients.py")
#: A batch of other rows may be computed in another order.
RTOL, ATOL = 1e-4, 1e-5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("--triton", required=True)
    parser.add_argument("--kserve", required=True)
    parser.add_argument("--mlserver", required=True)
    parser.add_argument("--transport", default="grpcio")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            path=arguments.models,
            state=Path(folder, "state"),
            host="127.0.0.1",
            grpc_port=0,
            http_port=0,
            metrics_port=-1,
            transport=arguments.transport,
            drain_seconds=0,
            tuning_seconds=0,
        )
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as client:
            expected = ask(client, Path(folder))
            differ = 0
            for which, python, port in (
                ("triton", arguments.triton, app.http_port),
                ("kserve", arguments.kserve, app.http_port),
                ("kserve_grpc", arguments.kserve, app.grpc_port),
                ("mlserver", arguments.mlserver, app.http_port),
                ("mlserver_grpc", arguments.mlserver, app.grpc_port),
                ("requests", arguments.kserve, app.http_port),
            ):
                subprocess.run([python, str(CLIENT), which, str(port), folder], check=True)
                differ += compare(which, Path(folder, f"{which}.npz"), expected)
    return bool(differ)


def ask(client: Client, folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Writes random inputs, and returns gRPC's outputs for them, by model and name."""
    random = np.random.default_rng(0)
    inputs, expected = {}, {}
    for model in client.models():
        arrays = {}
        for spec in model.inputs:
            shape = [3, *(5 if length is None else length for length in spec.shape[1:])]
            numbers = random.random(shape) if spec.dtype.startswith("float") else random.integers(0, 10, shape)
            arrays[spec.name] = numbers.astype(spec.dtype)
            inputs[f"{model.name}/{spec.name}"] = arrays[spec.name]
        expected[model.name] = dict(client.predict_named(model.name, arrays))
    np.savez(folder / "inputs.npz", **inputs)
    return expected


def compare(which: str, path: Path, expected: dict[str, dict[str, np.ndarray]]) -> int:
    """Returns the number of answers that differ. Signatures name outputs otherwise: those are compared by order."""
    differ = 0
    with np.load(path) as answers:
        ways: dict[str, list[str]] = {}
        for key in answers.files:
            ways.setdefault(key.rpartition("/")[0], []).append(key)
        for way, keys in ways.items():
            outputs = expected[way.partition("/")[0]]
            assert len(keys) == len(outputs), (way, keys)
            for key, (name, array) in zip(keys, outputs.items(), strict=True):
                given = key.rpartition("/")[2]
                if not np.allclose(answers[key], outputs.get(given, array), RTOL, ATOL):
                    differ += 1
                    print(f"{which}: {key} differs from output '{name}' over gRPC", file=sys.stderr)
        print(f"{which}: {len(answers.files)} outputs of {len(expected)} models in {len(ways)} ways, {differ} differ")
    return differ


if __name__ == "__main__":
    sys.exit(main())
