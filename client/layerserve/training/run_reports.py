"""The methods of the asyncio client about runs that haven't begun, and about many runs together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from layerserve.calls.flow import Flow
from layerserve.estimates.estimate import RunEstimate, estimate_evaluation, estimate_training
from layerserve.prediction.prediction import Signatures
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.options.signature import takes
from layerserve.training.sample_losses import SampleLosses, sample_losses
from layerserve.training.series import SeriesByRun, run_series

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from layerserve.training.options.keywords import EvaluateKeywords, TrainKeywords

T = TypeVar("T")


class AsyncRunReports:
    """The methods of `AsyncClient` about runs that haven't begun, and about many runs together."""

    _signatures: Signatures

    async def _run(self, flow: Flow[T], timeout: float | None = None) -> T:
        raise NotImplementedError

    @takes(TRAIN)
    async def estimate(
        self,
        model: str,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        validation_data: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[TrainKeywords],
    ) -> RunEstimate:
        """Return what `train` would take with these arguments, or what is wrong with them. Starts nothing.

        The arguments are those of `train`. Of arrays only shapes and dtypes are sent; a `TensorSpec` may take the place
        of an array that doesn't exist yet. The server times some steps on random rows. `timeout` is in seconds;
        default: none.

        Example:
            estimate = await client.estimate("mnist", images, labels, epochs=10, optimizer="adam", loss="mse")
            print(estimate.problems, estimate.seconds.total, estimate.memory_bytes)

        Raises ModelNotFound, VersionNotFound, LabelNotFound, FailedPrecondition (training is off), Overloaded (other
        runs are being estimated), and InvalidArgument for arguments with which nothing is sent.
        """
        flow = estimate_training(self._signatures, model, x, y, sample_weight, validation_data, version, label, options)
        return await self._run(flow, math.inf if timeout is None else timeout)

    @takes(EVALUATE)
    async def sample_losses(
        self,
        model: str,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[EvaluateKeywords],
    ) -> SampleLosses:
        """Evaluate a model as `evaluate` does, and return the loss of each row, too: which rows are wrong.

        The losses are arrays of float32 in the order of the rows, by log name. The run keeps them as the file
        "sample_losses.npz". `timeout` is in seconds; default: none.

        Example:
            losses = await client.sample_losses("mnist", images, labels)
            losses.worst(10)         -> array([1247, 321, ...])
            losses.losses["loss"]    -> array([0.01, 2.3, ...], dtype=float32)

        Raises the errors of `evaluate`, and InvalidArgument for a loss whose values depend on several rows.
        """
        flow = sample_losses(self._signatures, model, x, y, sample_weight, version, label, options)
        return await self._run(flow, timeout)

    async def series(
        self,
        runs: Sequence[str],
        names: Sequence[str] = (),
        *,
        max_points: int = 1000,
        by: Literal["epoch", "step"] = "epoch",
        timeout: float | None = None,
    ) -> SeriesByRun:
        """Return the logs of several runs, or those of these `names`, as arrays by run and log.

        By epoch, or by step with means over the epoch so far. Longer series are thinned out to `max_points` (2 to
        10,000) on the server, which keeps the first and the last point. `timeout` is in seconds; default: the client's.

        Example:
            series = await client.series([run.id, other.id], ["loss", "val_loss"])
            series[run.id]["loss"].values     -> array([0.9, 0.5])
            series.plot("runs.svg")           -> also .png, .pdf; notebooks show the curves

        Raises RunNotFound, RunElsewhere, InvalidArgument (too many runs, names or values), Overloaded.
        """
        return await self._run(run_series(list(runs), list(names), max_points, by), timeout)

    @takes(EVALUATE)
    async def estimate_evaluation(
        self,
        model: str,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[EvaluateKeywords],
    ) -> RunEstimate:
        """Return what `evaluate` would take with these arguments, or what is wrong with them. Starts nothing.

        Otherwise like `estimate`.
        """
        flow = estimate_evaluation(self._signatures, model, x, y, sample_weight, version, label, options)
        return await self._run(flow, math.inf if timeout is None else timeout)
