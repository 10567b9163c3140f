"""Arrays of a run that are in datasets: which datasets a caller means, and which of them a run keeps."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import sees_dataset
from layerserve_server.datasets.dataset import Dataset
from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import InvalidRequestError, NotTrainableError
from layerserve_server.training.request import DataArray, RunRequest


def with_datasets(request: RunRequest, store: DatasetStore | None, caller: Caller) -> RunRequest:
    """Returns a request whose arrays have the files of their datasets.

    Raises UnknownDatasetError for one that the caller may not see, and InvalidRequestError for an array without a key.
    """
    if not datasets_of(request):
        return request
    if store is None:
        raise NotTrainableError("dataset: this server keeps no datasets")
    known: dict[str, Dataset] = {}

    def resolved(array: DataArray) -> DataArray:
        if array.file is None or not (id := array.file.dataset):
            return array
        if id not in known:
            known[id] = store.get(id, partial(sees_dataset, caller))
        dataset = known[id]
        # Of a table, it is the column of its name, or all columns.
        chosen = array.selection.key or array.selection.columns
        if dataset.format == "npz" and not chosen and len(dataset.arrays) != 1:
            raise InvalidRequestError(f"{array.label()}: got no key, expected one of dataset '{dataset.id}'")
        return replace(array, file=store.file(dataset))

    return replace(request, data=tuple(map(resolved, request.data)))


def datasets_of(request: RunRequest) -> set[str]:
    """Returns the ids of the datasets that a run reads."""
    return {array.file.dataset for array in request.data if array.file is not None and array.file.dataset}


def use_datasets(request: RunRequest, store: DatasetStore | None) -> None:
    """Notes that a run which has begun uses its datasets. Raises UnknownDatasetError if one was deleted meanwhile."""
    if store is not None:
        for id in datasets_of(request):
            store.use(id)
