"""Messages of datasets, as they are declared and described."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any

from layerserve.v1 import datasets_pb2 as pb
from layerserve.values import tensors

from layerserve_server.access.caller import Caller
from layerserve_server.datasets.dataset import ArrayInfo, Dataset, Declaration, read_samples
from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import InvalidRequestError, NotTrainableError, safe_text
from layerserve_server.services.messages import timestamp

#: Maximum length of a title, in characters.
MAX_TITLE = 200

FORMATS: Mapping[int, str] = {
    pb.DATASET_FORMAT_NPZ: "npz",
    pb.DATASET_FORMAT_PARQUET: "parquet",
    pb.DATASET_FORMAT_CSV: "csv",
    pb.DATASET_FORMAT_TSV: "tsv",
}


def check_may_have_datasets(caller: Caller, *, training: bool) -> None:
    """Raises UnauthenticatedError if no dataset can belong to a caller.

    Raises NotTrainableError if there is no `training`, so that nothing would read one.
    """
    caller.check_may_own("datasets")
    if not training:
        raise NotTrainableError("training is off on this server: it has no training slots")


def most_bytes(caller: Caller) -> int | None:
    """Returns the limit of a caller's datasets, in bytes; None if there is none."""
    return None if caller.quota is None else caller.quota.max_dataset_bytes


def declared_by(
    format: str, size: int, digest: str, message: pb.DatasetDeclaration | pb.MakeDatasetRequest
) -> Declaration:
    """Returns what a message declares of a dataset. Raises InvalidRequestError."""
    if len(message.title) > MAX_TITLE:
        raise InvalidRequestError(f"title: got {len(message.title)} characters, expected at most {MAX_TITLE}")
    if not 0 <= message.keep_seconds < math.inf:
        raise InvalidRequestError(f"keep_seconds: got {message.keep_seconds:g}, expected seconds from 0")
    return Declaration(format, size, digest, safe_text(message.title), message.keep_seconds, message.shared)


def dataset_message(store: DatasetStore, dataset: Dataset, caller: Caller, *, samples: bool = False) -> pb.Dataset:
    """Returns the message that describes a dataset to a caller, with values of its first rows if `samples`."""
    held = read_samples(store.folder / dataset.id) if samples else {}
    owner = dataset.owner_for(caller.owner)
    message = pb.Dataset(
        id=dataset.id,
        title=owner.title,
        format=next(number for number, name in FORMATS.items() if name == dataset.format),  # type: ignore[arg-type]
        bytes=dataset.bytes,
        rows=dataset.rows,
        arrays=[_array(array, held.get(array.name)) for array in dataset.arrays],
        owner=owner.name,
        shared=dataset.shared,
        created_time=timestamp(dataset.created),
        used_time=timestamp(dataset.used),
    )
    if (expires := store.expires(dataset)) is not None:
        message.expires_time.CopyFrom(timestamp(expires))
    return message


def _array(array: ArrayInfo, sample: Mapping[str, Any] | None) -> pb.DatasetArray:
    message = pb.DatasetArray(name=array.name, shape=array.shape, problem=array.problem)
    if not array.problem:
        message.dtype = tensors.dtype_enum(array.dtype, array.name)
    if sample is not None:
        message.sample.name = array.name
        message.sample.dtype = message.dtype
        message.sample.shape.extend((sample["rows"], *array.shape[1:]))
        message.sample.data = base64.b64decode(sample["data"])
    return message
