"""Which checkpoints a run keeps: every so many epochs or steps, the newest of these, and the best epochs'."""

from __future__ import annotations

from dataclasses import dataclass

from layerserve_server.errors import InvalidRequestError
from layerserve_server.training.request import Role, RunRequest

#: Maximum number of checkpoints that a run keeps at once: all are read to list them.
MAX_KEPT = 1000
#: Maximum number of checkpoints that a run writes: each adds an event, and a starting server reads all events.
MAX_WRITTEN = 100_000


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of a run; 0 stands for an option that isn't given."""

    every_epochs: int = 0
    every_steps: int = 0
    keep: int = 0
    keep_best: int = 0

    @classmethod
    def of(cls, request: RunRequest) -> Policy:
        """Returns the policy of a request."""
        every_epochs, every_steps = request.checkpoint_every_epochs or 0, request.checkpoint_every_steps or 0
        keep = request.keep_checkpoints or 0
        if keep and not every_epochs and not every_steps:
            every_epochs = 1
        return cls(every_epochs, every_steps, keep, request.keep_best_checkpoints or 0)

    def follows_epoch(self, epoch: int) -> bool:
        """Whether a checkpoint is due after this epoch, counted from 1."""
        return bool(self.every_epochs) and epoch % self.every_epochs == 0

    def follows_step(self, step: int) -> bool:
        """Whether a checkpoint is due after this step of the run, counted from 1."""
        return bool(self.every_steps) and step % self.every_steps == 0

    def written(self, request: RunRequest) -> int:
        """Returns the maximum number of checkpoints that are due by epochs and steps."""
        by_epochs = request.epochs // self.every_epochs if self.every_epochs else 0
        by_steps = request.epochs * _steps(request) // self.every_steps if self.every_steps else 0
        return by_epochs + by_steps

    def kept(self, request: RunRequest) -> int:
        """Returns the maximum number of checkpoints that are kept at once."""
        written = self.written(request)
        return min(written, self.keep or written) + min(self.keep_best, request.epochs)


def check_policy(request: RunRequest) -> None:
    """Raises InvalidRequestError if a run would keep, or write, too many checkpoints."""
    policy = Policy.of(request)
    if (kept := policy.kept(request)) > MAX_KEPT:
        raise InvalidRequestError(
            f"checkpoints: the run would keep {kept} of them, expected at most {MAX_KEPT}; set checkpoints.keep, or "
            "larger checkpoints.every_epochs and checkpoints.every_steps"
        )
    if (written := policy.written(request)) > MAX_WRITTEN:
        raise InvalidRequestError(f"checkpoints: the run would write {written} of them, expected at most {MAX_WRITTEN}")


def _steps(request: RunRequest) -> int:
    """Returns the maximum number of steps in an epoch."""
    if request.steps_per_epoch:
        return request.steps_per_epoch
    rows = next((array.rows for array in request.data if array.role is Role.X), 0)
    return -(-int(rows * (1 - request.validation_split)) // request.batch_size)


def kept_files(request: RunRequest) -> int:
    """Returns the maximum number of checkpoints that a run keeps; 0 for an evaluation."""
    return Policy.of(request).kept(request) if request.trains else 0
