"""Changes of models of the fake server, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from layerserve.errors import (
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LabelNotFound,
    ModelNotFound,
    ModelNotReady,
    VersionNotFound,
)
from layerserve.testing.fake_model import FakeModel
from layerserve.testing.fake_models import FakeModels
from layerserve.v1 import management_pb2 as pb


class FakeManagement(FakeModels):
    """The management service of the fake server. A version that is uploaded computes what the newest one does."""

    def __init__(self) -> None:
        super().__init__()
        #: Content of the files of the last upload, by path.
        self.uploaded: dict[str, bytes] = {}

    def UploadModel(self, requests: Iterator[pb.UploadModelRequest], context: Any) -> Iterator[pb.UploadModelResponse]:
        spec = next(requests).spec
        with self.answering("UploadModel", spec, context):
            yield pb.UploadModelResponse(accepted=pb.UploadAccepted())
            parts = [bytearray() for _ in spec.files]
            for request in requests:
                parts[request.chunk.file] += request.chunk.data
            for file, part in zip(spec.files, parts, strict=True):
                if hashlib.sha256(part).hexdigest() != file.sha256:
                    raise DataLoss(f"file {file.path!r}: the data doesn't match its digest")
            self.uploaded = {file.path: bytes(part) for file, part in zip(spec.files, parts, strict=True)}
            yield pb.UploadModelResponse(received=pb.UploadReceived())
            version = self._publish(spec)
            published = pb.UploadPublished(version=version, change=self._change(spec.name))
            yield pb.UploadModelResponse(published=published)

    def _publish(self, spec: pb.UploadSpec) -> int:
        main = [path for path in self.uploaded if PurePosixPath(path).suffix in (".keras", ".h5", ".hdf5", ".pb")]
        if not main:
            raise InvalidArgument("files: no model file is among them")
        known = [model for model in self.models if model.name == spec.name]
        newest = max(known, key=lambda model: model.version, default=FakeModel(spec.name, lambda arrays: {}, (), (), 0))
        made = replace(newest, version=newest.version + 1, file=self.uploaded[main[0]], labels=(), pinned=False)
        made.state, made.reason, made.training_run = "ready", "", ""
        self.models.append(made)
        if spec.label:
            self._move_label(spec.name, spec.label, made)
        return made.version

    def LoadModel(self, request: pb.LoadModelRequest, context: Any) -> pb.LoadModelResponse:
        for model in self._versions(request.name):
            if model.state == "unloaded":
                model.state = "ready"
        return pb.LoadModelResponse(change=self._change(request.name))

    def UnloadModel(self, request: pb.UnloadModelRequest, context: Any) -> pb.UnloadModelResponse:
        for model in self._versions(request.name):
            model.state = "unloaded"
        return pb.UnloadModelResponse(change=self._change(request.name))

    def RollBack(self, request: pb.RollBackRequest, context: Any) -> pb.RollBackResponse:
        versions = self._versions(request.name)
        default = next((one.version for one in versions if self.describe(one).served_by_default), 0)
        before = [one.version for one in versions if one.version < default and one.state == "ready"]
        if not request.version and not before:
            raise ModelNotReady(f"model {request.name!r} has no version to roll back to")
        version = request.version or max(before)
        self._pin(request.name, version)
        self.canaries.pop(request.name, None)
        return pb.RollBackResponse(version=version, change=self._change(request.name))

    def PinVersion(self, request: pb.PinVersionRequest, context: Any) -> pb.PinVersionResponse:
        self._pin(request.name, request.version)
        return pb.PinVersionResponse(change=self._change(request.name))

    def UnpinVersion(self, request: pb.UnpinVersionRequest, context: Any) -> pb.UnpinVersionResponse:
        for model in self._versions(request.name):
            model.pinned = False
        return pb.UnpinVersionResponse(change=self._change(request.name))

    def SetLabel(self, request: pb.SetLabelRequest, context: Any) -> pb.SetLabelResponse:
        self._move_label(request.name, request.label, self._version(request.name, request.version))
        return pb.SetLabelResponse(change=self._change(request.name))

    def RemoveLabel(self, request: pb.RemoveLabelRequest, context: Any) -> pb.RemoveLabelResponse:
        if not any(request.label in model.labels for model in self._versions(request.name)):
            raise LabelNotFound(f"model {request.name!r} has no label {request.label!r}")
        self._move_label(request.name, request.label, None)
        return pb.RemoveLabelResponse(change=self._change(request.name))

    def SetCanary(self, request: pb.SetCanaryRequest, context: Any) -> pb.SetCanaryResponse:
        canary = [model for model in self._versions(request.name) if "canary" in model.labels]
        if request.share and not canary:
            raise FailedPrecondition(f"model {request.name!r} has no label 'canary'")
        if request.share and self.describe(canary[0]).served_by_default:
            raise FailedPrecondition(f"model {request.name!r} version {canary[0].version}: it is the default")
        self.canaries[request.name] = request.share
        return pb.SetCanaryResponse(change=self._change(request.name), share=request.share)

    def DeleteVersion(self, request: pb.DeleteVersionRequest, context: Any) -> pb.DeleteVersionResponse:
        model = self._version(request.name, request.version)
        if model.labels or (not request.force and (model.pinned or self.describe(model).served_by_default)):
            raise FailedPrecondition(f"model {model.name!r} version {model.version}: it is in use")
        self.models.remove(model)
        return pb.DeleteVersionResponse(change=self._change(request.name))

    def DeleteModel(self, request: pb.DeleteModelRequest, context: Any) -> pb.DeleteModelResponse:
        versions = self._versions(request.name)
        if not request.force and any(model.state == "ready" for model in versions):
            raise FailedPrecondition(f"model {request.name!r}: it is loaded")
        self.models[:] = [model for model in self.models if model.name != request.name]
        return pb.DeleteModelResponse()

    def _versions(self, name: str) -> list[FakeModel]:
        versions = sorted((one for one in self.models if one.name == name), key=lambda one: -one.version)
        if not versions:
            raise ModelNotFound(f"unknown model {name!r}")
        return versions

    def _version(self, name: str, version: int) -> FakeModel:
        found = [model for model in self._versions(name) if model.version == version]
        if not found:
            raise VersionNotFound(f"model {name!r} has no version {version}")
        return found[0]

    def _pin(self, name: str, version: int) -> None:
        pinned = self._version(name, version)
        pinned.check_ready()
        for model in self._versions(name):
            model.pinned = model is pinned

    def _move_label(self, name: str, label: str, to: FakeModel | None) -> None:
        for model in self._versions(name):
            others = tuple(other for other in model.labels if other != label)
            model.labels = (*others, label) if model is to else others

    def _change(self, name: str) -> pb.ModelChange:
        return pb.ModelChange(versions=map(self.describe, self._versions(name)) if self._has(name) else [])

    def _has(self, name: str) -> bool:
        return any(model.name == name for model in self.models)
