"""Processes for the jobs of several servers."""

from __future__ import annotations

from typing import Any

from layerserve_server.jobs.jobs import Jobs


class SharedJobs(Jobs):
    """Stays when one of its users closes it."""

    def with_limits(self, *arguments: Any, keep_warm: bool = False, **options: Any) -> SharedJobs:
        """Returns jobs with limits of their own, done by the same processes."""
        made = SharedJobs(*arguments, **options)
        made._cold, made._warm = self._cold, self._warm
        return made

    def close(self) -> None:
        """Does nothing: others use it too."""

    def end(self) -> None:
        """Ends the processes."""
        super().close()
