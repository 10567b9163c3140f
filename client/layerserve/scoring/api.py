"""The method of the asyncio client that scores a dataset on the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerserve.scoring.request import OnError, score_dataset
from layerserve.training.api import AsyncTrainingMethods, AsyncTrainingRun


class AsyncScoringMethods(AsyncTrainingMethods):
    """The methods of `AsyncClient` for training, and for scoring."""

    async def score(
        self,
        model: str,
        dataset: Any,
        *,
        to: str = "scores.parquet",
        columns: str | Sequence[str] = (),
        input_columns: Mapping[str, str | Sequence[str]] | None = None,
        outputs: str | Sequence[str] | None = None,
        version: int | None = None,
        label: str | None = None,
        batch_size: int | None = None,
        on_error: OnError = "stop",
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> AsyncTrainingRun:
        """Compute the outputs of a model for all rows of a dataset, on the server. Returns when the run has begun.

        The run can be watched, paused, resumed and cancelled as one that trains; its steps are rows. It has a copy of
        the version, so that one which is uploaded or deleted meanwhile changes nothing.

        `dataset` is a dataset of the server, or its id. `to` is the name of the result among the files of the run: a
        file that ends with .parquet, .csv or .npz, or else a folder of files in the format of the dataset. It has the
        `columns` to keep, such as the keys of rows, and the outputs, in the order of the dataset.

        `input_columns` are columns of the dataset by input, if they have other names: {"features": "pixels"}, or
        several that become the last axis: {"features": ["age", "height"]}. Inputs of a dataset that was uploaded as
        arrays are found by the names that these have. `outputs` are names of outputs, or of any tensors of the graph;
        default: all outputs of the model. Default version: the one that answers requests. `batch_size` is the number of
        rows that are computed at a time; default: about 1 MiB of inputs.

        A row that can't be scored, such as one with a null, ends the run with its place. With on_error="skip" such rows
        are written to the folder "NAME.rejected" (in a folder as result: "_rejected"), with the reason.

        If the connection breaks, the call is repeated. With an `idempotency_key`, a call that is made again finds the
        run of the earlier call.

        `timeout` is the time until the run has begun, in seconds; default: the client's.

        Example:
            dataset = await client.datasets.upload("rows.parquet")
            run = await client.score("churn", dataset=dataset, to="scores.parquet", columns=["id"])
            await run.wait()
            await run.download("scores.parquet")

        Raises MissingInput (a column that the dataset lacks), InvalidTensor (a column of a type that doesn't fit),
        UnknownInput, UnknownOutput, InvalidArgument, ModelNotFound, VersionNotFound, LabelNotFound, DatasetNotFound,
        FailedPrecondition (training is off), Forbidden, and Overloaded (too many runs wait).
        """
        flow = score_dataset(
            model, dataset, to, columns, input_columns, outputs, version, label, batch_size, on_error, idempotency_key
        )
        return AsyncTrainingRun(self, await self._run(flow, timeout))
