"""What the page changes: each form is one call of a gRPC method, with the right that the method needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from layerserve.v1 import checkpoints_pb2, management_pb2, training_pb2

from layerserve_server.extensions.page.fields import Fields
from layerserve_server.extensions.page.guard import Guard
from layerserve_server.extensions.page.pages import Pages, short
from layerserve_server.extensions.page.part import Show, changed
from layerserve_server.extensions.page.run_parts import CHECKPOINTS
from layerserve_server.services.management import SERVICE as MANAGEMENT
from layerserve_server.services.training import SERVICE as TRAINING
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute

#: Methods about a run that take its id only, with what they did.
OF_RUN = {
    "PauseRun": "is being paused",
    "ResumeRun": "continues",
    "StopRun": "ends early, and keeps its result",
    "CancelRun": "is being cancelled",
}


class ChangeParts:
    """Parts of the page that change something. Each replies with a sentence."""

    def __init__(self, pages: Pages, guard: Guard) -> None:
        self._pages = pages
        self._guard = guard

    def routes(self) -> list[HttpRoute]:
        """Returns the routes."""
        pb = management_pb2
        found = [
            self._of_model("RollBack", lambda f: pb.RollBackRequest(**_version(f)), _rolled_back),
            self._of_model("PinVersion", lambda f: pb.PinVersionRequest(**_version(f)), _pinned),
            self._of_model("UnpinVersion", lambda f: pb.UnpinVersionRequest(name=f.required("name")), _unpinned),
            self._of_model(
                "SetLabel", lambda f: pb.SetLabelRequest(**_version(f), label=f.required("label")), _labelled
            ),
            self._of_model("RemoveLabel", lambda f: pb.RemoveLabelRequest(**_label(f)), _unlabelled),
            self._of_model("LoadModel", lambda f: pb.LoadModelRequest(name=f.required("name")), _loaded),
            self._of_model("UnloadModel", lambda f: pb.UnloadModelRequest(name=f.required("name")), _unloaded),
        ]
        found += [self._of_run(method, said) for method, said in OF_RUN.items()]
        answers = training_pb2.PublishRunResponse, checkpoints_pb2.PublishCheckpointResponse
        return [
            *found,
            changed(self._guard, "PublishRun", TRAINING + "PublishRun", answers[0], self._publish_run),
            changed(
                self._guard,
                "PublishCheckpoint",
                CHECKPOINTS + "PublishCheckpoint",
                answers[1],
                self._publish_checkpoint,
            ),
        ]

    def _of_model(
        self, method: str, message: Callable[[Fields], Message], said: Callable[[Fields, Any], str]
    ) -> HttpRoute:
        def ask(fields: Fields, _: HttpRequest) -> tuple[Message, Show]:
            def show(reply: Any) -> HttpReply:
                return self._said(said(fields, reply), *(f"Not yet in {one}" for one in reply.change.lagging[:8]))

            return message(fields), show

        return changed(self._guard, method, MANAGEMENT + method, getattr(management_pb2, method + "Response"), ask)

    def _of_run(self, method: str, said: str) -> HttpRoute:
        def ask(fields: Fields, _: HttpRequest) -> tuple[Message, Show]:
            run = fields.required("id")
            message: Message = getattr(training_pb2, method + "Request")(run_id=run)
            return message, lambda _: self._said(f"Run {short(run)} {said}")

        return changed(self._guard, method, TRAINING + method, getattr(training_pb2, method + "Response"), ask)

    def _publish_run(self, fields: Fields, _: HttpRequest) -> tuple[training_pb2.PublishRunRequest, Show]:
        def show(reply: training_pb2.PublishRunResponse) -> HttpReply:
            one = reply.run.published
            return self._said(f"Published as version {one.version} of '{short(one.name)}'")

        return training_pb2.PublishRunRequest(run_id=fields.required("id"), label=fields.text("label")), show

    def _publish_checkpoint(
        self, fields: Fields, _: HttpRequest
    ) -> tuple[checkpoints_pb2.PublishCheckpointRequest, Show]:
        def show(reply: checkpoints_pb2.PublishCheckpointResponse) -> HttpReply:
            one = reply.published
            return self._said(f"Published as version {one.version} of '{short(one.name)}'")

        made = checkpoints_pb2.PublishCheckpointRequest(
            run_id=fields.required("id"), checkpoint_id=fields.required("checkpoint"), label=fields.text("label")
        )
        return made, show

    def _said(self, *lines: str) -> HttpReply:
        return self._pages.html("said.html", lines=lines)


def _version(fields: Fields) -> dict[str, Any]:
    return {"name": fields.required("name"), "version": fields.number("version")}


def _label(fields: Fields) -> dict[str, str]:
    return {"name": fields.required("name"), "label": fields.required("label")}


def _rolled_back(fields: Fields, reply: management_pb2.RollBackResponse) -> str:
    return f"Rolled back: version {reply.version} of '{short(fields.text('name'))}' is the default, and pinned"


def _pinned(fields: Fields, _: Any) -> str:
    return f"Version {fields.number('version')} of '{short(fields.text('name'))}' is the default, and pinned"


def _unpinned(fields: Fields, _: Any) -> str:
    return f"No version of '{short(fields.text('name'))}' is pinned"


def _labelled(fields: Fields, _: Any) -> str:
    return f"Label '{short(fields.text('label'))}' points at version {fields.number('version')}"


def _unlabelled(fields: Fields, _: Any) -> str:
    return f"Label '{short(fields.text('label'))}' is removed"


def _loaded(fields: Fields, _: Any) -> str:
    return f"Model '{short(fields.text('name'))}' is loaded"


def _unloaded(fields: Fields, _: Any) -> str:
    return f"Model '{short(fields.text('name'))}' is unloaded"
