"""Stands for TensorFlow Serving's program in its tests: starts our server by the flags that these pass.

Models of a name or of a file of configuration are copied into a repository. As there, ports open when the models are
loaded: connections are then passed on. Other flags have no meaning here.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

#: What a file of configuration has of each model.
MODEL = re.compile(r'name: "([^"]+)",?\s+base_path: "([^"]+)"')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "rest_api_port", "model_name", "model_base_path", "model_config_file"):
        parser.add_argument(f"--{name}", default="")
    given, _ = parser.parse_known_args()
    models = {given.model_name: given.model_base_path}
    if given.model_config_file:
        models = dict(MODEL.findall(Path(given.model_config_file).read_text()))
        if not models:
            sys.exit(f"{given.model_config_file}: has no models")
    folder = Path(tempfile.mkdtemp())
    for name, source in models.items():
        for version in Path(source).iterdir():
            # Zeros before the number have no meaning there, and aren't taken here.
            shutil.copytree(version, folder / "models" / name / str(int(version.name)))
    settings = Settings(
        path=folder / "models",
        state=folder / "state",
        host="127.0.0.1",
        grpc_port=0,
        http_port=0,
        metrics_port=-1,
        engine="eager",
        tensorflow_serving_metrics=True,
    )
    with App(settings) as app:
        asyncio.run(pass_on({given.port: app.grpc_port, given.rest_api_port: app.http_port}))


async def pass_on(ports: dict[str, int]) -> None:
    """Passes connections on, by the port to which they come."""
    servers = [
        await asyncio.start_server(partial(connected, target), "127.0.0.1", int(port)) for port, target in ports.items()
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def connected(target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.gather(copied(reader, other_writer), copied(other_reader, writer), return_exceptions=True)


async def copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.close()


if __name__ == "__main__":
    main()
