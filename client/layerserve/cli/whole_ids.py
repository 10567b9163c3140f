"""Ids of runs and sweeps on a command line, of which the first digits are enough.

Calls always name one run or sweep by its whole id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from layerserve import Client, TrainingRun
from layerserve.errors import InvalidArgument

#: Form of a whole id: date, time and random digits, in UTC. It is sent as it is.
_WHOLE = re.compile(r"\d{8}-\d{4}-[0-9a-f]{8}")
#: Number of candidates that an error lists at most.
_LISTED = 10


def run_id(client: Client, given: str) -> str:
    """Returns the id of the run that begins with a text, or whose random digits do.

    An unknown one is returned as it is, for the server to refuse it. Raises InvalidArgument if several runs fit.
    """
    return whole_id("run", given, lambda: (info.id for info in client.runs()))


def find_run(client: Client, given: str) -> TrainingRun:
    """Returns the run of an id, or of its first digits. Raises InvalidArgument as `run_id` does."""
    return client.run(run_id(client, given))


def checkpoint_name(client: Client, given: str) -> str:
    """Returns RUN/CHECKPOINT, or RUN, with the whole id of the run. Raises InvalidArgument as `run_id` does."""
    run, slash, checkpoint = given.partition("/")
    return f"{run_id(client, run)}{slash}{checkpoint}"


def with_whole_ids(client: Client, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options of a training or evaluation, with the whole id in `from_checkpoint`."""
    given = options.get("from_checkpoint")
    return options if given is None else {**options, "from_checkpoint": checkpoint_name(client, given)}


def whole_id(noun: str, given: str, known: Callable[[], Iterable[str]]) -> str:
    """Returns the id among `known` that begins with a text. Raises InvalidArgument if several do."""
    if not given or _WHOLE.fullmatch(given):
        return given
    ids = list(known())
    if given in ids:
        return given
    fitting = [id for id in ids if id.startswith(given) or id.rpartition("-")[2].startswith(given)]
    if len(fitting) > 1:
        more = f" and {len(fitting) - _LISTED} more" if len(fitting) > _LISTED else ""
        raise InvalidArgument(
            f"{noun} {given!r}: got the first digits of {len(fitting)} {noun}s, expected those of one: "
            f"{', '.join(fitting[:_LISTED])}{more}"
        )
    return fitting[0] if fitting else given
