"""Command line of every fuzzer: checks random cases by seed, and prints for each mismatch the command that replays it.

    make -C lab fuzz FUZZ=graphs COUNT=200 SEED=0     # 200 seeds from 0 on
    make -C lab fuzz FUZZ=graphs CASE=17              # one seed, with the whole traceback

A fuzzer is a file of this folder that calls `run` with its `Fuzzer`. Where another Python has to build the cases, the
fuzzer has two steps: `make FOLDER` under that Python, then `check FOLDER` under this one.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRESS_SECONDS = 30.0
#: Length of a failure's text when many seeds run; a replay prints all of it.
TEXT_LENGTH = 1500

#: How a case ended, to be counted in the summary: a name, several, or nothing worth a count.
Outcome = str | Sequence[str] | None


class Skipped(Exception):
    """The reference can't build or compute the case."""


@dataclass(frozen=True)
class Fuzzer:
    """A comparison of random cases.

    name: file name without `.py`, the value of make's FUZZ
    cases: plural noun of the cases, for the summary
    check: compares the case of a seed, given a folder for its files; any exception but Skipped is a mismatch
    make: builds the case of a seed in its folder under another Python; None if `check` builds it
    peer: variable of make that names the other Python
    count: number of seeds by default
    end_on_error: whether an error that isn't an AssertionError ends the process, as others would wait for it
    """

    name: str
    cases: str
    check: Callable[[int, Path], Outcome]
    make: Callable[[int, Path], Outcome] | None = None
    peer: str = ""
    count: int = 200
    end_on_error: bool = False

    def replay(self, seed: int) -> str:
        """The command that runs the case of a seed again."""
        peer = f" {self.peer}={shlex.quote(os.environ.get(self.peer, '...'))}" if self.peer else ""
        return f"make -C lab fuzz FUZZ={self.name}{peer} CASE={seed}"


def run(fuzzer: Fuzzer, arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 1 if a case failed."""
    options = _parser(fuzzer).parse_args(arguments)
    warnings.filterwarnings("ignore")
    logging.getLogger("absl").setLevel(logging.ERROR)
    replayed = options.case is not None
    if options.step == "check" and not replayed:
        seeds = sorted(int(path.name) for path in options.folder.iterdir() if path.name.isdigit())
    else:
        seeds = [options.case] if replayed else list(range(options.seed, options.seed + options.count))
    failed: list[int] = []
    outcomes: Counter[str] = Counter()
    skipped = 0
    reported = time.monotonic()
    for done, seed in enumerate(seeds):
        if time.monotonic() - reported >= PROGRESS_SECONDS:
            _print(f"{done} of {len(seeds)} {fuzzer.cases}, {len(failed)} mismatches")
            reported = time.monotonic()
        try:
            outcome = _run_case(fuzzer, options, seed)
        except Skipped as reason:
            skipped += 1
            if replayed:
                _print(f"seed {seed}: skipped: {reason}")
        except Exception as error:
            failed.append(seed)
            ends = fuzzer.end_on_error and not isinstance(error, AssertionError)
            text = _text(error, whole=replayed)
            _print(f"seed {seed}: {text}\nreplay with: {fuzzer.replay(seed)}", everywhere=ends)
            if ends:
                raise
        else:
            names = [outcome] if isinstance(outcome, str) else outcome or []
            outcomes.update(names)
            if replayed:
                _print(f"seed {seed}: {', '.join(names) or 'no mismatch'}")
    _print(_summary(fuzzer, len(seeds) - skipped, failed, outcomes, skipped, made=options.step == "make"))
    return 1 if failed else 0


def _parser(fuzzer: Fuzzer) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{fuzzer.name}.py", description=f"Checks random {fuzzer.cases} by seed.")
    case = {"type": int, "metavar": "SEED", "help": "run this seed alone, and print all about it"}
    if fuzzer.make is None:
        parser.set_defaults(step=None)
        making = parser
    else:
        steps = parser.add_subparsers(dest="step", required=True)
        making = steps.add_parser("make", help=f"build {fuzzer.cases} in a folder, under the other Python")
        making.add_argument("folder", type=Path)
        checking = steps.add_parser("check", help=f"check all {fuzzer.cases} of the folder")
        checking.add_argument("folder", type=Path)
        checking.add_argument("--case", **case)
    making.add_argument(
        "count", type=int, nargs="?", default=fuzzer.count, help=f"number of seeds (default: {fuzzer.count})"
    )
    making.add_argument("--seed", type=int, default=0, metavar="FIRST", help="first seed (default: 0)")
    making.add_argument("--case", **case)
    return parser


def _run_case(fuzzer: Fuzzer, options: argparse.Namespace, seed: int) -> Outcome:
    if options.step is None:
        with tempfile.TemporaryDirectory() as folder:
            return fuzzer.check(seed, Path(folder))
    folder = options.folder / str(seed)
    if options.step == "check":
        if not folder.is_dir():
            raise Skipped(f"there is no {folder}")
        return fuzzer.check(seed, folder)
    assert fuzzer.make is not None
    with _new(folder):
        return fuzzer.make(seed, folder)


@contextmanager
def _new(folder: Path) -> Iterator[None]:
    """An empty folder, removed again if its case isn't built."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder)
        raise


def _text(error: Exception, *, whole: bool) -> str:
    limit = None if whole else -2
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=limit, chain=whole)
    text = "".join(lines).strip()
    return text if whole or len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]} ..."


def _summary(
    fuzzer: Fuzzer, compared: int, failed: list[int], outcomes: Counter[str], skipped: int, *, made: bool
) -> str:
    text = f"{compared} {fuzzer.cases}, {len(failed)} {'errors in making them' if made else 'mismatches'}"
    if failed:
        text += f": seeds {failed}"
    if skipped:
        text += f"; {skipped} skipped, as the reference can't run them"
    return "\n".join([text, *(f"  {times} {name}" for name, times in outcomes.most_common())])


def _print(text: str, *, everywhere: bool = False) -> None:
    """Prints; of processes that torchrun started only the first one prints what all of them know."""
    if everywhere or os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
