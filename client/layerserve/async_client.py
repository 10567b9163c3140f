"""The asyncio client: runs flows on an asyncio channel."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from layerserve.calls import methods
from layerserve.calls.async_channel import AsyncChannel
from layerserve.calls.connection import (
    DEFAULT_ADDRESS,
    DEFAULT_TIMEOUT,
    NEVER,
    TLS,
    ChannelOptions,
    Deadline,
    connection,
)
from layerserve.calls.flow import Call, Flow, Open, Pause, Receive, Renew, Step, Stream, Work, call
from layerserve.calls.service_config import MAX_RETRIES, LoadBalancing
from layerserve.calls.tokens import Metadata, Token
from layerserve.checkpoints.api import AsyncCheckpoints
from layerserve.datasets.api import AsyncDatasets
from layerserve.errors import ClientClosed
from layerserve.models.api import AsyncManagement
from layerserve.models.download import download
from layerserve.models.health import wait_until_ready
from layerserve.models.info import ModelInfo, Models, model_spec, read_model_info
from layerserve.models.model_reports import AsyncModelReports
from layerserve.models.node_shapes import NodeShapes, node_shapes
from layerserve.online.api import AsyncOnline
from layerserve.prediction import prediction
from layerserve.prediction.feed import PredictionFeed
from layerserve.prediction.prediction import Prediction, Signatures
from layerserve.prediction.prepared import RequestForm, prepare
from layerserve.sweeps.api import AsyncSweeping
from layerserve.training.events import TrainingEvent
from layerserve.training.feed import RunFeed
from layerserve.training.options.arguments import EVALUATE, TRAIN
from layerserve.training.options.signature import takes
from layerserve.training.progress import PlainProgress
from layerserve.training.requests import evaluate, train, warn_if_kept_back
from layerserve.training.run_control import AsyncRunControl
from layerserve.training.run_files import RunFile, download_file, list_files
from layerserve.training.run_info import RunInfo
from layerserve.training.run_reports import AsyncRunReports
from layerserve.training.run_selection import list_runs
from layerserve.v1.models_pb2 import ListModelsRequest
from layerserve.values.tensors import Array

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from layerserve.training.options.keywords import EvaluateKeywords, TrainKeywords

T = TypeVar("T")
R = TypeVar("R", bound=methods.Message)

_log = logging.getLogger("layerserve")


class AsyncClient(
    AsyncDatasets,
    AsyncManagement,
    AsyncModelReports,
    AsyncOnline,
    AsyncCheckpoints,
    AsyncRunReports,
    AsyncSweeping,
):
    """A connection to a layerserve server, shared by any number of tasks of one event loop.

    Example:
        async with AsyncClient("localhost:8500") as client:
            probabilities = await client.predict("mnist", images)
            run = await client.train("mnist", images, labels, epochs=3)
            await run.wait(progress=True)
            print(run.history["loss"], run.version)

    Args:
        address: host:port, several IP addresses separated by commas ("10.0.0.1:8500,10.0.0.2:8500"), or any target that
            gRPC resolves ("dns:///name:8500").
        timeout: Default timeout of a call in seconds; `math.inf` for none. Streams (training, download) have none
            unless the call names one.
        tls: True, or a `TLS` with files.
        token: Bearer token sent with each call, as text, as the `Path` of a file, which is read again when it changes,
            or as a function that returns it, called for each call; AsyncClient also takes an asyncio function. Warns
            with `PlaintextTokenWarning` if the token is sent to another machine without TLS.
        retries: Maximum number of times, up to 4, that a call which changes nothing (`predict`, `models`, `runs`, ...)
            is repeated: if no server is available for about two seconds, and if the server is overloaded after the time
            that it names, never after the call's timeout. 0 for none.
        load_balancing: "round_robin" sends calls in turns to all servers of the address that are ready; "pick_first"
            sends them to the first that can be reached.
        options: gRPC channel options, which override the client's own. The client sets no maximum message size.

    The client connects on the first call. Errors of the server are raised as `LayerserveError`; see
    `layerserve.errors`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: bool | TLS = False,
        token: Token | None = None,
        retries: int = MAX_RETRIES,
        load_balancing: LoadBalancing = "round_robin",
        options: ChannelOptions = (),
    ) -> None:
        Deadline(timeout)  # raises for an invalid timeout now, not at the first call
        opened = connection(
            address,
            tls=tls,
            token=token,
            retries=retries,
            load_balancing=load_balancing,
            options=options,
            stacklevel=3,
        )
        self.address = address
        self.timeout = timeout
        self._channel = AsyncChannel(opened)
        self._signatures = Signatures()
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Open calls end with an error; training runs continue on the server."""
        self._closed = True
        await self._channel.close()

    async def wait_until_ready(
        self,
        timeout: float = 60.0,
        *,
        model: str | None = None,
        version: int | None = None,
        label: str | None = None,
    ) -> None:
        """Wait until the server has loaded its models and is serving, for at most `timeout` seconds.

        With `model`, also wait until the server has this model (and version or label) and it is ready: a model that
        doesn't exist yet may still be uploaded. A version that is loaded on the first request counts as ready.

        Raises Unavailable if the server isn't serving by then or has ended, DeadlineExceeded if it didn't answer,
        ModelNotFound, VersionNotFound or LabelNotFound if the model is still missing, and ModelNotReady at once if it
        failed to load.
        """
        spec = None if model is None else model_spec(model, version, label)
        await self._run(wait_until_ready(self.address, timeout, spec), timeout)

    async def models(self, name: str | None = None, *, timeout: float | None = None) -> tuple[ModelInfo, ...]:
        """List all versions of all models, or of the model `name`, by name, then newest first.

        Versions that failed to load are included, with the reason.
        """
        reply = await self._run(call(methods.LIST_MODELS, ListModelsRequest(name=name or "")), timeout)
        return Models(map(read_model_info, reply.versions))

    async def model(
        self, name: str, *, version: int | None = None, label: str | None = None, timeout: float | None = None
    ) -> ModelInfo:
        """Return a version of a model: the one with this number or label, or else the newest that is ready.

        Raises ModelNotFound, VersionNotFound, LabelNotFound.
        """
        return await self._run(prediction.get_model(model_spec(name, version, label)), timeout)

    async def predict(
        self,
        model: str,
        inputs: Any,
        outputs: str | Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        version: int | None = None,
        label: str | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> Array | dict[str, Array]:
        """Compute the outputs of a model for rows of data.

        `inputs` is a dict by input name, a list in the model's order, or an array for a model with one input. A
        DataFrame is a dict of its columns, or an array of its rows for a model with one input. Values are arrays,
        nested lists, text, or anything that NumPy converts to an array. Numbers are converted to the input's dtype:
        rounded if that is a float (as in Keras), and refused if a value would change otherwise.

        `outputs` are the names of outputs, or of any tensors of the model's graph: "layer", "layer:node" or
        "layer:node:tensor" ("outer/inner" in a nested model). Default: all outputs of the model.

        Returns an array if `outputs` is a string, and a dict of arrays by name, in the given order, if it is a list,
        also of one name. Without `outputs`, returns an array for a model with one output and a dict for several.
        `predict_named` always returns a mapping, with the version that was used. Strings are returned as `bytes`,
        bfloat16 as float32.

        `key` is who asks, such as the id of a user: if the model has a canary, equal keys get the same version.
        Default: the client's token or certificate, else its address.

        `batch_size` is the number of rows in a request: more rows are sent in several, all to one version, and what is
        sliced later, such as an h5py dataset, is never read as a whole. By default there is one request, or several
        where it would have more than 32 MiB. Rows that depend on one another aren't divided.

        `timeout` is that of all requests, in seconds; default: the client's for each.

        Example:
            await client.predict("mnist", images)                              -> array (rows, 10)
            await client.predict("mnist", million_images, batch_size=1024)     -> array (rows, 10)
            await client.predict("tickets", {"title": titles, "body": bodies}) -> {"priority": ..., "department": ...}
            await client.predict("mnist", images, outputs="dense_1")           -> array (rows, 64)
            await client.predict("mnist", images, outputs=["dense_1"])         -> {"dense_1": array (rows, 64)}

        Raises InvalidArgument (InvalidTensor, UnknownInput, UnknownOutput, MissingInput), ModelNotFound,
        VersionNotFound, LabelNotFound, ModelNotReady, TooLarge, Overloaded, DeadlineExceeded, Unavailable.
        """
        flow = prediction.predict(self._signatures, model, inputs, outputs, version, label, key, batch_size)
        return prediction.as_asked(await self._run(flow, timeout), outputs)

    async def predict_named(
        self,
        model: str,
        inputs: Any,
        outputs: str | Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        version: int | None = None,
        label: str | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Like `predict`, but always returns a mapping from names to arrays, with the `model` and `version` used."""
        flow = prediction.predict(self._signatures, model, inputs, outputs, version, label, key, batch_size)
        return await self._run(flow, timeout)

    async def prepare(
        self,
        model: str,
        outputs: str | Sequence[str] | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> AsyncPreparedCall:
        """Prepare a prediction that is called repeatedly with different inputs, with less overhead than `predict`.

        The model's inputs are fetched once: prepare again if they change. Results are those of `predict`, but the
        arrays are read-only, since they share the reply's memory.

        Example:
            classify = await client.prepare("mnist")
            for images in batches:
                await classify(images)                                             -> array (rows, 10)

        Raises ModelNotFound, VersionNotFound, LabelNotFound, ModelNotReady, InvalidArgument.
        """
        form = await self._run(prepare(self._signatures, model, outputs, version, label), timeout)
        return AsyncPreparedCall(self, form)

    async def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        outputs: str | Sequence[str] | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[Array | dict[str, Array]]:
        """Yield predictions for each of `inputs`, in their order, over one stream, with less overhead than calls.

        Inputs are consumed and sent while earlier ones are computed; the server batches them, also with requests of
        other clients. `timeout` is that of all predictions together, in seconds; default: none. An error of an input is
        raised in place of its prediction, and ends the iteration.

        Example:
            async for probabilities in client.predict_many("mnist", batches):
                ...

        Raises the errors of `predict`, and those of iterating over `inputs`.
        """
        feed = PredictionFeed(self._signatures, model, inputs, outputs, version, label, key)
        deadline = Deadline(timeout)
        try:
            while (made := await self._run(feed.next(), deadline.remaining() or math.inf)) is not None:
                yield prediction.as_asked(made, outputs)
        finally:
            await self._run(feed.close(), math.inf)

    async def node_shapes(
        self,
        model: str,
        layers: Sequence[str] = (),
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> NodeShapes:
        """Return the layers of a model, or those of these paths, with the inputs and outputs of each of their nodes.

        Example:
            shapes = await client.node_shapes("twice")
            shapes["conv"].input_shape_at(1)     -> (None, 64, 64, 3)
            shapes["conv"].output_shape          -> AttributeError if the nodes differ, as in Keras
            shapes["outer/inner"].input_at(0)    -> the input tensor: layer, node, shape, dtype

        Raises ModelNotFound, VersionNotFound, LabelNotFound, LayerNotFound, ModelNotReady.
        """
        return await self._run(node_shapes(model_spec(model, version, label), layers), timeout)

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
        alone may have all data: a dataset (`client.dataset(id)`), or a `ServerFile` with a column for each input and
        output.

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
        flow = train(self._signatures, model, x, y, sample_weight, validation_data, version, label, options)
        feed = await self._run(flow, timeout, keeps_stream=True)
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
        flow = evaluate(self._signatures, model, x, y, sample_weight, version, label, options)
        return await self._run(flow, timeout)

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

        `state` is a `RunInfo.state` or several, `kind` "training" or "evaluation". `metadata` are keys with the values
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

    async def download(
        self,
        model: str,
        path: str | os.PathLike[str],
        *,
        version: int | None = None,
        label: str | None = None,
        format: str | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Save the file of a model, and return its path.

        `path` is a file, which is replaced, or a directory (one that exists, or a path that ends with "/"), in which
        the file is named "<model>-<version>.keras" (or .h5). Missing directories are created. The file is created only
        after it was received completely and its SHA-256 was verified.

        `format` is the format to convert the file to: "keras3" and "keras3_h5" for Keras 3, "keras2" and "keras2_h5"
        for tf.keras (.keras and .h5). Default: the model's own, without conversion. `timeout` is in seconds; default:
        none.

        Raises ModelNotFound, VersionNotFound, LabelNotFound, InvalidArgument (the format can't represent the model, or
        `path` has the suffix of another one), Overloaded (other files are being converted), DataLoss, OSError.
        """
        return await self._run(download(model_spec(model, version, label), path, format), timeout)

    async def _run(self, flow: Flow[T], timeout: float | None = None, *, keeps_stream: bool = False) -> T:
        """Run a flow to its end. The client's timeout holds for calls, one given here for streams, too.

        With `keeps_stream`, the stream that the flow opens is still read after it, without this timeout.
        """
        deadline = Deadline(self.timeout if timeout is None else timeout)
        streams = NEVER if timeout is None else deadline
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                try:
                    step = flow.send(answer) if error is None else flow.throw(error)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                answer = error = None
                if isinstance(step, Renew):
                    deadline = deadline if timeout is not None else Deadline(self.timeout)
                    continue
                try:
                    if isinstance(step, Call):
                        answer = await self._perform(step, deadline)
                    else:
                        keeps = keeps_stream and isinstance(step, Open)
                        answer = await self._perform(step, NEVER if keeps else streams)
                except Exception as raised:
                    error = raised
        finally:
            flow.close()

    async def _perform(self, step: Step, deadline: Deadline) -> Any:
        """Perform a step of a flow. All RPCs except prepared predictions are made here."""
        if isinstance(step, Pause):
            return await self._channel.pause(deadline.limit(step.seconds))
        if isinstance(step, Work):
            return await self._channel.work(step.function)
        if self._closed:
            raise ClientClosed(f"client of {self.address} is closed")
        try:
            if isinstance(step, Call):
                return await self._channel.call(step.method, step.request, deadline, step.metadata)
            if isinstance(step, Open):
                return Stream(await self._channel.open(step.method, step.requests, deadline, step.metadata))
            if isinstance(step, Receive):
                return await self._channel.receive(step.stream.handle, deadline)
            return step.stream.handle.cancel()
        except grpc.RpcError as error:
            translated = await self._channel.translated(error)
            _log.debug("%s: %s: %s", type(step).__name__, translated.status.name, translated)
            raise translated from None

    async def _call_raw(
        self, method: methods.Method[Any, R], request: bytes, timeout: float | None, metadata: Metadata
    ) -> R:
        """Call a unary RPC with a serialized request."""
        if self._closed:
            raise ClientClosed(f"client of {self.address} is closed")
        deadline = Deadline(self.timeout if timeout is None else timeout)
        try:
            reply: R = await self._channel.call(method, request, deadline, metadata, raw=True)
            return reply
        except grpc.RpcError as error:
            translated = await self._channel.translated(error)
            raise translated from None


class AsyncPreparedCall:
    """A prediction whose request is serialized in advance. Made by `AsyncClient.prepare`."""

    def __init__(self, client: AsyncClient, form: RequestForm) -> None:
        self._client = client
        self._form = form

    async def __call__(
        self, inputs: Any, *, key: str | None = None, timeout: float | None = None
    ) -> Array | dict[str, Array]:
        """Compute the outputs of the model for rows of data, as `AsyncClient.predict` does."""
        request = self._form.fill(inputs)
        metadata = prediction.key_metadata(key)
        return self._form.read(await self._client._call_raw(methods.PREDICT, request, timeout, metadata))


class AsyncTrainingRun(AsyncRunControl):
    """A training run on the server. It continues if this object or its client is closed.

    Iteration yields the events that weren't read yet, waits for new ones, and ends with the run. If the connection
    breaks, it is established again, and only step events may be missed.
    """

    def __init__(self, client: AsyncClient, feed: RunFeed) -> None:
        super().__init__(client, feed)
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
        return await self._client._run(self._feed.info(), timeout)

    async def cancel(self, *, timeout: float | None = None) -> RunInfo:
        """Cancel the run; nothing is published. Does nothing if the run has ended.

        The run may take a moment to stop: events continue until a RunCancelled.
        """
        return await self._client._run(self._feed.cancel(), timeout)

    async def files(self, *, timeout: float | None = None) -> tuple[RunFile, ...]:
        """List the files that the run's callbacks have written so far, by name: logs, event files, saved models."""
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
