"""Workers of scoring jobs that are no processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from layerserve.scoring.files import workers
from layerserve.scoring.files.fragments import Fragment
from layerserve.scoring.files.worker import Done, Progress, _Work


class InThisProcess(workers.Workers):
    """Scores without other processes, with the code of a worker."""

    def score(self, parts: Iterable[Fragment]) -> Iterator[Progress | Done]:
        work = _Work(self._task)
        for fragment in parts:
            yield from work.score(fragment)
