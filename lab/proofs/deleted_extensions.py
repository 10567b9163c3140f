"""Deletes extensions of the server in a copy and runs the rest's tests: `make -C lab deleted-extensions`.

Each row is a copy of the working tree without one extension; the last is without all of them. Its folder, its folder of
tests and its line in the table of extensions are deleted, and `make docs` is run, as for any deleted extension.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from layerserve_server.core_protocols import CORE_PROTOCOLS
from layerserve_server.extensions.installed import EXTENSIONS, OWN
from layerserve_server.settings.settings import Settings as CoreSettings

ROOT = Path(__file__).parents[2]
TABLE = "server/layerserve_server/extensions/installed.py"
#: What is deleted of an extension: {} stands for its name.
FOLDERS = ("server/layerserve_server/extensions/{}", "tests/layerserve_server/extensions/{}")
#: Folders that only one extension uses.
BELONGING = {"page": ["drawings"], "stores": ["object_stores"]}
TESTS = ["tests/layerserve_server"]
ALL = "all"
#: Services of which the core has methods, too.
OF_CORE = {one.split("/")[1] for protocol in CORE_PROTOCOLS for one in protocol.rights}
#: Numbers in the last line of pytest.
COUNTS = re.compile(r"(\d+) (passed|failed|error|skipped)")


@dataclass
class Copy:
    """A copy of the working tree with a virtual environment of its own, which finds the packages of the copy."""

    root: Path

    @property
    def python(self) -> str:
        return str(self.root / ".venv" / "bin" / "python")

    def make(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.root / ".venv")], check=True)
        (site,) = self.root.glob(".venv/lib/python*/site-packages")
        (theirs,) = Path(sys.prefix).glob("lib/python*/site-packages")
        # Files of paths in a folder that is named here aren't read: the packages of the original tree aren't found.
        packages = [str(self.root / name) for name in ("client", "server", "modelzoo")]
        (site / "copy.pth").write_text("\n".join([*packages, str(theirs)]))
        bin = self.root / ".venv" / "bin"
        for program in (Path(sys.prefix) / "bin").iterdir():
            if program.name == "layerserve":
                lines = program.read_text("utf-8").splitlines(keepends=True)
                (bin / program.name).write_text("".join([f"#!{self.python}\n", *lines[1:]]), "utf-8")
                (bin / program.name).chmod(0o755)
            elif not (bin / program.name).exists():
                (bin / program.name).symlink_to(program)

    def delete(self, name: str) -> None:
        for one in (name, *BELONGING.get(name, ())):
            for folder in FOLDERS:
                shutil.rmtree(self.root / folder.format(one), ignore_errors=True)
        table = self.root / TABLE
        lines = table.read_text("utf-8").splitlines(keepends=True)
        table.write_text("".join(line for line in lines if not line.startswith(f'    "{name}": ')), "utf-8")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self.python, *command], cwd=self.root, check=False, capture_output=True, text=True)


def words_of(name: str) -> tuple[list[str], list[str]]:
    """Returns the settings of an extension, and names of what else is documented of it."""
    (extension,) = (one for one in EXTENSIONS if one.name == name)
    settings = extension.settings.model_fields.keys() - CoreSettings.model_fields.keys() if extension.settings else ()
    return sorted(settings), sorted(extension.rights)


def problems_without_tests(copy: Copy, names: list[str]) -> list[str]:
    """What is wrong with the copy, but for its tests."""
    found = []
    for command in (("docs/generate.py",), ("deploy/generate.py",), ("-m", "ruff", "check", "--quiet", ".")):
        done = copy.run(*command)
        if done.returncode:
            found.append(f"{' '.join(command)}: {done.stdout}{done.stderr}"[-2000:])
    help = copy.run("-m", "layerserve", "serve", "--help-all").stdout
    documented = (copy.root / "docs" / "settings.md").read_text("utf-8")
    rights = (copy.root / "docs" / "rights.md").read_text("utf-8")
    if "--http-port" not in help or "`http_port`" not in documented:
        found.append("the core's settings aren't shown")
    for name in names:
        settings, methods = words_of(name)
        found += [f"--help-all has {one}" for one in settings if f"--{one.replace('_', '-')}" in help]
        found += [f"docs/settings.md has {one}" for one in settings if f"`{one}`" in documented]
        services = {one.split("/")[1] if one.count("/") == 2 else one for one in methods} - OF_CORE
        found += [f"docs/rights.md has {one}" for one in services if f"`{one}`" in rights]
    return found + serving(copy)


def serving(copy: Copy) -> list[str]:
    """Starts a server of an empty folder; returns what is wrong with it."""
    models, log = copy.root / "build" / "empty", copy.root / "build" / "serve.log"
    models.mkdir(parents=True)
    flags = ("--host", "127.0.0.1", "--grpc-port", "0", "--http-port", "0", "--metrics-port", "-1")
    with log.open("w") as output:
        server = subprocess.Popen(
            [copy.python, "-m", "layerserve", "serve", str(models), *flags, "--no-warm-training"],
            cwd=copy.root, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        end = time.monotonic() + 120
        while not (port := re.search(r"gRPC on \S*?:(\d+)", log.read_text())):
            if server.poll() is not None or time.monotonic() > end:
                return [f"`layerserve serve` doesn't start: {log.read_text()[-2000:]}"]
            time.sleep(0.1)
        done = copy.run("-m", "layerserve", "wait", "--address", f"127.0.0.1:{port[1]}")
        return [f"`layerserve wait`: {done.stdout}{done.stderr}"] if done.returncode else []
    finally:
        server.terminate()
        server.wait(60)


def tested(copy: Copy, tests: list[str], jobs: int, log: Path) -> dict[str, int]:
    """Runs tests of the copy; returns how many passed and failed. What they print is in the log."""
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        "--numprocesses",
        str(jobs),
        "--dist",
        "loadfile",
    ]
    done = copy.run("-m", "pytest", *options, *tests)
    log.write_text(done.stdout + done.stderr, "utf-8")
    counts = {what: int(count) for count, what in COUNTS.findall(done.stdout.strip().rpartition("\n")[2])}
    return counts if done.returncode in (0, 1) else {**counts, "error": max(1, counts.get("error", 0))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    choices = [*OWN, ALL]
    parser.add_argument("--only", nargs="+", choices=choices, default=choices, help="the extensions, or all at once")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="tests that are run; none: only the other checks")
    parser.add_argument("--jobs", type=int, default=2, help="processes of tests")
    arguments = parser.parse_args()
    logs = ROOT / "build" / "deleted_extensions"
    logs.mkdir(parents=True, exist_ok=True)
    failed = False
    print(f"{'deleted':<20} {'passed':>7} {'failed':>7} {'seconds':>8}", flush=True)
    for name in arguments.only:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            copy = Copy(Path(folder).resolve())
            copy.make()
            names = list(OWN) if name == ALL else [name]
            for one in names:
                copy.delete(one)
            problems = problems_without_tests(copy, names)
            counts = tested(copy, arguments.tests, arguments.jobs, logs / f"{name}.log") if arguments.tests else {}
        wrong = counts.get("failed", 0) + counts.get("error", 0)
        failed = failed or bool(problems or wrong)
        print(f"{name:<20} {counts.get('passed', 0):>7} {wrong:>7} {time.monotonic() - began:>8.0f}", flush=True)
        for problem in problems:
            print(f"  {problem}", flush=True)
        if wrong:
            print(f"  see {logs / f'{name}.log'}", flush=True)
    raise SystemExit(failed)


if __name__ == "__main__":
    main()
