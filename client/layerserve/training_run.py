"""What a training run shows, in both clients."""

from __future__ import annotations

from layerserve.run_feed import RunFeed
from layerserve.run_info import RunState


class RunView:
    """The attributes of a run. They tell what the events read so far told, and ask the server nothing."""

    def __init__(self, feed: RunFeed) -> None:
        self._feed = feed

    @property
    def id(self) -> str:
        """Id of the run, by which `run` finds it again from anywhere."""
        return self._feed.run_id

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._feed.model

    @property
    def base_version(self) -> int | None:
        """The version that the run starts from."""
        return self._feed.base_version

    @property
    def version(self) -> int | None:
        """The version that the run published. None before its end, and where none was asked for."""
        return self._feed.version

    @property
    def state(self) -> RunState:
        """State of the run."""
        return self._feed.state

    @property
    def history(self) -> dict[str, list[float]]:
        """Losses and metrics of the epochs, as Keras's `History.history`: {"loss": [0.9, 0.5], "val_loss": [...]}."""
        return {name: list(values) for name, values in self._feed.history.items()}

    @property
    def withheld(self) -> str:
        """Why nothing was published although it was asked for: no improvement. Empty otherwise, and before the end."""
        return self._feed.withheld

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r} of {self.model!r}: {self.state})"
