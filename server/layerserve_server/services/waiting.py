"""Calls that wait, without a thread, until the version that they need is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from layergraph.execution.kept_plan import NotKeptError

from layerserve_server.errors import UnavailableError
from layerserve_server.repository.leases import LOAD_TRIES, Choice
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.transport.call import Call


def with_version(
    repository: Repository,
    call: Call,
    choice: Choice,
    work: Callable[[LoadedVersion], None],
    tries: int = LOAD_TRIES,
    named: Choice | None = None,
    *,
    kept: bool = False,
) -> None:
    """Calls `work` with the chosen version, which is leased meanwhile: now, or after it was loaded.

    `named` is what the call names, if a canary was chosen instead. With `kept`, what was kept of a version is tried
    first: `work` may raise NotKeptError. Raises as `Leases.lease_chosen` does. After this has
    returned, errors fail the call.
    """
    named = choice if named is None else named
    held = repository.leases.lease_chosen(choice, named, kept=kept)
    if held is not None:
        with held as version:
            try:
                work(version)
                return
            except NotKeptError:
                if not version.kept:
                    raise
        with_version(repository, call, choice, work, tries, named)
        return
    if not tries:
        raise unloaded(choice[0])
    again = partial(with_version, repository, call, choice, work, tries - 1, named, kept=kept)
    waits = partial(proceed, call, again)
    repository.leases.when_chosen_loaded(choice, named, waits, lambda: call.answered, kept=kept)


def proceed(call: Call, again: Callable[[], None], error: Exception | None) -> None:
    """Continues a call whose version was loaded, or fails it with the error of that."""
    if error is not None:
        call.fail(error)
    else:
        call.in_pool(again)


def unloaded(model: str) -> UnavailableError:
    """Returns the error of a request whose model was unloaded again before the request could use it."""
    return UnavailableError(f"model '{model}' was unloaded while the request waited for it")
