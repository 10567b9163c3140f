"""Data that comes as batches: Keras's PyDataset, torch's DataLoader, and generators. Batches are never collected.

Each batch is matched to the model and checked on its own. Objects are recognised by their methods, since Keras need not
be installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count, islice
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
    """An iterable of batches: x, (x, y) or (x, y, sample_weight).

    count    batches per epoch; None if unknown
    kind     name of the kind of data in error messages
    """

    count: int | None = None
    kind = ""
    #: Whether batches can be accessed by index, so that they can be shuffled and a run can be resumed.
    indexed = False

    def first(self) -> Any:
        """The first batch, which the first epoch returns again. Raises DataError if there is none."""
        raise NotImplementedError

    def epoch_batches(self, order: Iterable[int] | None) -> Iterator[Any]:
        """Batches of one epoch; `order` are their indices, for an indexed source."""
        raise NotImplementedError

    def epoch_begins(self) -> None:
        """Called before each epoch."""

    def epoch_ends(self) -> None:
        """Called after each epoch."""


class _Dataset(Source):
    """Keras 3's PyDataset, or Keras 2's Sequence: batches by index, and callbacks for epochs.

    Batches are fetched one by one; `workers`, `use_multiprocessing` and `max_queue_size` have no effect.
    """

    kind = "a PyDataset"
    indexed = True

    def __init__(self, given: Any) -> None:
        self._given = given
        self.count = given.num_batches if hasattr(given, "num_batches") else len(given)
        if self.count == 0:
            raise DataError("the PyDataset has no batches")

    def first(self) -> Any:
        # Runs as an epoch of one batch, as Keras on torch does to infer shapes.
        self.epoch_begins()
        found = self._given[0]
        self.epoch_ends()
        return found

    def epoch_batches(self, order: Iterable[int] | None) -> Iterator[Any]:
        return (self._given[number] for number in (order or ()))

    def epoch_begins(self) -> None:
        getattr(self._given, "on_epoch_begin", _nothing)()

    def epoch_ends(self) -> None:
        self._given.on_epoch_end()


class _Iterated(Source):
    """Base of sources that can only be iterated: the first batch is kept for the first epoch."""

    def __init__(self) -> None:
        self._kept: Iterator[Any] | None = None

    def new_iterator(self) -> Iterator[Any]:
        """A new iterator over the batches."""
        raise NotImplementedError

    def first(self) -> Any:
        rest = self.new_iterator()
        try:
            found = next(rest)
        except StopIteration:
            raise DataError(f"{self.kind} gives no batch") from None
        self._kept = chain([found], rest)
        return found

    def epoch_batches(self, order: Iterable[int] | None) -> Iterator[Any]:
        held, self._kept = self._kept, None
        return self.new_iterator() if held is None else held


class _Loader(_Iterated):
    """torch's DataLoader."""

    kind = "a DataLoader"

    def __init__(self, given: DataLoader[Any]) -> None:
        super().__init__()
        self._given = given
        self.count = len(given) if hasattr(given.dataset, "__len__") else None

    def new_iterator(self) -> Iterator[Any]:
        return iter(self._given)


class _Generator(_Iterated):
    """An iterator, which can be consumed only once."""

    kind = "a generator"

    def __init__(self, given: Iterator[Any]) -> None:
        super().__init__()
        self._given = given

    def new_iterator(self) -> Iterator[Any]:
        return self._given


def source(given: Any) -> Source | None:
    """A source of batches for `given`; None if it is none."""
    if isinstance(given, DataLoader):
        return _Loader(given)
    counted = hasattr(given, "num_batches") or hasattr(given, "__len__")
    if counted and hasattr(given, "__getitem__") and hasattr(given, "on_epoch_end"):
        return _Dataset(given)
    return _Generator(given) if hasattr(given, "__next__") else None


def _nothing() -> None:
    pass


def _parts(given: Source, raw: Any) -> tuple[Any, Any, Any]:
    """x, y and sample_weight of a batch. Raises DataError if it is none."""
    if isinstance(raw, (Mapping, torch.Tensor)) or hasattr(raw, "__array__"):
        raw = (raw,)
    if not isinstance(raw, (tuple, list)) or not 1 <= len(raw) <= 3:
        raise DataError(
            f"{given.kind} gave {type(raw).__name__} of {len(raw) if hasattr(raw, '__len__') else 'no'} "
            "items, expected batches (x,), (x, y) or (x, y, sample_weight)"
        )
    x, y, weight = (*raw, None, None)[:3]
    return x, y, weight


