"""The estimates of the asyncio client."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from layerserve.estimates.estimate import RunEstimate, estimate_evaluation, estimate_training
from layerserve.models.api import AsyncModelMethods
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.options.signature import takes

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from layerserve.training.options.keywords import EvaluateKeywords, TrainKeywords


class AsyncEstimates:
    """Estimates: what a run would take, before it begins."""

    def __init__(self, client: AsyncModelMethods) -> None:
        self._client = client

    @takes(TRAIN)
    async def train(
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
            estimate = await client.estimates.train("mnist", images, labels, epochs=10, optimizer="adam", loss="mse")
            print(estimate.problems, estimate.seconds.total, estimate.memory_bytes)

        Raises ModelNotFound, VersionNotFound, LabelNotFound, FailedPrecondition (training is off), Overloaded (other
        runs are being estimated), and InvalidArgument for arguments with which nothing is sent.
        """
        flow = estimate_training(
            self._client._signatures, model, x, y, sample_weight, validation_data, version, label, options
        )
        return await self._client._run(flow, math.inf if timeout is None else timeout)

    @takes(EVALUATE)
    async def evaluate(
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

        Otherwise like `train`.
        """
        flow = estimate_evaluation(self._client._signatures, model, x, y, sample_weight, version, label, options)
        return await self._client._run(flow, math.inf if timeout is None else timeout)
