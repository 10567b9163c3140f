"""Data that comes as batches: Keras's PyDataset, torch's DataLoader, and generators. None of it is gathered.

Each batch is matched and checked by itself, as arrays are as a whole. Which object is which is told by what it can do,
since Keras need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count
from typing import Any

import torch
from torch.utils.data import DataLoader

from layergraph.errors import ConfigError, DataError
from layergraph.functional.functional import Functional
from layergraph.training.compile import Compiled
from layergraph.training.data import Batch, Data
from layergraph.training.data_adapter import adapt_data
from layergraph.training.epochs import epoch_order
from layergraph.training.workers import Workers


class Source:
    """Batches as they come: x, (x, y) or (x, y, sample_weight).

    count    batches of a pass; None where that isn't known
    kind     the word for messages
    """

    count: int | None = None
    kind = ""
    #: Whether any batch can be asked for, so that batches can be shuffled, and a run resumed.
    indexed = False

    def first(self) -> Any:
        """The first batch, which the first pass has too. Raises DataError where there is none."""
        raise NotImplementedError

    def passed(self, order: Iterable[int] | None) -> Iterator[Any]:
        """A pass; `order` are the numbers of its batches, for an indexed source."""
        raise NotImplementedError

    def epoch_begins(self) -> None:
        """Called before each epoch."""

    def epoch_ends(self) -> None:
        """Called after each epoch."""


class _Dataset(Source):
    """Keras 3's PyDataset, or Keras 2's Sequence: batches by number, and hooks of epochs.

    They are fetched one by one: `workers`, `use_multiprocessing` and `max_queue_size` say nothing here.
    """

    kind = "a PyDataset"
    indexed = True

    def __init__(self, given: Any) -> None:
        self._given = given
        self.count = given.num_batches if hasattr(given, "num_batches") else len(given)
        if self.count == 0:
            raise DataError("the PyDataset has no batches")

    def first(self) -> Any:
        # An epoch of one batch, as Keras on torch looks at the first one.
        self.epoch_begins()
        found = self._given[0]
        self.epoch_ends()
        return found

    def passed(self, order: Iterable[int] | None) -> Iterator[Any]:
        return (self._given[number] for number in (order or ()))

    def epoch_begins(self) -> None:
        getattr(self._given, "on_epoch_begin", _nothing)()

    def epoch_ends(self) -> None:
        self._given.on_epoch_end()


class _Iterated(Source):
    """Base of sources that only go forward: the first batch is looked at, and kept for the first pass."""

    def __init__(self) -> None:
        self._held: Iterator[Any] | None = None

    def begun(self) -> Iterator[Any]:
        """A new pass."""
        raise NotImplementedError

    def first(self) -> Any:
        rest = self.begun()
        try:
            found = next(rest)
        except StopIteration:
            raise DataError(f"{self.kind} gives no batch") from None
        self._held = chain([found], rest)
        return found

    def passed(self, order: Iterable[int] | None) -> Iterator[Any]:
        held, self._held = self._held, None
        return self.begun() if held is None else held


class _Loader(_Iterated):
    """torch's DataLoader."""

    kind = "a DataLoader"

    def __init__(self, given: DataLoader[Any]) -> None:
        super().__init__()
        self._given = given
        self.count = len(given) if hasattr(given.dataset, "__len__") else None

    def begun(self) -> Iterator[Any]:
        return iter(self._given)


class _Generator(_Iterated):
    """An iterator: what it has given is gone."""

    kind = "a generator"

    def __init__(self, given: Iterator[Any]) -> None:
        super().__init__()
        self._given = given

    def begun(self) -> Iterator[Any]:
        return self._given


def source(given: Any) -> Source | None:
    """What gives batches, if `given` does; None for anything else."""
    if isinstance(given, DataLoader):
        return _Loader(given)
    counted = hasattr(given, "num_batches") or hasattr(given, "__len__")
    if counted and hasattr(given, "__getitem__") and hasattr(given, "on_epoch_end"):
        return _Dataset(given)
    return _Generator(given) if hasattr(given, "__next__") else None


def _nothing() -> None:
    pass


