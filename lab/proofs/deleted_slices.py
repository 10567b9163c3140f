"""Each slice of the client can be taken away: in a copy without it, the client's other tests pass.

    python lab/proofs/deleted_slices.py [SLICE ...] [-- OPTIONS OF PYTEST]

Deleted are the slice's folder, its tests and its line in the table; then the client is generated anew.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from layerserve.slice_table import SLICES

ROOT = Path(__file__).resolve().parents[2]
#: What the client's tests need of the repository.
COPIED = ("client", "proto", "tests/conftest.py", "tests/support", "tests/layerserve", "pyproject.toml")


def copy_to(folder: Path) -> None:
    """Copy the files that git knows, as they are now."""
    listed = subprocess.run(["git", "ls-files", "-z", *COPIED], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def delete(name: str, folder: Path) -> None:
    """Delete a slice from a copy."""
    shutil.rmtree(folder / "client/layerserve" / name)
    shutil.rmtree(folder / "tests/layerserve" / name)
    table = folder / "client/layerserve/slice_table.py"
    lines = table.read_text().splitlines(keepends=True)
    left = [line for line in lines if line != f'    "{name}",\n']
    assert len(left) == len(lines) - 1, f"{table}: expected a line with {name!r}"
    table.write_text("".join(left))


def passes_without(name: str, options: list[str]) -> bool:
    """Say whether the tests of the rest pass."""
    with tempfile.TemporaryDirectory(prefix=f"layerserve-without-{name}-") as made:
        folder = Path(made)
        copy_to(folder)
        delete(name, folder)
        environment = {**os.environ, "PYTHONPATH": str(folder / "client")}
        generate = [sys.executable, "client/generate.py"]
        tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/layerserve", *options]
        return all(subprocess.run(one, cwd=folder, env=environment).returncode == 0 for one in (generate, tests))


def main(arguments: list[str]) -> int:
    """Delete each slice, or the named ones. Gives the exit status."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    names, options = arguments[:split] or list(SLICES), arguments[split + 1 :]
    failed = []
    for name in names:
        print(f"without {name}", flush=True)
        if not passes_without(name, options):
            failed.append(name)
    print(f"{len(names) - len(failed)} of {len(names)} slices can be taken away", *failed)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
