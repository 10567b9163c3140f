"""Attributes of a training run, shared by both clients."""

from __future__ import annotations

import itertools

from layerserve.training.curves import Curves, Line, Plotted, log_names
from layerserve.training.feed import RunFeed
from layerserve.training.run_info import RunState
from layerserve.values.tables import Table, number_text

#: Maximum number of rows of a run's table.
MAX_ROWS = 25


class RunView(Plotted):
    """The attributes of a run, according to the events read so far, without calls to the server."""

    def __init__(self, feed: RunFeed) -> None:
        self._feed = feed

    @property
    def id(self) -> str:
        """Id of the run, for `Client.run`."""
        return self._feed.run_id

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._feed.model

    @property
    def base_version(self) -> int | None:
        """The version from which the run starts."""
        return self._feed.base_version

    @property
    def version(self) -> int | None:
        """The version that the run published; None before its end, or if it published none."""
        return self._feed.version

    @property
    def state(self) -> RunState:
        """State of the run."""
        return self._feed.state

    @property
    def history(self) -> dict[str, list[float]]:
        """Losses and metrics by epoch, as in Keras's `History.history`: {"loss": [0.9, 0.5], "val_loss": [...]}."""
        return {name: list(values) for name, values in self._feed.history.items()}

    @property
    def withheld(self) -> str:
        """Reason why the result wasn't published although that was requested; empty if there is none.

        It is no improvement, or another version was published meanwhile.
        """
        return self._feed.withheld

    @property
    def kept_back(self) -> str:
        """Reason why the version that the run publishes isn't, or won't be, the default: another one is pinned.

        Empty otherwise.
        """
        return self._feed.kept_back

    def curves(self) -> Curves:
        """Returns the history as curves: a panel per log, with its validation log as a second line."""
        history = self._feed.history
        panels: dict[str, list[Line]] = {}
        for name in log_names(list(history)):
            values = history[name]
            of = name.removeprefix("val_") if name.removeprefix("val_") in history else name
            label = "training" if of == name else "validation"
            panels.setdefault(of, []).append(Line(label, range(1, len(values) + 1), values))
        return Curves(f"{self.model}, run {self.id}", "epoch", panels)

    def table(self) -> Table:
        """Returns a table with a row per epoch; of many epochs some, evenly spread, with the first and the last."""
        history = self._feed.history
        columns = [[number_text(value) for value in values] for values in history.values()]
        lines = itertools.zip_longest(*columns, fillvalue="")
        rows = [(str(epoch), *cells) for epoch, cells in enumerate(lines, start=1)]
        title = f"{self.model}, run {self.id}"
        if (count := len(rows)) > MAX_ROWS:
            rows = [rows[round(index * (count - 1) / (MAX_ROWS - 1))] for index in range(MAX_ROWS)]
            title += f" ({MAX_ROWS} of {count} epochs)"
        return Table(title, ("#Epoch", *(f"#{name}" for name in history)), rows)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r} of {self.model!r}: {self.state})"
