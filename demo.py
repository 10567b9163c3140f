"""The whole job on one page: build the zoo, serve it, look at nodes, train through the server, predict.

Run it with `make demo`.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from layerserve import Client
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

BIN = Path(sys.executable).parent


def say(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m" if sys.stdout.isatty() else f"\n{title}", flush=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(repository: Path) -> Iterator[str]:
    """A server of its own process, as a user would start it; stopped by SIGTERM."""
    port = free_port()
    log = repository.parent / "server.log"
    command = [BIN / "layerserve", "serve", repository, "--host", "127.0.0.1", "--grpc-port", port]
    command += ["--metrics-port", 0, "--drain-seconds", 0]
    print("$ layerserve serve", repository, "--grpc-port", port)
    with log.open("w") as output:
        server = subprocess.Popen([str(word) for word in command], stderr=output, stdout=output)
    try:
        yield f"127.0.0.1:{port}"
    except BaseException:
        print(log.read_text(), file=sys.stderr)
        raise
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(30)
    if code:
        raise SystemExit(f"the server ended with status {code}:\n{log.read_text()}")


def show_models(client: Client) -> None:
    for model in client.models():
        inputs = ", ".join(f"{spec.name} {spec.shape}" for spec in model.inputs)
        print(f"  {model.name:<14} version {model.version}  {model.state:<6}  {inputs}")


def show_nodes(client: Client) -> None:
    shapes = client.node_shapes("layer_node")
    for layer in shapes.values():
        for node in layer.nodes:
            if node.inputs:
                sources = ", ".join(f"{t.layer}:{t.node_index} {t.shape}" for t in node.inputs)
                print(f"  {layer.path}:{node.index:<3} {sources}  ->  {node.outputs[0].shape}")
    for layer in shapes.values():
        if len(layer.nodes) > 1:
            print(f"  node_shapes('layer_node')[{layer.path!r}].input_shape_at(0) is {layer.input_shape_at(0)}")
            try:
                print(f"  its input_shape is {layer.input_shape}")
            except AttributeError as error:
                print(f"  its input_shape: AttributeError: {error}")


def main() -> None:
    started = time.monotonic()
    digits = load_digits()
    pixels = (digits.data / 16).astype("float32")
    x, test_x, y, test_y = train_test_split(pixels, digits.target, test_size=0.25, random_state=42)
    with tempfile.TemporaryDirectory(prefix="layerserve-demo-") as folder:
        repository = Path(folder) / "models"
        say("1. Build the models of the Keras functional-API guide, and put them into a folder")
        print("$ layerserve zoo build --small --to", repository, flush=True)
        subprocess.run([BIN / "layerserve", "zoo", "build", "--small", "--to", repository], check=True)

        say("2. Serve the folder")
        with served(repository) as address, Client(address) as client:
            client.wait_until_ready(timeout=60)
            show_models(client)

            say("3. Ask the graph: a layer is called on several tensors, and each call is a node")
            show_nodes(client)

            def accuracy(version: int | None = None) -> float:
                answers = client.predict("dense", test_x, version=version)
                return float((np.argmax(answers, axis=1) == test_y).mean())

            before = accuracy()
            say(f"4. Train the dense network on {len(x)} handwritten digits, through the server")
            print(f"  before: {before:.1%} of {len(test_y)} test digits are read right")
            one_hot = np.eye(10, dtype="float32")[y]
            run = client.train("dense", x, one_hot, epochs=40, batch_size=32, seed=1, description="demo")
            run.wait(progress=True)
            print(f"  run {run.id} published version {run.version} of 'dense'; last loss {run.history['loss'][-1]:.4f}")

            say("5. Predict: the new version answers now, and the old one is still there")
            after = accuracy()
            print(f"  version {run.version}: {after:.1%} right")
            print(f"  version 1: {accuracy(version=1):.1%} right")
            for image, digit in zip(test_x[:3], test_y[:3], strict=True):
                answer = client.predict("dense", image[np.newaxis])[0]
                print(f"  a {digit} is read as {np.argmax(answer)}, with {answer.max():.1%}")
            middle = client.predict("dense", test_x[:1], outputs="dense")
            print(f"  and the first hidden layer of it, asked for by name: {middle.shape} {middle.dtype}")
    if not (before < 0.2 and after > 0.95):
        raise SystemExit(f"accuracy went from {before:.1%} to {after:.1%}, expected from below 20 % to above 95 %")
    print(f"\nDone in {time.monotonic() - started:.0f} s.")


if __name__ == "__main__":
    main()
