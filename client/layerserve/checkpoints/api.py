"""The methods of the asyncio client for the checkpoints of training runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layerserve.checkpoints import checkpoint as checkpoints
from layerserve.checkpoints.checkpoint import Checkpoint
from layerserve.models.api import AsyncModelMethods
from layerserve.prediction.prediction import as_asked
from layerserve.values.tensors import Array


class AsyncCheckpoints:
    """Checkpoints that training runs keep.

    A checkpoint is named "RUN/CHECKPOINT" (`Checkpoint.name`), "RUN/best" or "RUN/last". To train from one, use the
    option `from_checkpoint` of `train`; to evaluate it, that of `evaluate`.
    """

    def __init__(self, client: AsyncModelMethods) -> None:
        self._client = client

    async def list(self, run: str, *, timeout: float | None = None) -> tuple[Checkpoint, ...]:
        """List the checkpoints that the run with this id keeps, oldest first.

        Which ones it keeps is decided by the options of `train`: `checkpoint_every_epochs`, `checkpoint_every_steps`,
        `keep_checkpoints` and `keep_best_checkpoints`. Raises RunNotFound, and RunElsewhere if another server owns the
        run.
        """
        return await self._client._run(checkpoints.list_checkpoints(run), timeout)

    async def download(
        self,
        checkpoint: str,
        path: str | os.PathLike[str],
        *,
        state: bool = False,
        format: str | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Save a checkpoint as a model file, and return its path: the file that a run which ends there publishes.

        `path` is a file, which is replaced, or a directory (one that exists, or a path that ends with "/"), in which
        the file is named "<run>-<checkpoint>.keras" (or .h5). Missing directories are created. The file is created only
        after it was received completely and its SHA-256 was verified. With `state`, the file is the checkpoint itself,
        with the whole state of the run, from which layergraph's `fit` goes on.

        `format` is the format of a model file, as for `download`. `timeout` is in seconds; default: none.

        Raises RunNotFound, CheckpointNotFound, InvalidArgument (the format can't represent the model),
        FailedPrecondition (the checkpoint's file is damaged), Overloaded (other files are being converted), DataLoss,
        OSError.
        """
        return await self._client._run(checkpoints.download(checkpoint, path, state, format), timeout)

    async def publish(
        self,
        checkpoint: str,
        *,
        label: str | None = None,
        format: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Publish a checkpoint as the next version of its model, and return the version.

        The version is what a run that ends there publishes. A checkpoint that is published isn't published again: the
        same version is returned, and gets the label. `format` is the format of the file, as for `train`. `timeout` is
        in seconds; default: the client's. The server continues after a timeout, and a repeated call finds the version.

        Example:
            run = await client.train("mnist", images, labels, epochs=9, checkpoint_every_epochs=1, publish=False)
            await run.wait()
            version = await client.checkpoints.publish(f"{run.id}/e4", label="canary")

        Raises RunNotFound, CheckpointNotFound, InvalidArgument (a label or format), FailedPrecondition (the repository
        can't be written, the checkpoint's file is damaged), Overloaded (other files are being converted).
        """
        return await self._client._run(checkpoints.publish(checkpoint, label, format), timeout)

    async def predict(
        self,
        checkpoint: str,
        inputs: Any,
        outputs: str | Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> Array | dict[str, Array]:
        """Compute outputs of the model of a checkpoint that isn't served, for rows of data.

        `inputs` and `outputs` are those of `predict`, and so is the result. The server loads the model for each call,
        in a separate process: this is for looking at a checkpoint. To serve it, publish it. `timeout` is in seconds;
        default: the client's.

        Raises RunNotFound, CheckpointNotFound, InvalidArgument (InvalidTensor, UnknownInput, UnknownOutput,
        MissingInput), FailedPrecondition (the checkpoint's file is damaged), Overloaded.
        """
        return as_asked(await self.predict_named(checkpoint, inputs, outputs, timeout=timeout), outputs)

    async def predict_named(
        self,
        checkpoint: str,
        inputs: Any,
        outputs: str | Sequence[str] | None = None,
        *,
        timeout: float | None = None,
    ) -> dict[str, Array]:
        """Like `predict`, but always returns a dict from names to arrays."""
        return await self._client._run(
            checkpoints.predict(self._client._signatures, checkpoint, inputs, outputs), timeout
        )

    async def delete(self, checkpoint: str, *, timeout: float | None = None) -> None:
        """Delete a checkpoint from the server. A version that was published of it is kept.

        Raises RunNotFound, CheckpointNotFound.
        """
        await self._client._run(checkpoints.delete(checkpoint), timeout)
