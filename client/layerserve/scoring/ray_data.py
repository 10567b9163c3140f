"""Scorers as actors of Ray Data."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from layerserve.errors import InvalidArgument
from layerserve.scoring.threads import THREADS


class ScoringActor:
    """What an actor does: opens the model at its first batch, and scores tables of Arrow."""

    def __init__(self, scorer: Callable[[Any], Any], cpus: float) -> None:
        # Ray sets it only where it isn't set yet.
        os.environ[THREADS] = str(max(1, int(cpus)))
        self._scorer = scorer

    def __call__(self, batch: Any) -> Any:
        return self._scorer(batch)


def scored(
    scorer: Callable[[Any], Any],
    dataset: Any,
    concurrency: int | tuple[int, int],
    batch_size: int | None,
    num_cpus: float,
    options: dict[str, Any],
) -> Any:
    """See `Scorer.ray`."""
    if not hasattr(dataset, "map_batches"):
        raise InvalidArgument(f"dataset: got {type(dataset).__name__}, expected a Dataset of Ray Data")
    # Imported here: who has a dataset has the package.
    from ray.data import ActorPoolStrategy

    fewest, most = (concurrency, concurrency) if isinstance(concurrency, int) else concurrency
    return dataset.map_batches(
        ScoringActor,
        fn_constructor_args=(scorer, num_cpus),
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=num_cpus,
        **options,
    )
