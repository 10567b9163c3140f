"""Arrays of a run that are in datasets: which datasets a caller means, and which of them a run keeps."""

from __future__ import annotations

from dataclasses import replace

from layerserve_server.access.caller import Caller
from layerserve_server.datasets.dataset import Dataset
from layerserve_server.datasets.store import DatasetStore, Sees
from layerserve_server.errors import InvalidRequestError, NotTrainableError
from layerserve_server.training.request import DataArray, RunRequest


def seen_by(caller: Caller) -> Sees:
    """Returns whether a caller may see a dataset: its own, shared ones, and if it manages all models, all."""
    return lambda dataset: dataset.shared or caller.owner in dataset.owners or caller.manages_all


def with_datasets(request: RunRequest, store: DatasetStore | None, caller: Caller) -> RunRequest:
    """Returns a request whose arrays have the files of their datasets.

    Raises UnknownDatasetError for one that the caller may not see, and InvalidRequestError for an array without a key.
    """
    if not any(array.dataset for array in request.data):
        return request
    if store is None:
        raise NotTrainableError("dataset: this server keeps no datasets")
    known: dict[str, Dataset] = {}

    def resolved(array: DataArray) -> DataArray:
        if not array.dataset:
            return array
        if array.dataset not in known:
            known[array.dataset] = store.get(array.dataset, seen_by(caller))
        dataset = known[array.dataset]
        # Of a table, it is the column of its name, or all columns.
        if dataset.format == "npz" and not array.key and not array.columns and len(dataset.arrays) != 1:
            raise InvalidRequestError(f"{array.label()}: got no key, expected one of dataset '{dataset.id}'")
        return replace(array, dataset=dataset.id, path=dataset.content)

    return replace(request, data=tuple(map(resolved, request.data)), datasets=str(store.folder.absolute()))


def datasets_of(request: RunRequest) -> set[str]:
    """Returns the ids of the datasets that a run reads."""
    return {array.dataset for array in request.data if array.dataset}


def use_datasets(request: RunRequest, store: DatasetStore | None) -> None:
    """Notes that a run which has begun uses its datasets. Raises UnknownDatasetError if one was deleted meanwhile."""
    if store is not None:
        for id in datasets_of(request):
            store.use(id)
