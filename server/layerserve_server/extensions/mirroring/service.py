"""Handler of layerserve.v1.DatasetService/MakeDataset: a dataset made of sampled requests and corrected answers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from layerserve.v1 import datasets_pb2 as pb
from layerserve.v1 import tensor_pb2

from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import (
    BusyError,
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    safe_text,
)
from layerserve_server.extensions.mirroring import sampled_requests
from layerserve_server.extensions.mirroring.sampled_requests import Correction
from layerserve_server.inference.admission import names
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.repository import Repository
from layerserve_server.services.dataset_messages import (
    check_may_have_datasets,
    dataset_message,
    declared_by,
    most_bytes,
)
from layerserve_server.services.datasets import SERVICE
from layerserve_server.services.messages import choice, decode, lease, parse
from layerserve_server.transport.call import Call, Routes

#: Maximum number of corrections in a call, and maximum length of the id of a request, in characters.
MAX_CORRECTIONS = 100_000
#: Number of elements (see `message_size`) of a correction with two targets.
CORRECTION_ELEMENTS = 24
MAX_ID = 1000
#: Time after which a refused caller may try again, in seconds.
RETRY_SECONDS = 5.0


class SampledDatasets:
    """Makes datasets, one at a time."""

    def __init__(
        self, store: DatasetStore, repository: Repository, jobs: Jobs, folder: Path, *, training: bool
    ) -> None:
        """`folder` has the sampled requests; without `training` the server makes no datasets."""
        self._store = store
        self._repository = repository
        self._jobs = jobs
        self._folder = folder
        self._training = training
        self._making = threading.Lock()

    def routes(self) -> Routes:
        """Returns the handler."""
        return Routes(unary={SERVICE + "MakeDataset": self.make_dataset})

    def make_dataset(self, call: Call) -> None:
        """Handles MakeDataset. Raises as `messages.lease`, `DatasetStore.make` and `sampled_requests.made` do."""
        request = parse(pb.MakeDatasetRequest, call.request, MAX_CORRECTIONS * CORRECTION_ELEMENTS)
        caller = call.caller
        name, version, label = choice(request.model)
        with lease(self._repository, caller, "train", request.model) as leased:
            inputs, outputs = leased.model.input_specs, leased.model.output_specs
            number = leased.version
        call.set_metric_labels(name, number)
        check_may_have_datasets(caller, training=self._training)
        corrections = _corrections(request, outputs)
        declared = declared_by("npz", 0, "", request)
        # Not those of a model that was deleted: its callers weren't those of the model that has its name now.
        deleted = self._repository.catalogue.control(name).deleted
        kept = (folder for folder in (self._folder / name).glob("*") if folder.name.isdigit())
        folders = sorted(folder for folder in kept if int(folder.name) > deleted)
        if version is not None or label is not None:
            folders = [folder for folder in folders if int(folder.name) == number]

        def write(path: Path, most: int) -> tuple[int, str]:
            sampled_requests.write_corrections(path.parent, corrections)
            arguments = {
                "file": str(path),
                "folders": list(map(str, folders)),
                "owner": None if caller.manages_all else caller.owner,
                "inputs": [spec.name for spec in inputs],
                "outputs": [spec.name for spec in outputs],
                "uncorrected": request.uncorrected,
                "most": most,
            }
            return sampled_requests.made(self._jobs, arguments, lambda: call.answered)

        if not self._making.acquire(blocking=False):
            raise BusyError("another dataset is being made; try again in a moment", retry_after=RETRY_SECONDS)
        try:
            dataset = self._store.make(declared, caller.owner, most_bytes(caller), write)
        finally:
            self._making.release()
        message = dataset_message(self._store, dataset, caller, samples=True)
        call.answer(pb.MakeDatasetResponse(dataset=message).SerializeToString())


def _corrections(request: pb.MakeDatasetRequest, outputs: Sequence[TensorSpec]) -> list[Correction]:
    """Returns corrections with the names of outputs. Raises InvalidRequestError or a subclass."""
    if len(request.corrections) > MAX_CORRECTIONS:
        raise InvalidRequestError(
            f"corrections: got {len(request.corrections)}, expected at most {MAX_CORRECTIONS} in a call"
        )
    return [
        Correction(one.request_id, _targets(one.request_id, one.targets, outputs))
        for one in map(_named, request.corrections)
    ]


def _named(correction: pb.Correction) -> pb.Correction:
    if not 0 < len(correction.request_id) <= MAX_ID:
        raise InvalidRequestError(f"request_id: got {len(correction.request_id)} characters, expected 1 to {MAX_ID}")
    return correction


def _targets(id: str, targets: Sequence[tensor_pb2.Tensor], outputs: Sequence[TensorSpec]) -> dict[str, Array]:
    known = [spec.name for spec in outputs]
    found: dict[str, Array] = {}
    label = f"request '{safe_text(id, 80)}'"
    if not targets:
        raise MissingInputError(f"{label}: got no targets, expected some for {names(outputs)}")
    for tensor in targets:
        name = tensor.name or (known[0] if len(known) == 1 else "")
        if name not in known or name in found:
            problem = "two targets" if name in found else "a target"
            raise InvalidRequestError(
                f"{label}: got {problem} for '{safe_text(tensor.name, 80)}', expected {names(outputs)}"
            )
        found[name] = decode(tensor)
        if found[name].dtype.kind not in "biuf":
            raise InvalidTensorError(f"{label}, '{name}': got text, expected numbers, such as class indices")
    return found
