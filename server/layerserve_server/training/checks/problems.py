"""Collection of the problems of a training request, where a run would be refused with the first one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TypeAlias, TypeVar

from layerserve_server.errors import (
    ForbiddenPathError,
    InvalidRequestError,
    NotTrainableError,
    TooLargeError,
)

T = TypeVar("T")

#: Errors with which a run is refused because of its request.
REFUSALS = (InvalidRequestError, NotTrainableError, ForbiddenPathError, TooLargeError)
#: Maximum number of problems that are collected.
MAX_PROBLEMS = 50


class Notes(AbstractContextManager[None]):
    """A context manager around each check of a request. It keeps the text of a refusal instead of raising it."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def add(self, texts: Iterable[str]) -> None:
        """Adds problems that aren't known yet, up to MAX_PROBLEMS in total."""
        for text in texts:
            if text not in self.texts and len(self.texts) < MAX_PROBLEMS:
                self.texts.append(text)

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, REFUSALS):
            return False
        self.add([str(error)])
        return True


#: A context manager around each check of a request.
NotesContext: TypeAlias = AbstractContextManager[None]
#: In this context checks raise: for a request that is to be executed.
RAISING: NotesContext = nullcontext()


def results(checks: Iterable[Callable[[], T]], notes: NotesContext) -> list[T] | None:
    """Makes all checks, and returns their results; None if there was a problem with one of them."""
    count, found = 0, []
    for check in checks:
        count += 1
        with notes:
            found.append(check())
    return found if len(found) == count else None
