"""Attacks a server, with an honest caller beside: `make -C lab attack`. See lab/README.md.

Each check starts from a real server process, attacks it from other processes, and judges: errors and p99 of the honest
caller, memory, threads and descriptors of the server, and whether SIGTERM still ends it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from attacks.runner import run

from attack.checks import CHECKS
from attack.report import line, table

RESULTS = Path(__file__).parents[2] / "build" / "attack"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transport", choices=["grpcio", "native", "both"], default="both")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="processes that answer Predict")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each flood lasts")
    parser.add_argument("--only", default="", help="checks whose names hold this text")
    parser.add_argument("--list", action="store_true", help="only list the checks")
    arguments = parser.parse_args()
    checks = [check for check in CHECKS if arguments.only.lower() in f"{check.item} {check.name}".lower()]
    if arguments.list:
        print(*(f"{check.item}  {check.name}" for check in checks), sep="\n")
        return 0
    transports = ["grpcio", "native"] if arguments.transport == "both" else [arguments.transport]
    verdicts = []
    RESULTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for transport in transports:
            for workers in arguments.workers:
                for verdict in run(checks, Path(folder), transport, workers, arguments.seconds):
                    print(line(verdict), flush=True)
                    verdicts.append(verdict)
    text = table(verdicts)
    (RESULTS / "results.md").write_text(text)
    failed = [verdict for verdict in verdicts if not verdict.holds and not verdict.beyond]
    print(f"\n{text}\n{len(verdicts) - len(failed)} of {len(verdicts)} hold or are beyond a library")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
