"""Sessions of online training, as far as they differ from other runs: what they publish, and how they end."""

from __future__ import annotations

from pathlib import Path

from layerserve_server.errors import ModelGoneError, safe_text
from layerserve_server.repository.repository import Repository
from layerserve_server.training.events import Failed, Finished
from layerserve_server.training.run_folder.result import RunResult
from layerserve_server.training.runs.run import Run


def publish_versions(repository: Repository, run: Run) -> None:
    """Publishes what a session has written to be published, each version once."""
    request = run.request

    def publish(file: Path, step: int) -> int:
        return repository.publisher.publish_once(
            request.model,
            file,
            run=run.id,
            base_version=request.version,
            label=request.publish_label or "",
            # By which a version that was published before a kill is found again.
            checkpoint=f"step-{step}",
        )

    run.publications.publish(publish)


def last_event(run: Run, result: RunResult) -> Finished | Failed:
    """Returns the event that ends a session whose process has ended it with this result."""
    outcomes = run.publications.outcomes(0)
    error = outcomes[-1].error if outcomes else None
    if error is not None and not isinstance(error, ModelGoneError):
        # Nothing is lost: the session can be resumed, and ended again.
        return Failed(safe_text(str(error)), result.epoch, result.step, resumable=True)
    last = run.publications.last
    withheld = "" if error is None else safe_text(str(error))
    return Finished(last.version if last else 0, result.logs, run.seconds, withheld)
