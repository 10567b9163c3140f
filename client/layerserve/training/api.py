"""The methods of the asyncio client for training and evaluation, and its runs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from layerserve.calls.connection import Deadline
from layerserve.models.api import AsyncModelMethods
from layerserve.training.events import TrainingEvent
from layerserve.training.feed import RunFeed
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.options.signature import takes
from layerserve.training.progress import PlainProgress
from layerserve.training.requests import RunArguments, evaluate, train, warn_if_kept_back
from layerserve.training.run_files import RunFile, download_file, list_files
from layerserve.training.run_info import RunInfo
from layerserve.training.run_selection import list_runs
from layerserve.training.run_view import RunView
from layerserve.training.sample_losses import SampleLosses, sample_losses
from layerserve.training.series import SeriesByRun, run_series

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from layerserve.training.options.keywords import EvaluateKeywords, TrainKeywords


class AsyncTrainingMethods(AsyncModelMethods):
    """The methods of `AsyncClient` for training and evaluation."""

    @takes(TRAIN)
    async def train(
        self,
        model: str,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        validation_data: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[TrainKeywords],
    ) -> AsyncTrainingRun:
        """Train a served model on the server. Returns after the upload; the run then continues on the server.

        `x`, `y`, `sample_weight` and `validation_data` ((x, y) or (x, y, sample_weight)) are arrays, lists in the
        model's order, dicts by name, or DataFrames, as for Keras's `fit`. They are sliced and sent in chunks of about
        1 MiB: a `numpy.memmap` or an h5py dataset is never read as a whole. Data on the server isn't sent: a
        `ServerFile` is an array, or several, of a file below its data root, and a `DatasetArray` one of a dataset. `x`
        alone may have all data: a dataset (`client.datasets.get(id)`), or a `ServerFile` with a column for each input
        and output.

        `optimizer`, `loss`, `loss_weights`, `metrics` and `weighted_metrics` are arguments of Keras's `compile`: names,
        serialized objects, objects with `get_config()`, functions of Keras, or lists or dicts of these. Default: those
        of the model file. `callbacks` are Keras's, as objects, names or {"class_name", "config"}.

        `freeze` are patterns of layer paths ("block1_*"): layers to freeze; "!block1_conv" trains a layer that the file
        or another pattern freezes.

        Warns with `VersionWarning` if the new version won't be the default, as another one is pinned.

        Training starts from `version` or `label` (default: the newest version that is ready). Unless `publish` is
        False, the result becomes a new version of the model: the last weights, or with publish="best" those of the
        epoch with the best `monitor` (default: val_loss with validation data, else loss). A `Publish` has a label, a
        file format, and conditions. A `Checkpoints` says which checkpoints are kept, a `Resources` what the run may
        use, and a `Split` which rows it uses.

        If the connection breaks during the upload, it is repeated; `idempotency_key` does the same for a call that is
        made again: it finds the run of the earlier call.

        `timeout` is the time until the server has received all data, in seconds; default: none. To limit the run, use
        `resources`. `options` are those of `TrainKeywords`; their defaults are listed below.

        Example:
            run = await client.train(
                "mnist", images, labels, epochs=3, loss="sparse_categorical_crossentropy", metrics=["accuracy"]
            )
            async for event in run:
                print(event)
            print(run.history["loss"], run.version)

        Raises InvalidArgument, ModelNotFound, VersionNotFound, LabelNotFound, NotCompiled, FailedPrecondition (the
        repository can't be written; TooLarge: there isn't enough disk space or memory), DatasetNotFound,
        PermissionDenied (a ServerFile outside of the server's data root), Overloaded (the queue of runs is full),
        DataLoss.
        """
        given = RunArguments(model, x, y, sample_weight, validation_data, version, label, options)
        feed = await self._run(train(self._signatures, given), timeout, keeps_stream=True)
        warn_if_kept_back(feed, getattr(options.get("publish"), "label", None), stacklevel=2)
        return AsyncTrainingRun(self, feed)

    @takes(EVALUATE)
    async def evaluate(
        self,
        model: str,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[EvaluateKeywords],
    ) -> dict[str, float]:
        """Compute the loss and metrics of a served model on data, as Keras's `evaluate(return_dict=True)` does.

        The arguments are those of `train`, `options` those of `EvaluateKeywords`. The server evaluates the model in a
        separate process; this call waits for it, for at most `timeout` seconds if that is given.

        Example:
            await client.evaluate("mnist", images, labels)     -> {"accuracy": 0.97, "loss": 0.09}

        Raises the errors of `train`, TrainingFailed, and TrainingCancelled.
        """
        given = RunArguments(model, x, y, sample_weight, None, version, label, options)
        return await self._run(evaluate(self._signatures, given), timeout)

    @takes(EVALUATE)
    async def sample_losses(
        self,
        model: str,
        x: Any = None,
        y: Any = None,
        *,
        sample_weight: Any = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[EvaluateKeywords],
    ) -> SampleLosses:
        """Evaluate a model as `evaluate` does, and return the loss of each row, too: which rows are wrong.

        The losses are arrays of float32 in the order of the rows, by log name. The run keeps them as the file
        "sample_losses.npz". `timeout` is in seconds; default: none.

        Example:
            losses = await client.sample_losses("mnist", images, labels)
            losses.worst(10)         -> array([1247, 321, ...])
            losses.losses["loss"]    -> array([0.01, 2.3, ...], dtype=float32)

        Raises the errors of `evaluate`, and InvalidArgument for a loss whose values depend on several rows.
        """
        given = RunArguments(model, x, y, sample_weight, None, version, label, options)
        return await self._run(sample_losses(self._signatures, given), timeout)

    async def runs(
        self,
        model: str | None = None,
        *,
        state: str | Iterable[str] | None = None,
        kind: str | None = None,
        metadata: Mapping[str, str] | None = None,
        caller: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int | None = None,
        oldest_first: bool = False,
        timeout: float | None = None,
    ) -> tuple[RunInfo, ...]:
        """List the server's training runs, of all models or one, newest first.

        `state` is a `RunInfo.state` or several, `kind` a `RunInfo.kind`. `metadata` are keys with the values
        that the runs have, and `caller` is the name of the caller that began them. `created_after` includes the time
        itself. `limit` is the maximum number of runs; default: all.

        Example:
            await client.runs("mnist", state=["queued", "paused"], metadata={"project": "spring"})
        """
        flow = list_runs(
            model, state, kind, metadata, caller, created_after, created_before, limit, oldest_first=oldest_first
        )
        return await self._run(flow, timeout)

    async def run(self, id: str, *, timeout: float | None = None) -> AsyncTrainingRun:
        """Return a run by its id, to watch from its first event on, to cancel, resume or delete.

        Raises RunNotFound, and RunElsewhere if another server owns the run.
        """
        feed = RunFeed(id)
        await self._run(feed.attach(), timeout)
        return AsyncTrainingRun(self, feed)

    async def series(
        self,
        runs: Sequence[str],
        names: Sequence[str] = (),
        *,
        max_points: int = 1000,
        by: Literal["epoch", "step"] = "epoch",
        timeout: float | None = None,
    ) -> SeriesByRun:
        """Return the logs of several runs, or those of these `names`, as arrays by run and log.

        By epoch, or by step with means over the epoch so far. Longer series are thinned out to `max_points` (2 to
        10,000) on the server, which keeps the first and the last point. `timeout` is in seconds; default: the client's.

        Example:
            series = await client.series([run.id, other.id], ["loss", "val_loss"])
            series[run.id]["loss"].values     -> array([0.9, 0.5])
            series.plot("runs.svg")           -> also .png, .pdf; notebooks show the curves

        Raises RunNotFound, RunElsewhere, InvalidArgument (too many runs, names or values), Overloaded.
        """
        return await self._run(run_series(list(runs), list(names), max_points, by), timeout)


class AsyncTrainingRun(RunView):
    """A training run on the server. It continues if this object or its client is closed.

    Iteration yields the events that weren't read yet, waits for new ones, and ends with the run. If the connection
    breaks, it is established again, and only step events may be missed.
    """

    def __init__(self, client: AsyncTrainingMethods, feed: RunFeed) -> None:
        super().__init__(feed)
        self._client = client

    async def __aiter__(self) -> AsyncIterator[TrainingEvent]:
        """Yield the unread events. If the run fails, yields its RunFailed, then raises TrainingFailed."""
        while (event := await self._client._run(self._feed.next_event())) is not None:
            yield event

    async def wait(self, progress: bool = False, *, timeout: float | None = None) -> AsyncTrainingRun:
        """Wait for the end of the run, and return the run. `progress` prints the progress to standard error.

        A paused run is waited for, too, until it was resumed and has ended.

        `timeout` is in seconds; default: none. Raises DeadlineExceeded after it; the run continues.

        Raises TrainingFailed with the reason, TrainingCancelled, and Unavailable if the connection is lost for about a
        minute; the run may still continue then.
        """
        shown = PlainProgress() if progress else None
        deadline = Deadline(timeout)
        while (
            event := await self._client._run(self._feed.next_event(), deadline.remaining(), keeps_stream=True)
        ) is not None:
            if shown:
                shown.show(event)
        self._feed.check_finished()
        return self

    async def info(self, *, timeout: float | None = None) -> RunInfo:
        """Return the current state of the run on the server."""
        return await self._client._run(self._feed.ask("GetRun"), timeout)

    async def cancel(self, *, timeout: float | None = None) -> RunInfo:
        """Cancel the run; nothing is published. Does nothing if the run has ended.

        The run may take a moment to stop: events continue until a RunCancelled.
        """
        return await self._client._run(self._feed.ask("CancelRun"), timeout)

    async def pause(self, *, timeout: float | None = None) -> RunInfo:
        """Pause the run: after the current batch it writes a checkpoint and frees its slot, until `resume`.

        It stays paused when the server restarts. The result has the same weights as without the pause. A run that waits
        leaves the queue. The run may take a moment to pause: events continue until a RunPaused. Does nothing if it is
        paused.

        Raises FailedPrecondition if the run is an evaluation or has ended, and Overloaded if too many runs are paused.
        """
        return await self._client._run(self._feed.ask("PauseRun"), timeout)

    async def resume(self, *, timeout: float | None = None) -> RunInfo:
        """Resume a paused or interrupted run from its latest checkpoint. Its events continue here.

        The result has the same weights as without the interruption. Does nothing if the run is queued or running.

        Example:
            await run.resume()
            await run.wait()

        Raises FailedPrecondition if the run ended in another way.
        """
        return await self._client._run(self._feed.resume(), timeout)

    async def stop(self, *, timeout: float | None = None) -> RunInfo:
        """End training early, after the current batch, and publish the best epoch so far or the last weights.

        Which ones, and whether any are published, is set by `publish` of `train`. A paused run ends with the
        weights of its checkpoint. A run that hasn't begun is cancelled. Does nothing if the run has ended.

        Raises FailedPrecondition if the run is an evaluation, or scores a dataset.
        """
        return await self._client._run(self._feed.ask("StopRun"), timeout)

    async def update(
        self,
        *,
        priority: int | None = None,
        description: str | None = None,
        metadata: Mapping[str, str | None] | None = None,
        timeout: float | None = None,
    ) -> RunInfo:
        """Change the run's priority in the queue, its description, or its metadata; None leaves a value as it is.

        `metadata` is added to what the run has; a key with None is removed.

        Example:
            await run.update(priority=5, metadata={"ticket": "T-12", "draft": None})

        Raises InvalidArgument, and FailedPrecondition for the priority of a run that has ended.
        """
        return await self._client._run(self._feed.update(priority, description, metadata), timeout)

    async def publish(
        self, *, label: str | None = None, expected_base_version: int | None = None, timeout: float | None = None
    ) -> RunInfo:
        """Publish the result of a run that ended without publishing it: none was requested, or it was withheld.

        With `expected_base_version`, only if that is still the model's newest version. `RunInfo.version` is the new
        version.

        Raises VersionConflict, FailedPrecondition (no result is kept, or the repository can't be written),
        ModelNotReady (the version can't be loaded), InvalidArgument (the label).
        """
        return await self._client._run(self._feed.publish(label, expected_base_version), timeout)

    async def files(self, *, timeout: float | None = None) -> tuple[RunFile, ...]:
        """List the files that the run's callbacks have written so far, by name, or the result of scoring."""
        return await self._client._run(list_files(self.id), timeout)

    async def download(self, name: str, path: str | os.PathLike[str] = ".", *, timeout: float | None = None) -> Path:
        """Save one of the run's files, and return its path.

        `path` is a file, which is replaced, or a directory (one that exists, or a path that ends with "/"), in which
        the file has its own name. Missing directories are created. The file is created only after it was received
        completely and its SHA-256 was verified. Raises NotFound, DataLoss, OSError.
        """
        return await self._client._run(download_file(self.id, name, path), timeout)

    async def delete(self, *, timeout: float | None = None) -> None:
        """Delete the run from the server; the version that it published is kept.

        Raises FailedPrecondition if the run hasn't ended.
        """
        await self._client._run(self._feed.delete(), timeout)
