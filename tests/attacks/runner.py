"""Runs checks one after the other, on as few servers as their settings allow."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from attacks.check import Check, Verdict, carry_out, log_faults
from attacks.honest import Honest
from attacks.messages import MODEL, ROW
from attacks.repository import make_repository
from attacks.server import Server

#: Processes that attackers run in at once.
ATTACKERS = 4


def run(checks: Sequence[Check], folder: Path, transport: str, workers: int, seconds: float) -> Iterator[Verdict]:
    """Carries checks out on one kind of server. One that fails is repeated once, on a new server."""
    with attackers() as pool:
        place = Place(folder / f"{transport}-{workers}", transport, workers)
        try:
            for check in checks:
                if transport not in check.transports:
                    continue
                verdict = place.carry_out(check, pool, seconds)
                if not verdict.holds and not verdict.beyond:
                    place.leave()
                    first = verdict
                    verdict = place.carry_out(check, pool, seconds)
                    verdict = replace(verdict, notes=(*verdict.notes, f"at first: {'; '.join(first.faults)}"))
                if not verdict.holds:
                    place.leave()
                yield verdict
        finally:
            for fault in place.leave():
                print(f"FAILS  {transport}/{workers}: {fault}", file=sys.stderr)


def attackers() -> Executor:
    """Processes for attackers."""
    return ProcessPoolExecutor(ATTACKERS, multiprocessing.get_context("spawn"))


class Place:
    """A server with its honest caller, kept while checks ask for the same settings."""

    def __init__(self, folder: Path, transport: str, workers: int, *, times: bool = True) -> None:
        """`times`: see `check.carry_out`."""
        self._times = times
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._repository = make_repository(folder / "models")
        self._transport, self._workers = transport, workers
        self._server: Server | None = None
        self._honest: Honest | None = None
        self._settings: object = None
        self._count = 0

    def carry_out(self, check: Check, pool: Executor, seconds: float) -> Verdict:
        faults: list[str] = []
        if self._server is not None and (self._settings != check.settings or not self._server.alive()):
            faults = self.leave()
        if self._server is None:
            self._enter(check)
        assert self._server is not None
        assert self._honest is not None
        verdict = carry_out(check, self._server, self._honest, pool, seconds, self._workers, times=self._times)
        return replace(verdict, notes=(*verdict.notes, *(f"the server before: {fault}" for fault in faults)))

    def leave(self) -> list[str]:
        """Ends the server by SIGTERM; gives what is wrong with that, and with its log."""
        if self._server is None or self._honest is None:
            return []
        self._honest.stop()
        status, log = self._server.end(), self._server.log
        self._server = self._honest = None
        faults = [] if status == 0 else [f"SIGTERM: exit status {status}, expected 0 in time (see {log})"]
        return [*faults, *(f"its log has '{word}'" for word in log_faults(log))]

    def _enter(self, check: Check) -> None:
        self._count += 1
        log = self._folder / f"{self._count}.log"
        options = {"transport": self._transport, "workers": self._workers, **check.settings}
        self._server = Server(self._repository, log, **options).wait()
        self._settings = check.settings
        self._honest = Honest(self._server.target, self._server.http_port, MODEL, ROW)
