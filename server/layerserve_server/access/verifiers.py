"""Verifiers: they find the callers of tokens that aren't entries of the tokens file, by a table of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from layerserve_server.access.caller import Caller
from layerserve_server.access.quota import Quotas
from layerserve_server.access.reserved import Reserved
from layerserve_server.errors import UnauthenticatedError


class RefusedForNowError(UnauthenticatedError):
    """The token may be valid later, so its refusal isn't kept."""


class Verifier(Protocol):
    """Checks tokens. Thread-safe. It reads no file and no address when it checks one."""

    @property
    def table(self) -> BaseModel:
        """The table of the tokens file that it was made of."""

    @property
    def state(self) -> object:
        """Another object after each change of what it knows: a token that it has refused may be valid now."""

    def reads(self, token: str) -> bool:
        """Whether a token is of its kind."""

    def caller(self, token: str) -> Caller:
        """Returns the caller of a token.

        Raises UnauthenticatedError if it isn't valid, RefusedForNowError if that may change without a change of
        `state`, and UnavailableError if it can't be checked yet.
        """

    def start(self) -> None:
        """Starts what goes on in the background, unless it was started."""

    def stop(self) -> None:
        """Stops it. What is in progress isn't awaited."""

    def refresh(self) -> None:
        """Reads files again that have changed. If one is invalid, what was read before stays."""

    def end_callers(self, reason: str) -> None:
        """Ends the streams of all of its callers."""


@dataclass(frozen=True, kw_only=True)
class Callers:
    """What a verifier makes callers with."""

    #: The folder of the tokens file. Paths in its tables are relative to it.
    folder: Path
    quotas: Quotas
    #: That of all callers.
    reserved: Reserved
    #: Called with the name of a file, as in metrics, and the success of each attempt to read it.
    reread: Callable[[str, bool], None]


@dataclass(frozen=True, kw_only=True)
class VerifierKind:
    """A kind of verifiers. A tokens file with its table has one."""

    #: Name of the table.
    name: str
    #: What the table may have.
    table: type[BaseModel]
    #: Makes a verifier of a table. Raises TokensFileError.
    make: Callable[[Any, Callers], Verifier]
