"""Processes for the jobs of several servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
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


@contextmanager
def used(jobs: SharedJobs) -> Iterator[None]:
    """Gives the processes of these jobs to servers that are made in the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerserve_server.app.Jobs", jobs.with_limits)
        yield
