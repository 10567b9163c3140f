"""The methods of the asyncio client for datasets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from layerserve.calls import methods
from layerserve.calls.flow import call
from layerserve.datasets.content import ArrayContent, Content, FileContent, role_arrays
from layerserve.datasets.info import DatasetInfo, DatasetList, read_dataset
from layerserve.datasets.upload import Corrections, DatasetProgress, make, upload
from layerserve.errors import InvalidArgument
from layerserve.models.api import AsyncModelMethods
from layerserve.models.info import model_spec
from layerserve.v1.datasets_pb2 import DeleteDatasetRequest, GetDatasetRequest, ListDatasetsRequest


class AsyncDatasets:
    """Datasets: data that is uploaded once and then used by any number of runs."""

    def __init__(self, client: AsyncModelMethods) -> None:
        self._client = client

    async def upload(
        self,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        validation_data: Sequence[Any] | None = None,
        title: str = "",
        keep_seconds: float | None = None,
        shared: bool = False,
        progress: DatasetProgress | None = None,
        timeout: float | None = None,
    ) -> DatasetInfo:
        """Upload a dataset: arrays as for `train`, or a .npz, .parquet, .csv or .tsv file as it is.

        `x` is the inputs, or the path of the file (str or os.PathLike), which has the targets as well.

        The content is read twice: its SHA-256, which is the id of the dataset, is sent first. What you have uploaded
        before isn't sent again. If the connection breaks or the server restarts, the upload goes on behind the bytes
        that the server has, for about a minute without progress; calling this method again goes on as well.

        The dataset belongs to the caller; with `shared` all callers may use it. The server removes it when it hasn't
        been used for `keep_seconds` (default: the server's setting). `title` is free text.

        `progress` is called with "reading", "sending" or "checking", and the number of bytes done and in total.
        `timeout` is in seconds; default: none.

        Example:
            dataset = await client.datasets.upload(images, labels)
            for rate in (0.1, 0.01):
                await client.train("mnist", dataset, optimizer=sgd(rate))

        Raises InvalidArgument (data or a file that the server can't read), Overloaded (quota, or too many uploads),
        DataLoss (the file has changed meanwhile), FailedPrecondition (TooLarge: no room), Unavailable, OSError.
        """
        content: Content
        if not isinstance(x, (str, os.PathLike)):
            content = ArrayContent(role_arrays(x, y, sample_weight, validation_data))
        elif any(given is not None for given in (y, sample_weight, validation_data)):
            raise InvalidArgument("dataset: got a path and arrays, expected one of the two")
        else:
            content = FileContent(x)
        return await self._client._run(upload(content, title, keep_seconds, shared, progress), timeout)

    async def create_from_samples(
        self,
        model: str,
        corrections: Corrections,
        *,
        version: int | None = None,
        label: str | None = None,
        uncorrected: bool = False,
        title: str = "",
        keep_seconds: float | None = None,
        shared: bool = False,
        timeout: float | None = None,
    ) -> DatasetInfo:
        """Make a dataset of requests that the server has sampled (its setting `sample_models`), with corrected answers.

        `corrections` has the targets by the `id` of the request: an array with a row for each row of the request, or a
        dict of them by output. Outputs without a correction have the model's own answers as targets. With
        `uncorrected`, requests without a correction are used as well. Samples are in the server's files after a minute.

        Default: requests of all versions of the model. The other arguments are those of `upload`.

        Raises InvalidArgument (no such request was sampled, or targets that don't fit), ModelNotFound, VersionNotFound,
        Overloaded, FailedPrecondition (TooLarge: no room).
        """
        spec = model_spec(model, version, label)
        return await self._client._run(make(spec, corrections, uncorrected, title, keep_seconds, shared), timeout)

    async def list(self, *, timeout: float | None = None) -> tuple[DatasetInfo, ...]:
        """List the datasets that the caller may use, newest first, without samples of their rows."""
        reply = await self._client._run(call(methods.LIST_DATASETS, ListDatasetsRequest()), timeout)
        return DatasetList(map(read_dataset, reply.datasets))

    async def get(self, id: str, *, timeout: float | None = None) -> DatasetInfo:
        """Return a dataset by its id or the first digits of it, with the first rows of its arrays.

        Raises DatasetNotFound, and InvalidArgument if several ids begin with these digits.
        """
        reply = await self._client._run(call(methods.GET_DATASET, GetDatasetRequest(dataset_id=id)), timeout)
        return read_dataset(reply.dataset)

    async def delete(self, id: str, *, timeout: float | None = None) -> None:
        """Delete a dataset. If other callers have uploaded it, too, it stays for them.

        Raises DatasetNotFound, FailedPrecondition (a run that hasn't ended uses it), and Forbidden (it is a shared one
        of another caller).
        """
        await self._client._run(call(methods.DELETE_DATASET, DeleteDatasetRequest(dataset_id=id)), timeout)
