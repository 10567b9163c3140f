"""The engines that tuning has chosen, in a folder, from which a later process opens them without tracing the plan.

```
engines.json     the choices, and for each engine its file and what else opening needs
ENGINE           a graph in the engine's own format (see `engines.graph_files`)
example.npz      inputs, and eager torch's outputs for them, to check what was opened
```
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layergraph.execution.engines.engine import EAGER, Array, Engine, UnfitError
from layergraph.execution.engines.graph_files import OPENED, GraphFiles
from layergraph.execution.tuning.agreement import TOLERANCE, difference
from layergraph.execution.tuning.result import Choice, Tuned, Tuning, choices_from_json, choices_to_json
from layergraph.execution.tuning.variant_names import SINGLE_THREADED, UNMERGED, of_single, parts

if TYPE_CHECKING:
    from layergraph.execution.tuning.variants import Variants

logger = logging.getLogger(__name__)

NOTE, EXAMPLE = "engines.json", "example.npz"
#: Names of all files that there may be.
FILES = (NOTE, EXAMPLE, *(engine + suffix for engine in OPENED for suffix in ("", UNMERGED)))


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is noted of an engine."""

    file: str
    finite: bool
    assertions: int


def write_engines(
    folder: Path, choices: Sequence[Choice], variants: Variants, inputs: Sequence[Array], outputs: Sequence[Array]
) -> None:
    """Writes the engines of `choices`; `outputs` are eager torch's for `inputs`.

    Engines that have no file format are noted only. Raises OSError.
    """
    entries = {}
    for choice in choices:
        tuned = choice.tuned
        if tuned is not None and tuned.name not in entries:
            try:
                file, content = variants.content(tuned.name, tuned.run)
            except Exception as reason:
                # Engines may raise anything.
                logger.debug("engine %s is noted only: %s", tuned.name, reason)
                continue
            (folder / file).write_bytes(content)
            entries[tuned.name] = {"file": file, "finite": tuned.finite, "assertions": variants.assertion_count}
    arrays: dict[str, Any] = {f"input_{i}": array for i, array in enumerate(inputs)}
    arrays |= {f"output_{i}": array for i, array in enumerate(outputs)}
    np.savez(folder / EXAMPLE, **arrays)
    note = {"choices": choices_to_json(choices), "engines": entries}
    (folder / NOTE).write_text(json.dumps(note))


def noted_choices(folder: Path) -> tuple[Choice, ...]:
    """Returns the choices of `write_engines`, without their engines; none if the note is damaged."""
    try:
        return choices_from_json(json.loads((folder / NOTE).read_bytes())["choices"])
    except (OSError, ValueError, LookupError, TypeError):
        return ()


def open_engines(
    folder: Path,
    dtypes: Sequence[str],
    threads: int,
    *,
    shared: bool,
    reference: Callable[[Sequence[Array]], Sequence[Array]] | None = None,
) -> Tuning:
    """Returns the engines that `write_engines` has written for inputs of these dtypes, with this number of threads.

    With a `reference`, its outputs for the example are compared with those that were written. Raises UnfitError if
    outputs differ, or if files are missing or damaged.
    """
    try:
        return _all_opened(folder, tuple(dtypes), threads, reference, shared=shared)
    except UnfitError:
        raise
    except Exception as reason:
        # Engines may raise anything for a damaged file.
        raise UnfitError(f"what is kept can't be opened: {reason}") from reason


def _all_opened(
    folder: Path,
    dtypes: tuple[str, ...],
    threads: int,
    reference: Callable[[Sequence[Array]], Sequence[Array]] | None,
    *,
    shared: bool,
) -> Tuning:
    note = json.loads((folder / NOTE).read_bytes())
    choices = choices_from_json(note["choices"])
    if not choices:
        raise UnfitError("no engine was noted")
    entries = {name: _Entry(**entry) for name, entry in dict(note["engines"]).items()}
    with np.load(folder / EXAMPLE, allow_pickle=False) as example:
        inputs, outputs = (_numbered(example, f"{kind}_") for kind in ("input", "output"))
    if reference is not None:
        _check(EAGER, reference(inputs), outputs)
    files = GraphFiles(folder, dtypes, threads, shared)
    found: dict[str, Tuned | None] = {EAGER: None}
    singles: dict[str, Engine] = {}
    for name in dict.fromkeys(choice.engine for choice in choices if choice.engine != EAGER):
        if name not in entries:
            raise UnfitError(f"engine '{name}' can't be kept")
        engine = _opened(name, entries[name], files, singles)
        _check(name, engine(inputs), outputs)
        found[name] = Tuned(name, engine, finite=entries[name].finite)
    return Tuning(tuple(replace(choice, tuned=found[choice.engine]) for choice in choices), {})


def _opened(name: str, entry: _Entry, files: GraphFiles, singles: dict[str, Engine]) -> Engine:
    engine, suffix = parts(name)
    if suffix not in SINGLE_THREADED:
        return OPENED[engine](files, entry.file)
    if engine not in singles:
        singles[engine] = OPENED[engine](files.single_threaded(), entry.file)
    return of_single(suffix, singles[engine], files.threads, entry.assertions)


def _numbered(arrays: Mapping[str, Any], name: str) -> list[Array]:
    return [arrays[f"{name}{i}"] for i in range(sum(key.startswith(name) for key in arrays))]


def _check(name: str, got: Sequence[Array], expected: Sequence[Array]) -> None:
    off = difference(got[: len(expected)], expected)
    if not off <= TOLERANCE or not all(got[len(expected) :]):
        raise UnfitError(f"engine '{name}' differs by {off:.2g} from the outputs when it was kept")
