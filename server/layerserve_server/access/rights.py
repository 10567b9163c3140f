"""The rights, and the right of every method of the core: the contract's methods have theirs in proto/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias, get_args

from layerserve.calls import methods
from layerserve.v1 import options_pb2

#: Strings, since the hash of an Enum's member is computed in Python, and each call looks one up.
Right: TypeAlias = Literal[
    "predict", "read", "train", "manage", "open", "any", "read, train or manage", "train or manage"
]

#: The rights that a caller may be given.
RIGHTS: tuple[Right, ...] = get_args(Right)[:4]
#: What callers have who were given one of these rights. With the last two, what the caller may do depends on the owner
#: of the run or dataset (see `ownership`).
ALTERNATIVES: Mapping[Right, tuple[Right, ...]] = {
    "any": RIGHTS,
    "read, train or manage": ("read", "train", "manage"),
    "train or manage": ("train", "manage"),
}

#: The rights of the contract's methods, by their number in proto/.
_NUMBERED: Mapping[int, Right] = {
    options_pb2.RIGHT_PREDICT: "predict",
    options_pb2.RIGHT_READ: "read",
    options_pb2.RIGHT_TRAIN: "train",
    options_pb2.RIGHT_MANAGE: "manage",
    options_pb2.RIGHT_ANY: "any",
    options_pb2.RIGHT_READ_TRAIN_OR_MANAGE: "read, train or manage",
    options_pb2.RIGHT_TRAIN_OR_MANAGE: "train or manage",
}


def _described() -> Iterator[tuple[str, Right]]:
    """Yields the methods of the contract that name a right, with it."""
    pool = options_pb2.DESCRIPTOR.pool
    for service in sorted({method.service for method in methods.METHODS.values()}):
        for method in pool.FindServiceByName(service).methods:
            if right := _NUMBERED.get(method.GetOptions().Extensions[options_pb2.right]):
                yield f"/{service}/{method.name}", right


#: Methods that grpc has defined, by service and right.
_FOREIGN: dict[str, dict[Right, str]] = {
    "grpc.health.v1.Health": {"open": "Check List Watch"},
}


def of_services(table: Mapping[str, Mapping[Right, str]]) -> dict[str, Right]:
    """Returns the right of each method, by full name, of a table that names methods by service and right."""
    return {
        f"/{service}/{method}": right
        for service, rights in table.items()
        for right, names in rights.items()
        for method in names.split()
    }


#: Paths of the metrics port.
PATHS: Mapping[str, Right] = {"/healthz": "open", "/readyz": "open", "/metrics": "read"}
#: The right of each method of the core, by full name, and of its paths.
CORE: Mapping[str, Right] = {**dict(_described()), **of_services(_FOREIGN), **PATHS}


def with_alternatives(given: Iterable[Right]) -> frozenset[Right]:
    """Returns the rights that a caller was given, with "open" and those that any of several rights include."""
    rights = frozenset((*given, "open"))
    return rights.union(right for right, alternatives in ALTERNATIVES.items() if not rights.isdisjoint(alternatives))


class MissingRightError(ValueError):
    """Methods or paths have no right."""


def read_rights(text: str) -> frozenset[Right]:
    """Returns the rights in a comma-separated list. Raises ValueError if there is no such right."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RIGHTS:
            raise ValueError(f"right '{name}': expected one of {', '.join(RIGHTS)}")
    return frozenset(right for right in RIGHTS if right in names)