def batch_inputs(given: Source, steps: int | None) -> Iterator[Any]:
    """The inputs of an epoch's batches in order, at most `steps`. Raises DataError if there is no batch."""
    found = False
    given.epoch_begins()
    numbers = None if not given.indexed else count() if given.count is None else range(given.count)
    for raw in islice(given.epoch_batches(numbers), steps):
        found = True
        yield _parts(given, raw)[0]
    given.epoch_ends()
    if not found:
        raise DataError(f"{given.kind} gives no batch")


class Stream:
    """Batches of a source, matched to a model and checked one by one."""

    #: The number of rows isn't known in advance.
    rows = 0

    def __init__(
        self, model: Functional, compiled: Compiled, given: Source, class_weight: Mapping[int, float] | None = None
    ) -> None:
        """Reads the first batch, whose shapes resolve what depends on shapes.

        Raises DataError if it doesn't fit, ConfigError for class_weight with a source that isn't indexed.
        """
        if class_weight is not None and not given.indexed:
            raise ConfigError(f"class_weight: got {given.kind}, expected its batches to have sample weights instead")
        self.source = given
        self._model = model
        self._compiled = compiled
        self._class_weight = class_weight
        self.matched(given.first())

    def matched(self, raw: Any) -> Batch:
        """Converts a batch to tensors. Raises DataError if it doesn't fit the model."""
        x, y, weight = _parts(self.source, raw)
        found: Data = adapt_data(self._model, self._compiled, x, y, weight, self._class_weight)
        return found.batch(slice(0, found.rows), found.rows)

    def batches(self, size: int, workers: Workers | None = None) -> Iterator[Batch]:
        """Batches of one epoch, in order and of their own size. Raises DataError if none is left."""
        epoch = StreamEpochs(self, seed=0, shuffle=False, number=0)
        epoch.epoch_begins()
        try:
            while not epoch.finished and (batch := epoch.take()) is not None:
                yield batch
            if not epoch.done:
                raise DataError(f"{self.source.kind} has no batch left")
        finally:
            epoch.epoch_ends()


class StreamEpochs:
    """Batches of a stream, of their own size, over consecutive epochs (see `Epochs`).

    With `shuffle`, batches of an indexed source are shuffled; rows never are.
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
        """Continues at batch `done` of epoch `number`. Raises ConfigError if the source can't start there."""
        if done and not self._source.indexed:
            raise ConfigError(f"{self._source.kind} can't be resumed in the middle; expected arrays or a PyDataset")
        self.number, self.done = number, done
        self._left: Iterator[Any] | None = None
        self._ended = False

    @property
    def finished(self) -> bool:
        """Whether the epoch is known to have no batch left."""
        return self._ended or (self.steps is not None and self.done >= self.steps)

    def start_next_if_finished(self) -> None:
        """Begins the next epoch if the current one has ended."""
        if self.finished:
            self.start_at(self.number + 1, 0)

    def take(self) -> Batch | None:
        """Returns the next batch; None if the source has ended before `steps`, or has no known length."""
        if self._left is None:
            self._left = self._source.epoch_batches(self._order())
        try:
            raw = next(self._left)
        except StopIteration:
            self._ended = True
            return None
        self.done += 1
        return self._stream.matched(raw)

    def _order(self) -> Iterable[int] | None:
        """Indices of the epoch's remaining batches; None for a source that isn't indexed."""
        if not self._source.indexed:
            return None
        if self.steps is None:
            return count(self.done)
        if not self.shuffle:
            return range(self.done, self.steps)
        return epoch_order(self.steps, self._seed, self.number)[self.done :].tolist()

    def epoch_begins(self) -> None:
        """Calls the source's hook for the begin of an epoch."""
        self._source.epoch_begins()

    def epoch_ends(self) -> None:
        """Calls the source's hook for the end of an epoch."""
        self._source.epoch_ends()

    @property
    def kind(self) -> str:
        """Name of the kind of data in error messages."""
        return self._source.kind
