"""Handlers of layerserve.v1.ManagementService, which changes the repository."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, TypeVar

from layerserve.v1 import management_pb2 as pb

from layerserve_server.errors import InvalidRequestError
from layerserve_server.repository.changes import Change
from layerserve_server.repository.management import Manager
from layerserve_server.repository.staging import DeclaredFile, Staging
from layerserve_server.repository.uploads import Uploads
from layerserve_server.services.messages import Message, parse, parsed
from layerserve_server.services.model_version import model_version
from layerserve_server.services.upload_slots import UploadSlots
from layerserve_server.transport.call import Call, Handler, Routes, Stream

SERVICE = "/layerserve.v1.ManagementService/"

#: Maximum number of concurrent uploads.
MAX_UPLOADS = 8

Request = TypeVar("Request", bound=Message)


class ManagementService:
    """Handlers of the management service."""

    def __init__(self, manager: Manager, uploads: Uploads) -> None:
        self._manager = manager
        self._uploads = uploads
        self._slots = UploadSlots(MAX_UPLOADS, "models are being uploaded")

    def routes(self) -> Routes:
        """Returns the handlers."""
        manager = self._manager

        def roll_back(request: pb.RollBackRequest, who: str) -> pb.RollBackResponse:
            version, change = manager.roll_back(request.name, _optional_version(request.version), who)
            return pb.RollBackResponse(version=version, change=_change(change))

        def delete_model(request: pb.DeleteModelRequest, who: str) -> pb.DeleteModelResponse:
            return pb.DeleteModelResponse(lagging=manager.delete_model(request.name, who, force=request.force))

        return Routes(
            unary={
                SERVICE + "LoadModel": _handler(
                    pb.LoadModelRequest, lambda r, who: pb.LoadModelResponse(change=_change(manager.load(r.name, who)))
                ),
                SERVICE + "UnloadModel": _handler(
                    pb.UnloadModelRequest,
                    lambda r, who: pb.UnloadModelResponse(change=_change(manager.unload(r.name, who))),
                ),
                SERVICE + "RollBack": _handler(pb.RollBackRequest, roll_back),
                SERVICE + "PinVersion": _handler(
                    pb.PinVersionRequest,
                    lambda r, who: pb.PinVersionResponse(change=_change(manager.pin(r.name, _version(r.version), who))),
                ),
                SERVICE + "UnpinVersion": _handler(
                    pb.UnpinVersionRequest,
                    lambda r, who: pb.UnpinVersionResponse(change=_change(manager.unpin(r.name, who))),
                ),
                SERVICE + "SetLabel": _handler(
                    pb.SetLabelRequest,
                    lambda r, who: pb.SetLabelResponse(
                        change=_change(manager.set_label(r.name, r.label, _version(r.version), who))
                    ),
                ),
                SERVICE + "RemoveLabel": _handler(
                    pb.RemoveLabelRequest,
                    lambda r, who: pb.RemoveLabelResponse(change=_change(manager.remove_label(r.name, r.label, who))),
                ),
                SERVICE + "SetCanary": _handler(
                    pb.SetCanaryRequest,
                    lambda r, who: _canary_set(
                        *manager.set_canary(r.name, r.share if r.HasField("share") else None, who)
                    ),
                ),
                SERVICE + "DeleteVersion": _handler(
                    pb.DeleteVersionRequest,
                    lambda r, who: pb.DeleteVersionResponse(
                        change=_change(manager.delete_version(r.name, _version(r.version), who, force=r.force))
                    ),
                ),
                SERVICE + "DeleteModel": _handler(pb.DeleteModelRequest, delete_model),
            },
            both_streams={SERVICE + "UploadModel": self.upload_model},
        )

    async def upload_model(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles UploadModel: receives a version, publishes it, and yields what has happened.

        Raises as `Uploads.stage`, `Staging` and `Uploads.publish` do, and BusyError.
        """
        message = await parsed(stream, pb.UploadModelRequest, await stream.first())
        if message.WhichOneof("part") != "spec":
            raise InvalidRequestError("the first message of the stream must be the spec")
        spec, who = message.spec, stream.caller.name
        stream.caller.check_model("manage", spec.name)

        def stage() -> Staging:
            files = [DeclaredFile(file.path, file.bytes, file.sha256) for file in spec.files]
            return self._uploads.stage(spec.name, files, spec.label, who)

        with self._slots.occupy(stream):
            staging = await stream.blocking(stage)
            try:
                yield pb.UploadModelResponse(accepted=pb.UploadAccepted()).SerializeToString()
                await _receive(stream, staging)
                yield pb.UploadModelResponse(received=pb.UploadReceived()).SerializeToString()
                # Again, as an upload may take long. The stream isn't about the model before, which may not exist yet.
                stream.caller.check_model("manage", spec.name)
                version, change = await stream.blocking(lambda: self._uploads.publish(staging, spec.label, who))
            finally:
                await stream.blocking(staging.discard)
        stream.set_metric_labels(spec.name, version)
        published = pb.UploadPublished(version=version, change=_change(change), differences=change.differences)
        yield pb.UploadModelResponse(published=published).SerializeToString()


async def _receive(stream: Stream, staging: Staging) -> None:
    async for received in stream.requests():
        message = await parsed(stream, pb.UploadModelRequest, received)
        if message.WhichOneof("part") != "chunk":
            raise InvalidRequestError("every message after the first must be a chunk")
        await stream.blocking(partial(staging.add, message.chunk.file, message.chunk.data))
    await stream.blocking(staging.complete)


def _handler(kind: type[Request], change: Callable[[Any, str], Any]) -> Handler:
    """Returns the handler of a method, which replies with what `change` returns for a request and its caller."""

    def handle(call: Call) -> None:
        request: Any = parse(kind, call.request)
        call.caller.check_model("manage", request.name)
        call.answer(change(request, call.caller.name).SerializeToString())

    return handle


def _version(number: int) -> int:
    if number <= 0:
        raise InvalidRequestError(f"version: got {number}, expected the number of a version")
    return number


def _optional_version(number: int) -> int:
    return _version(number) if number else 0


def _canary_set(share: float, change: Change) -> pb.SetCanaryResponse:
    return pb.SetCanaryResponse(change=_change(change), share=share)


def _change(change: Change) -> pb.ModelChange:
    return pb.ModelChange(versions=map(model_version, change.versions), lagging=change.lagging)
