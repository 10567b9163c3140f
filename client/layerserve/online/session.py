"""Attributes of a session of online training, shared by both clients."""

from __future__ import annotations

from layerserve.errors import LayerserveError
from layerserve.online.feed import OnlineFeed


class OnlineView:
    """The attributes of a session, according to the replies so far, without calls to the server."""

    def __init__(self, feed: OnlineFeed) -> None:
        self._feed = feed

    @property
    def id(self) -> str:
        """Id of the session, which is a run: for `Client.run`, and to go on with it."""
        return self._feed.run_id

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._feed.model

    @property
    def base_version(self) -> int | None:
        """The version from which the session started."""
        return self._feed.base_version

    @property
    def step(self) -> int:
        """Number of steps that were applied."""
        return self._feed.step

    @property
    def version(self) -> int | None:
        """The version that was published last; None if none was. Those that the session publishes by itself count."""
        return self._feed.version

    @property
    def published_step(self) -> int:
        """Number of steps of that version."""
        return self._feed.published_step

    @property
    def publish_error(self) -> LayerserveError | None:
        """Why the last version that the session tried to publish by itself wasn't published; None if it was."""
        return self._feed.publish_error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r} of {self.model!r}: step {self.step})"
