"""What callers may do with what belongs to one of them: runs with their checkpoints and files, sweeps, and datasets."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

from layerserve_server.access.caller import Caller
from layerserve_server.access.reserved import UNREADABLE, Restriction
from layerserve_server.errors import ForbiddenError


class Access(IntEnum):
    """What a caller may do. Each value includes those before it."""

    #: It doesn't exist for the caller.
    NONE = 0
    #: The caller sees that it exists: its model and state.
    EXISTS = 1
    #: The caller reads its settings, logs and events.
    READ = 2
    #: The caller reads its weights and files, and changes it.
    FULL = 3


class Owned(Protocol):
    """A run, or other work on a model, as it was written down when it began."""

    @property
    def model(self) -> str:
        """Name of its model, which may be gone."""

    @property
    def caller(self) -> str:
        """Name of its owner; empty for callers without a token or certificate."""

    @property
    def callers(self) -> tuple[str, ...] | None:
        """Names or patterns of the callers that the model was open to when it began.

        None for all, empty if they aren't known.
        """


class OwnedDataset(Protocol):
    """A dataset, which has a number of owners and no model."""

    @property
    def owner_names(self) -> tuple[str, ...]:
        """Names of the callers that have uploaded it."""

    @property
    def shared(self) -> bool:
        """Whether one of them shares it with all callers."""


def access_to(caller: Caller, owned: Owned) -> Access:
    """Returns what a caller may do. Both the model's callers at the beginning and those of now must include it."""
    if owned.callers is not None:
        restriction = Restriction(owned.callers) if owned.callers else UNREADABLE
        if not restriction.admits(caller.name, manages="manage" in caller.rights):
            return Access.NONE
    if not caller.may("any", owned.model):
        return Access.NONE
    if changes(caller, owned.caller):
        return Access.FULL
    if "read" in caller.rights:
        return Access.READ
    return Access.EXISTS if "train" in caller.rights else Access.NONE


def changes(caller: Caller, owner: str) -> bool:
    """Whether a caller changes what belongs to an owner, if it exists for the caller."""
    return "manage" in caller.rights or ("train" in caller.rights and caller.owns(owner))


def reads_rows(caller: Caller, owner: str) -> bool:
    """Whether a caller may read the rows of an owner. `manage` on one model isn't enough."""
    return caller.manages_all or ("train" in caller.rights and caller.owns(owner))


def sees_dataset(caller: Caller, dataset: OwnedDataset) -> bool:
    """Whether a dataset exists for a caller, which has the right to call the method."""
    return dataset.shared or deletes_dataset(caller, dataset)


def deletes_dataset(caller: Caller, dataset: OwnedDataset) -> bool:
    """Whether a caller may delete a dataset. `manage` on one model isn't enough."""
    return caller.owns(*dataset.owner_names) or caller.manages_all


def check_access(caller: Caller, owned: Owned, needed: Access, label: str) -> None:
    """Raises ForbiddenError if the caller may do less than is needed. `label` is for the error: "training run 'X'"."""
    if access_to(caller, owned) < needed:
        raise ForbiddenError(f"{label}: it belongs to another caller")