class Stream:
    """Batches of a source, matched to a model and checked one by one."""

    #: Rows aren't known before they have come.
    rows = 0

    def __init__(
        self, model: Functional, compiled: Compiled, given: Source, class_weight: Mapping[int, float] | None = None
    ) -> None:
        """Looks at the first batch, whose shapes decide what depends on shapes. Raises DataError, also for it."""
        if class_weight is not None and not given.indexed:
            raise ConfigError(f"class_weight: {given.kind} gives sample weights itself, as the third of each batch")
        self.source = given
        self._model = model
        self._compiled = compiled
        self._class_weight = class_weight
        self.matched(given.first())

    def matched(self, raw: Any) -> Batch:
        """A batch as tensors. Raises DataError where it doesn't fit the model."""
        x, y, weight = self._parts(raw)
        found: Data = adapt_data(self._model, self._compiled, x, y, weight, self._class_weight)
        return found.batch(slice(0, found.rows), found.rows)

    def _parts(self, raw: Any) -> tuple[Any, Any, Any]:
        if isinstance(raw, (Mapping, torch.Tensor)) or hasattr(raw, "__array__"):
            raw = (raw,)
        if not isinstance(raw, (tuple, list)) or not 1 <= len(raw) <= 3:
            raise DataError(
                f"{self.source.kind} gave {type(raw).__name__} of {len(raw) if hasattr(raw, '__len__') else 'no'} "
                "items, expected batches (x,), (x, y) or (x, y, sample_weight)"
            )
        x, y, weight = (*raw, None, None)[:3]
        return x, y, weight

    def batches(self, size: int, workers: Workers | None = None) -> Iterator[Batch]:
        """A pass in order, its batches of the size that they have. Raises DataError where none is left."""
        passes = StreamEpochs(self, seed=0, shuffle=False, number=0)
        passes.epoch_begins()
        try:
            while not passes.finished and (batch := passes.take()) is not None:
                yield batch
            if not passes.done:
                raise DataError(f"{self.source.kind} has no batch left")
        finally:
            passes.epoch_ends()


class StreamEpochs:
    """As `Passes`, of a stream: batches of the size that they have, in one pass after another.

    The batches of a PyDataset are shuffled where `shuffle` says so; rows never are.
    """

    size = 0

    def __init__(self, stream: Stream, *, seed: int, shuffle: bool, number: int) -> None:
        self._stream = stream
        self._source = stream.source
        self._seed = seed
        self.shuffle = shuffle and self._source.indexed
        self.steps = self._source.count
        self.rows = stream.rows
        self.start_at(number, 0)

    def start_at(self, number: int, done: int) -> None:
        """Goes to a place. Raises ConfigError for one within what only goes forward."""
        if done and not self._source.indexed:
            raise ConfigError(f"{self._source.kind} can't be taken up in the middle; expected arrays or a PyDataset")
        self.number, self.done = number, done
        self._left: Iterator[Any] | None = None
        self._ended = False

    @property
    def finished(self) -> bool:
        """Whether the pass is known to have no batch left."""
        return self._ended or (self.steps is not None and self.done >= self.steps)

    def start_next_if_finished(self) -> None:
        """Begins the next pass where the current one has ended."""
        if self.finished:
            self.start_at(self.number + 1, 0)

    def take(self) -> Batch | None:
        """The next batch; None where the source has ended sooner than it said, or said nothing."""
        if self._left is None:
            self._left = self._source.passed(self._order())
        try:
            raw = next(self._left)
        except StopIteration:
            self._ended = True
            return None
        self.done += 1
        return self._stream.matched(raw)

    def _order(self) -> Iterable[int] | None:
        """Numbers of the batches that the pass still has."""
        if not self._source.indexed:
            return None
        if self.steps is None:
            return count(self.done)
        if not self.shuffle:
            return range(self.done, self.steps)
        return epoch_order(self.steps, self._seed, self.number)[self.done :].tolist()

    def epoch_begins(self) -> None:
        """Tells the source."""
        self._source.epoch_begins()

    def epoch_ends(self) -> None:
        """Tells the source."""
        self._source.epoch_ends()

    @property
    def kind(self) -> str:
        """The word for messages."""
        return self._source.kind
