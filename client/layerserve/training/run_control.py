"""The methods of the asyncio client's runs that change their course."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from layerserve.calls.flow import Flow
from layerserve.training.feed import RunFeed
from layerserve.training.run_info import RunInfo
from layerserve.training.run_view import RunView

T = TypeVar("T")


class AsyncRunner(Protocol):
    """What runs flows: the client."""

    async def _run(self, flow: Flow[T], timeout: float | None = None) -> T: ...


class AsyncRunControl(RunView):
    """The methods of `AsyncTrainingRun` that change its course."""

    def __init__(self, client: AsyncRunner, feed: RunFeed) -> None:
        super().__init__(feed)
        self._runner = client

    async def pause(self, *, timeout: float | None = None) -> RunInfo:
        """Pause the run: after the current batch it writes a checkpoint and frees its slot, until `resume`.

        It stays paused when the server restarts. The result has the same weights as without the pause. A run that waits
        leaves the queue. The run may take a moment to pause: events continue until a RunPaused. Does nothing if it is
        paused.

        Raises FailedPrecondition if the run is an evaluation or has ended, and Overloaded if too many runs are paused.
        """
        return await self._runner._run(self._feed.pause(), timeout)

    async def resume(self, *, timeout: float | None = None) -> RunInfo:
        """Resume a paused or interrupted run from its latest checkpoint. Its events continue here.

        The result has the same weights as without the interruption. Does nothing if the run is queued or running.

        Example:
            await run.resume()
            await run.wait()

        Raises FailedPrecondition if the run ended in another way.
        """
        return await self._runner._run(self._feed.resume(), timeout)

    async def stop(self, *, timeout: float | None = None) -> RunInfo:
        """End training early, after the current batch, and publish the best epoch so far or the last weights.

        Which ones, and whether any are published, is set by `publish` of `train`. A paused run ends with the
        weights of its checkpoint. A run that hasn't begun is cancelled. Does nothing if the run has ended.

        Raises FailedPrecondition if the run is an evaluation.
        """
        return await self._runner._run(self._feed.stop(), timeout)

    async def update(
        self,
        *,
        priority: int | None = None,
        description: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        timeout: float | None = None,
    ) -> RunInfo:
        """Change the run's priority in the queue, its description, or its metadata; None leaves a value as it is.

        `metadata` is added to what the run has; a key with None is removed.

        Example:
            await run.update(priority=5, metadata={"ticket": "T-12", "draft": None})

        Raises InvalidArgument, and FailedPrecondition for the priority of a run that has ended.
        """
        return await self._runner._run(self._feed.update(priority, description, metadata), timeout)

    async def publish(
        self, *, label: str | None = None, expected_base_version: int | None = None, timeout: float | None = None
    ) -> RunInfo:
        """Publish the result of a run that ended without publishing it: none was requested, or it was withheld.

        With `expected_base_version`, only if that is still the model's newest version. `RunInfo.version` is the new
        version.

        Raises VersionConflict, FailedPrecondition (no result is kept, or the repository can't be written),
        ModelNotReady (the version can't be loaded), InvalidArgument (the label).
        """
        return await self._runner._run(self._feed.publish(label, expected_base_version), timeout)
