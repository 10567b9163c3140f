"""Write those files of the client that are made from others (`make client`), or check that they are fresh.

`client.py`, the blocking client, is `async_client.py` without what only asyncio needs: `await` can be taken out by
rule, but not put in. What the two do differently is in `channel.py` and `async_channel.py`, both written by hand.

`options/keywords.py` is what type checkers and editors read: `options/arguments.py` as keyword arguments.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

PACKAGE = Path(__file__).parent / "layerserve"

#: Replacements, in code and in docstrings.
RULES = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit|iter)__\b", r"__\1__"),
    (
        r"\basync_(channel|datasets|management|model_reports|online|run_control|run_checkpoints|run_reports|sweeping)\b",
        r"\1",
    ),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basyncio client\b", "blocking client"),
    (r"\ban asyncio channel\b", "a blocking channel"),
    (r"\btasks of one event loop\b", "threads"),
)


def blocking(text: str) -> str:
    """Code or a docstring of the asyncio client, as the blocking one has it."""
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    return text


def client() -> str:
    """client.py."""
    return _header("async_client.py") + blocking((PACKAGE / "async_client.py").read_text("utf-8"))


def part(name: str) -> str:
    """A file with some of the client's methods."""
    return _header(f"async_{name}") + blocking((PACKAGE / f"async_{name}").read_text("utf-8"))


def keywords() -> str:
    """options/keywords.py."""
    # With client.py as it was written just before.
    from layerserve.options.arguments import EVALUATE, ONLINE, TRAIN

    lines = [
        _header("arguments.py"),
        '"""The options as keyword arguments: what `Unpack` takes."""',
        "from __future__ import annotations",
        "from collections.abc import Mapping, Sequence",
        "from typing import Any, TypedDict",
        "from layerserve.options.arguments import Checkpoints, Publish, Resources, Split",
    ]
    for function, options in (("train", TRAIN), ("evaluate", EVALUATE), ("online", ONLINE)):
        lines.append(f"class {function.title()}Keywords(TypedDict, total=False):")
        lines.append(f'    """Options of `{function}`."""')
        for option in options:
            lines += [f"    {option.name}: {option.annotation}", f'    """{option.help}"""']
    return "\n".join(lines)


#: The files, by path in the package. The last needs the others.
FILES: dict[str, Callable[[], str]] = {
    "management.py": partial(part, "management.py"),
    "datasets.py": partial(part, "datasets.py"),
    "model_reports.py": partial(part, "model_reports.py"),
    "online.py": partial(part, "online.py"),
    "run_checkpoints.py": partial(part, "run_checkpoints.py"),
    "run_control.py": partial(part, "run_control.py"),
    "run_reports.py": partial(part, "run_reports.py"),
    "sweeping.py": partial(part, "sweeping.py"),
    "client.py": client,
    "options/keywords.py": keywords,
}


def _header(source: str) -> str:
    return f"# Generated from {source} by `make client`. Edit that file instead.\n"


def _formatted(text: str, path: Path) -> str:
    """The text as ruff has it: names that became shorter leave imports out of order and lines that could be joined."""
    for command in (["check", "--select=I", "--fix-only", "--quiet"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout
    return text


def main() -> int:
    """Write the files, or with --check say which are stale. Gives the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args().check
    stale = 0
    for name, make in FILES.items():
        path = PACKAGE / name
        text = _formatted(make(), path)
        if path.exists() and path.read_text("utf-8") == text:
            continue
        if check:
            print(f"{name} is stale: run `make client` and commit", file=sys.stderr)
            stale = 1
        else:
            path.write_text(text, "utf-8")
    return stale


if __name__ == "__main__":
    sys.exit(main())
