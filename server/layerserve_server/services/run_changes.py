"""Handlers of TrainingService that change runs: they pause, go on, end early, are cancelled, published and removed."""

from __future__ import annotations

from collections.abc import Callable

from layerserve.v1 import training_pb2 as pb

from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access
from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.repository.layout import LABEL
from layerserve_server.services.messages import parse
from layerserve_server.services.open_work import OpenWork
from layerserve_server.services.run_access import find_run
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run
from layerserve_server.transport.call import Call, Handler

#: Maximum number of keys of metadata that a call removes.
MAX_REMOVED = 1000


class RunChanges:
    """These handlers. All raise as `find_run` does."""

    def __init__(self, runs: Runs, work: OpenWork, describe: Callable[[Run], pb.Run]) -> None:
        """`describe` makes the message about a run."""
        self._runs = runs
        self._work = work
        self._describe = describe

    def handlers(self) -> dict[str, Handler]:
        """Returns the handlers by the name of their method."""
        return {
            "PauseRun": self.pause_run,
            "StopRun": self.stop_run,
            "UpdateRun": self.update_run,
            "PublishRun": self.publish_run,
            "CancelRun": self.cancel_run,
            "ResumeRun": self.resume_run,
            "DeleteRun": self.delete_run,
        }

    def pause_run(self, call: Call) -> None:
        """Handles PauseRun. Raises as `RunSteering.pause` does."""
        request = parse(pb.PauseRunRequest, call.request)
        self._check(call.caller, request.run_id)
        run = self._runs.steering.pause(request.run_id)
        call.answer(pb.PauseRunResponse(run=self._describe(run)).SerializeToString())

    def stop_run(self, call: Call) -> None:
        """Handles StopRun. Raises as `RunSteering.stop` does."""
        request = parse(pb.StopRunRequest, call.request)
        self._check(call.caller, request.run_id)
        run = self._runs.steering.stop(request.run_id)
        call.answer(pb.StopRunResponse(run=self._describe(run)).SerializeToString())

    def update_run(self, call: Call) -> None:
        """Handles UpdateRun. Raises as `RunSteering.update` does."""
        request = parse(pb.UpdateRunRequest, call.request)
        self._check(call.caller, request.run_id)
        if len(request.remove_metadata) > MAX_REMOVED:
            count = len(request.remove_metadata)
            raise InvalidRequestError(f"remove_metadata: got {count} keys, expected at most {MAX_REMOVED}")
        run = self._runs.steering.update(
            request.run_id,
            priority=request.priority if request.HasField("priority") else None,
            description=request.description if request.HasField("description") else None,
            metadata=dict(request.metadata),
            removed=request.remove_metadata,
        )
        call.answer(pb.UpdateRunResponse(run=self._describe(run)).SerializeToString())

    def publish_run(self, call: Call) -> None:
        """Handles PublishRun. Raises as `RunEndings.publish_kept` does."""
        request = parse(pb.PublishRunRequest, call.request)
        self._check(call.caller, request.run_id)
        if request.label and not LABEL.fullmatch(request.label):
            label = safe_text(request.label, 150)
            raise InvalidRequestError(f"label: got '{label}', expected letters, digits, '.', '_' and '-'")
        if request.expected_base_version < 0:
            raise InvalidRequestError(f"expected_base_version: got {request.expected_base_version}, expected 0 or more")
        run = self._runs.publish(request.run_id, request.label, request.expected_base_version, call.caller.name)
        call.answer(pb.PublishRunResponse(run=self._describe(run)).SerializeToString())

    def cancel_run(self, call: Call) -> None:
        """Handles CancelRun. Raises as `RunSteering.cancel` does."""
        request = parse(pb.CancelRunRequest, call.request)
        self._check(call.caller, request.run_id)
        run = self._runs.steering.cancel(request.run_id)
        call.answer(pb.CancelRunResponse(run=self._describe(run)).SerializeToString())

    def resume_run(self, call: Call) -> None:
        """Handles ResumeRun. Raises as `RunSteering.resume` and `Quota.run` do."""
        request = parse(pb.ResumeRunRequest, call.request)
        held = self._check(call.caller, request.run_id)
        run = self._work.begin(call.caller, lambda: self._runs.steering.resume(request.run_id), held)
        call.answer(pb.ResumeRunResponse(run=self._describe(run)).SerializeToString())

    def delete_run(self, call: Call) -> None:
        """Handles DeleteRun. Raises as `Runs.delete` does."""
        request = parse(pb.DeleteRunRequest, call.request)
        self._check(call.caller, request.run_id)
        self._runs.delete(request.run_id)
        call.answer(pb.DeleteRunResponse().SerializeToString())

    def _check(self, caller: Caller, run_id: str) -> Run:
        """Returns a run that the caller may change. Raises as `find_run` does."""
        return find_run(self._runs, caller, Access.FULL, run_id)
