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

PACKAGE = Path(__file__).parent / "layerserve_server"
#: Folders of definitions, and the folders of their stubs: the core's and those of extensions.
SOURCES = {
    PACKAGE.parents[1] / "proto" / "inference": PACKAGE / "protocols",
    **{folder: folder.parent.parent / "protocols" for folder in sorted(PACKAGE.glob("extensions/*/proto/*"))},
}
DEFAULT_POOL = "_descriptor_pool.Default()"
IMPORT_OF_DEFAULT_POOL = "from google.protobuf import descriptor_pool as _descriptor_pool\n"


def make(source: Path, target: Path, folder: Path) -> dict[Path, str]:
    """Returns the contents of the stubs of a folder of definitions. `folder` is for temporary files."""
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={source.parent}",
            f"--proto_path={Path(protoc.__file__).parent / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugin}",
            f"--python_out={folder}",
            f"--mypy_out=quiet:{folder}",
            *(path.relative_to(source.parent).as_posix() for path in sorted(source.glob("*.proto"))),
        ]
    )
    if code:
        raise SystemExit(code)
    made = {
        target / path.relative_to(folder): private(path.read_text("utf-8"), source.parent, target)
        for path in sorted(folder.rglob("*_pb2.py*"))
    }
    return made | {target / source.name / "__init__.py": ""}


def private(text: str, definitions: Path, target: Path) -> str:
    """Returns a stub that uses the private pool, and imports other stubs from beside it."""
    text = text.replace(DEFAULT_POOL, "_POOL")
    text = text.replace(IMPORT_OF_DEFAULT_POOL, "from layerserve_server.protocols.pool import POOL as _POOL\n")
    packages = "|".join(sorted(path.name for path in definitions.iterdir()))
    beside = ".".join(target.relative_to(PACKAGE.parent).parts)
    return re.sub(rf"^from ({packages})\b", rf"from {beside}.\1", text, flags=re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if a committed stub is stale")
    check = parser.parse_args().check
    made: dict[Path, str] = {}
    for source, target in SOURCES.items():
        with tempfile.TemporaryDirectory() as folder:
            made |= make(source, target, Path(folder))
    stale = [path for path, text in made.items() if not path.is_file() or path.read_text() != text]
    if check and stale:
        raise SystemExit(f"stubs are stale: {', '.join(map(str, stale))}: run `make proto` and commit")
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], "utf-8")


if __name__ == "__main__":
    main()
