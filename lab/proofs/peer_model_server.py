"""Stands for TensorFlow Serving's program in its tests: starts our server by the flags that these pass.

Models of a name or of a file of configuration are copied into a repository. Other flags have no meaning here.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

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
    (folder / "models").mkdir(exist_ok=True)
    options = {"grpc-port": given.port, "http-port": given.rest_api_port, "metrics-port": "-1", "host": "127.0.0.1"}
    flags = [text for name, value in options.items() for text in (f"--{name}", value)]
    flags += ["--state", str(folder / "state"), "--engine", "eager", "--tensorflow-serving-metrics"]
    os.execv(sys.executable, [sys.executable, "-m", "layerserve_server", str(folder / "models"), *flags])


if __name__ == "__main__":
    main()
