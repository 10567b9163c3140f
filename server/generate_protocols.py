"""Write the stubs of protocols that others have defined (`make proto`), or check that they are fresh.

They are made as those of layerserve.v1 are, but use a descriptor pool of their own (see `layerserve_server.protocols`).
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "server" / "layerserve_server" / "protocols"
PROTOS = (
    "inference/inference.proto",
    "tensorflow/error_codes.proto",
    "tensorflow/signature.proto",
    "tensorflow/tensor.proto",
    "tensorflow_serving/model.proto",
    "tensorflow_serving/model_service.proto",
    "tensorflow_serving/prediction_service.proto",
)
PACKAGES = "|".join(sorted({proto.split("/")[0] for proto in PROTOS}))
DEFAULT_POOL = "_descriptor_pool.Default()"
IMPORT_OF_DEFAULT_POOL = "from google.protobuf import descriptor_pool as _descriptor_pool\n"


def make(folder: Path) -> dict[str, str]:
    """Returns the contents of the stubs by path below `protocols`. `folder` is for temporary files."""
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={ROOT / 'proto'}",
            f"--proto_path={Path(protoc.__file__).parent / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugin}",
            f"--python_out={folder}",
            f"--mypy_out=quiet:{folder}",
            *PROTOS,
        ]
    )
    if code:
        raise SystemExit(code)
    made = {
        path.relative_to(folder).as_posix(): private(path.read_text("utf-8"))
        for path in sorted(folder.rglob("*_pb2.py*"))
    }
    packages = {Path(path).parent.as_posix() for path in made}
    return made | {f"{package}/__init__.py": "" for package in packages}


def private(text: str) -> str:
    """Returns a stub that uses the private pool, and imports other stubs from beside it."""
    text = text.replace(DEFAULT_POOL, "_POOL")
    text = text.replace(IMPORT_OF_DEFAULT_POOL, "from layerserve_server.protocols.pool import POOL as _POOL\n")
    return re.sub(rf"^from ({PACKAGES})\b", r"from layerserve_server.protocols.\1", text, flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a committed stub is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        made = make(Path(folder))
    stale = [
        path for path, text in made.items() if not (TARGET / path).is_file() or (TARGET / path).read_text() != text
    ]
    if check and stale:
        raise SystemExit(f"stubs are stale: {', '.join(stale)}: run `make proto` and commit")
    for path in stale:
        (TARGET / path).parent.mkdir(parents=True, exist_ok=True)
        (TARGET / path).write_text(made[path], "utf-8")


if __name__ == "__main__":
    main()
