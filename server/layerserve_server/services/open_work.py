"""Runs, and other work of extensions, that haven't ended: of a model, with a dataset, or of a caller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import Protocol, TypeVar

from layerserve_server.access.caller import Caller
from layerserve_server.errors import ServerError
from layerserve_server.services.dataset_arrays import datasets_of
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run

T = TypeVar("T")


class Work(Protocol):
    """Work of an extension that begins runs of its own."""

    @property
    def id(self) -> str: ...
    @property
    def request(self) -> RunRequest: ...
    @property
    def ended(self) -> bool: ...


class OpenWork:
    """What runs and other work on disk say, also those that other servers own. All methods raise UnavailableError."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._others: dict[str, Callable[[], Iterable[Work]]] = {}

    def add(self, kind: str, listed: Callable[[], Iterable[Work]]) -> None:
        """Adds a kind of work, named by a noun. `listed` returns all of it."""
        self._others[kind] = listed

    def kinds(self, ids: Collection[str]) -> dict[str, str]:
        """Returns the kind of each id that isn't a run's. What can't be read is left out."""
        found: dict[str, str] = {}
        for kind, listed in self._others.items() if ids else ():
            with suppress(ServerError):
                found |= {one.id: kind for one in listed() if one.id in ids}
        return found

    def of_model(self, model: str) -> list[str]:
        """Returns the work on a model, in words: "run 'X'"."""
        self._runs.table.scan()
        others = [f"{kind} '{one.id}'" for kind, one in self._open_others() if one.request.model == model]
        return others + [f"run '{run.id}'" for run in self._all_runs(model) if not _is_part(run) and not run.log.ended]

    def using(self, dataset: str) -> str:
        """Returns what needs a dataset, in words; "" if nothing does.

        A run needs it until it has ended, and afterwards as long as it can be resumed.
        """
        self._runs.table.scan()
        for kind, one in self._open_others():
            if dataset in datasets_of(one.request):
                return f"{kind} '{one.id}'"
        for run in self._all_runs():
            if dataset in datasets_of(run.request) and (not run.log.ended or run.resumable):
                return f"run '{run.id}'"
        return ""

    def begin(self, caller: Caller, begin: Callable[[], T], again: Run | None = None) -> T:
        """Begins or resumes work, if the caller may have one more. Work of an extension counts once, with its runs.

        `again` is the run that is resumed. It counts already if it is paused. Raises as `Quota.run` and `begin` do.
        """
        if caller.quota is None or (again is not None and not again.log.ended):
            return begin()
        return caller.quota.run(begin, lambda: self._count(caller.owner))

    def _count(self, owner: str) -> int:
        requests = [one.request for _, one in self._open_others()]
        requests += [run.request for run in self._all_runs() if not _is_part(run) and not run.log.ended]
        return sum(request.caller == owner for request in requests)

    def _open_others(self) -> Iterator[tuple[str, Work]]:
        for kind, listed in self._others.items():
            yield from ((kind, one) for one in listed() if not one.ended)

    def _all_runs(self, model: str = "") -> Iterable[Run]:
        return self._runs.table.list_all(model).values()


def _is_part(run: Run) -> bool:
    return bool(run.request.part_of)
