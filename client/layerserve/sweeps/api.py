"""The methods of the asyncio client for sweeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerserve.models.api import AsyncModelMethods
from layerserve.sweeps.sweep import (
    Range,
    SweepInfo,
    SweepList,
    SweepMethod,
    cancel_sweep,
    delete_sweep,
    get_sweep,
    list_sweeps,
    start_sweep,
    wait_for_sweep,
)
from layerserve.training.options.arguments import TRAIN
from layerserve.training.options.keywords import TrainKeywords
from layerserve.training.options.signature import takes
from layerserve.training.requests import RunArguments

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncSweeps:
    """Sweeps: searches over the settings of training."""

    def __init__(self, client: AsyncModelMethods) -> None:
        self._client = client

    @takes(TRAIN)
    async def create(
        self,
        model: str,
        x: Any,
        y: Any,
        space: Mapping[str, Sequence[Any] | Range],
        *,
        method: SweepMethod = "random",
        trials: int | None = None,
        parallel: int | None = None,
        search_seed: int | None = None,
        sample_weight: Any = None,
        validation_data: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[TrainKeywords],
    ) -> AsyncSweep:
        """Train a served model several times with settings out of `space`, and publish the best result.

        The data is on the server: datasets, or `ServerFile`s. `space` has a list of values or a `Range` for each
        setting that differs: options of `train` ("batch_size", "freeze", "seed", "epochs", "optimizer", "loss", ...) or
        parts of compile settings ("optimizer.learning_rate"). All other options are those of `train`.

        With `method` "random" settings are drawn at random, and "grid" tries all combinations. `trials` is their number
        (default: 20, or the whole grid), and `parallel` the maximum number at a time (default: the server's training
        slots). `search_seed` makes the choice repeatable.

        A trial's log `monitor` (default: val_loss with validation data, else loss) of its last epoch decides, or with
        publish="best" of its best epoch. Trials are runs: `runs()` lists them. The sweep continues if the client or the
        server is stopped.

        Example:
            space = {"optimizer.learning_rate": Range(1e-5, 1e-2, log=True), "batch_size": [16, 32, 64]}
            sweep = await client.sweeps.create("mnist", x, y, space, optimizer="adam", epochs=5, validation_split=0.2)
            info = await sweep.wait()
            print(info.best_trial.settings, info.version)

        Raises InvalidArgument, ModelNotFound, VersionNotFound, LabelNotFound, NotCompiled, FailedPrecondition (the
        repository can't be written), PermissionDenied, Overloaded.
        """
        given = RunArguments(model, x, y, sample_weight, validation_data, version, label, options)
        flow = start_sweep(self._client._signatures, given, space, method, trials, parallel, search_seed)
        return AsyncSweep(self._client, (await self._client._run(flow, timeout)).id)

    async def list(self, model: str | None = None, *, timeout: float | None = None) -> SweepList:
        """List the server's sweeps, of all models or one, newest first, without their trials."""
        return await self._client._run(list_sweeps(model), timeout)

    async def get(self, id: str, *, timeout: float | None = None) -> AsyncSweep:
        """Return a sweep by its id. Raises RunNotFound."""
        await self._client._run(get_sweep(id), timeout)
        return AsyncSweep(self._client, id)


class AsyncSweep:
    """A sweep on the server. It continues if this object or its client is closed."""

    def __init__(self, client: AsyncModelMethods, id: str) -> None:
        self._client = client
        self.id = id

    async def info(self, *, timeout: float | None = None) -> SweepInfo:
        """Return the current state of the sweep, with its trials."""
        return await self._client._run(get_sweep(self.id), timeout)

    async def wait(self, *, timeout: float | None = None) -> SweepInfo:
        """Wait for the end of the sweep, and return its state.

        `timeout` is in seconds; default: none. Raises DeadlineExceeded after it; the sweep continues. Raises
        TrainingFailed with the reason, and TrainingCancelled.
        """
        return await self._client._run(wait_for_sweep(self.id), math.inf if timeout is None else timeout)

    async def cancel(self, *, timeout: float | None = None) -> SweepInfo:
        """Cancel the sweep and its trials; nothing is published. Does nothing if it has ended."""
        return await self._client._run(cancel_sweep(self.id), timeout)

    async def delete(self, *, timeout: float | None = None) -> None:
        """Delete the sweep from the server; its runs, and the version that it published, are kept.

        Raises FailedPrecondition if it hasn't ended.
        """
        await self._client._run(delete_sweep(self.id), timeout)
