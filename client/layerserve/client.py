# Generated from async_client.py by `make client`. Edit that file instead.
"""The blocking client: carries flows out on a blocking channel."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from layerserve import methods, prediction, run_info
from layerserve.channel import Channel
from layerserve.connection import (
    DEFAULT_ADDRESS,
    DEFAULT_TIMEOUT,
    TLS,
    ChannelOptions,
    Deadline,
    connection,
    rpc_error,
)
from layerserve.download import download
from layerserve.errors import ClientClosed
from layerserve.events import TrainingEvent
from layerserve.flow import Call, Flow, Open, Pause, Receive, Step, Stream, Work, call
from layerserve.health import wait_until_ready
from layerserve.model_info import ModelInfo, Models, model_spec, read_model_info
from layerserve.node_shapes import NodeShapes, node_shapes
from layerserve.options.signature import takes
from layerserve.options.training import EVALUATE, TRAIN
from layerserve.prediction import Prediction, Signatures
from layerserve.prediction_feed import PredictionFeed
from layerserve.prepared import RequestForm, prepare
from layerserve.progress import PlainProgress
from layerserve.run_feed import RunFeed
from layerserve.run_files import RunFile, download_file, list_files
from layerserve.run_info import RunInfo
from layerserve.tensors import Array
from layerserve.training import evaluate, train
from layerserve.training_run import RunView
from layerserve.v1.models_pb2 import ListModelsRequest
from layerserve.v1.training_pb2 import ListRunsRequest

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from layerserve.options.keywords import EvaluateKeywords, TrainKeywords

T = TypeVar("T")
R = TypeVar("R", bound=methods.Message)

_log = logging.getLogger("layerserve")


class Client:
    """A connection to a layerserve server, shared by any number of threads.

    Example:
        with Client("localhost:8500") as client:
            probabilities = client.predict("mnist", images)
            run = client.train("mnist", images, labels, epochs=3)
            run.wait(progress=True)
            print(run.history["loss"], run.version)

    `address` is host:port, or any name that gRPC resolves; calls are spread over all addresses of the name. `timeout`
    is what a call may take in seconds where it says nothing else: 60 by default, `math.inf` for no limit; streams
    (training, download) have no limit. `tls` is True, or a `TLS` with files. `token` is sent as a bearer token with
    each call, for a proxy that checks it: layerserve's own server doesn't read it yet, and answers all callers.
    Without TLS anyone on the way can read the token. `options` are channel options of gRPC, which win over the
    client's own; there is no limit of 4 MiB to a message.

    A call that finds no server is repeated for about two seconds, but for `train` and `download`. Nothing is connected
    before the first call. What goes wrong at the server is a `LayerserveError`; see `layerserve.errors`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        tls: bool | TLS = False,
        token: str | None = None,
        options: ChannelOptions = (),
    ) -> None:
        Deadline(timeout)  # refuses what is no timeout here rather than at the first call
        self.address = address
        self.timeout = timeout
        self._channel = Channel(connection(address, tls, token, options))
        self._signatures = Signatures()
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Calls under way end with an error; training runs go on at the server."""
        self._closed = True
        self._channel.close()

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server has read its models and serves, at most `timeout` seconds.

        Raises Unavailable where it doesn't.
        """
        self._run(wait_until_ready(self.address, timeout), timeout)

    def models(self, name: str | None = None) -> tuple[ModelInfo, ...]:
        """Every version of every model, or of the model `name`: by name, then newest first.

        Versions that failed to load are among them, with the reason.
        """
        reply = self._run(call(methods.LIST_MODELS, ListModelsRequest(name=name or "")))
        return Models(map(read_model_info, reply.versions))

    def model(self, name: str, *, version: int | None = None, label: str | None = None) -> ModelInfo:
        """One version of a model: the newest that is ready, or the one with this number or label.

        Raises ModelNotFound, VersionNotFound, LabelNotFound.
        """
        return self._run(prediction.get_model(model_spec(name, version, label)))

    def predict(
        self,
        model: str,
        inputs: Any,
        outputs: str | Sequence[str] | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Array | dict[str, Array]:
        """Run a model over rows of data: arrays in, arrays out.

        `inputs` is a dict by input name, a list in the model's order, or the array of a model with one input. A
        DataFrame stands for the dict of its columns, or for the array of its rows where the model has one input. Lists
        of numbers, scalars in lists, text and anything that NumPy takes for an array will do; numbers are converted to
        the input's type, rounded where it is a float (as Keras does), and refused where a value would be lost
        otherwise.

        `outputs` names what to return: outputs of the model, or any tensor of its graph as "layer", "layer:node" or
        "layer:node:tensor" ("outer/inner" in a nested model). Default: all outputs of the model.

        Returns an array for `outputs="layer"`, and a dict of arrays by name, in the order asked for, for a list of
        names, also for a list of one. Without `outputs`, a model with one output gives an array, one with several a
        dict. `predict_named` always gives a mapping, and says which version answered. Strings come as `bytes`, bfloat16
        as float32.

        `timeout` is in seconds; default: the client's.

        Example:
            client.predict("mnist", images)                              -> array (rows, 10)
            client.predict("tickets", {"title": titles, "body": bodies}) -> {"priority": ..., "department": ...}
            client.predict("mnist", images, outputs="dense_1")           -> array (rows, 64)
            client.predict("mnist", images, outputs=["dense_1"])         -> {"dense_1": array (rows, 64)}

        Raises InvalidArgument (InvalidTensor, UnknownInput, UnknownOutput, MissingInput), ModelNotFound,
        VersionNotFound, LabelNotFound, ModelNotReady, Overloaded, DeadlineExceeded, Unavailable.
        """
        flow = prediction.predict(self._signatures, model, inputs, outputs, version, label)
        return prediction.as_asked(self._run(flow, timeout), outputs)

    def predict_named(
        self,
        model: str,
        inputs: Any,
        outputs: str | Sequence[str] | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """As `predict`, but always a mapping from names to arrays, with the `model` and `version` that answered."""
        return self._run(prediction.predict(self._signatures, model, inputs, outputs, version, label), timeout)

    def prepare(
        self,
        model: str,
        outputs: str | Sequence[str] | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
    ) -> PreparedCall:
        """A prediction to call over and over with different inputs, for less than `predict` costs.

        The model is asked for its inputs now, and not again: prepare anew when they change. Results are as those of
        `predict`, but their arrays are read-only, as they share the reply's memory.

        Example:
            classify = client.prepare("mnist")
            for images in batches:
                classify(images)                                             -> array (rows, 10)

        Raises ModelNotFound, VersionNotFound, LabelNotFound, ModelNotReady, InvalidArgument.
        """
        return PreparedCall(self, self._run(prepare(self._signatures, model, outputs, version, label)))

    def predict_many(
        self,
        model: str,
        inputs: Iterable[Any],
        outputs: str | Sequence[str] | None = None,
        *,
        version: int | None = None,
        label: str | None = None,
    ) -> Iterator[Array | dict[str, Array]]:
        """Predictions for each of `inputs`, in their order, over one stream: for less than a call each costs.

        Inputs are taken, and sent, while earlier ones are computed; the server batches what comes together, also with
        requests of others. There is no time limit. What is wrong with an input is raised in its place, and ends it.

        Example:
            for probabilities in client.predict_many("mnist", batches):
                ...

        Raises what `predict` raises, and what taking the inputs raises.
        """
        feed = PredictionFeed(self._signatures, model, inputs, outputs, version, label)
        try:
            while (made := self._run(feed.next(), math.inf)) is not None:
                yield prediction.as_asked(made, outputs)
        finally:
            self._run(feed.close(), math.inf)

    def node_shapes(
        self, model: str, layers: Sequence[str] = (), *, version: int | None = None, label: str | None = None
    ) -> NodeShapes:
        """The layers of a model, or some of them by path, with what went in and came out of each of their calls.

        Example:
            shapes = client.node_shapes("twice")
            shapes["conv"].input_shape_at(1)     -> (None, 64, 64, 3)
            shapes["conv"].output_shape          -> AttributeError where the calls differ, as in Keras
            shapes["outer/inner"].input_at(0)    -> the tensor that came in: layer, node, shape, dtype

        Raises ModelNotFound, VersionNotFound, LabelNotFound, LayerNotFound, ModelNotReady.
        """
        return self._run(node_shapes(model_spec(model, version, label), layers))

    @takes(TRAIN)
    def train(
        self,
        model: str,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        validation_data: Sequence[Any] | None = None,
        version: int | None = None,
        label: str | None = None,
        **options: Unpack[TrainKeywords],
    ) -> TrainingRun:
        """Train a served model at the server. Returns when the server has all data; the run then goes on by itself.

        `x`, `y`, `sample_weight` and `validation_data` ((x, y) or (x, y, sample_weight)) are arrays, lists in the
        model's order, dicts by name, or DataFrames, as for Keras's `fit`. They are sent about 1 MiB at a time, sliced
        as they go: a `numpy.memmap` or an h5py dataset is never read as a whole. A `ServerFile` in place of an array
        isn't sent: the server reads it.

        `optimizer`, `loss`, `loss_weights`, `metrics` and `weighted_metrics` are what Keras's `compile` takes: a name,
        a serialised object, an object with `get_config()`, or lists or dicts of these. Default: as in the model file.
        `callbacks` are names or {"class_name", "config"}, such as EarlyStopping.

        `freeze` and `unfreeze` are patterns of layers' paths ("block1_*"): layers not to train, and then to train.

        `version` or `label` says which version to start from (default: the newest that is ready). When the run ends,
        its result becomes a new version of the model, unless `publish` is False: the last weights, or with
        publish="best" those of the epoch whose `monitor` is best (default: val_loss with validation data, else loss).
        With `publish_if_improved` ("loss", "accuracy", ...) it is only published if it beats the version it started
        from in that, on the validation data. `publish_label` is given to the new version. `monitor_mode` is "min" or
        "max", for metrics that don't say what is better. `format` is that of the new version: "keras3" and "keras3_h5"
        for Keras 3, "keras2" and "keras2_h5" for tf.keras (default: the one that the model came in).

        `options` are those of `TrainKeywords`, with defaults that are listed below.

        Example:
            run = client.train(
                "mnist", images, labels, epochs=3, loss="sparse_categorical_crossentropy", metrics=["accuracy"]
            )
            for event in run:
                print(event)
            print(run.history["loss"], run.version)

        Raises InvalidArgument, ModelNotFound, VersionNotFound, LabelNotFound, NotCompiled, FailedPrecondition (a
        repository that can't be written), PermissionDenied (a ServerFile outside of the server's data root), Overloaded
        (too many runs wait, disk or memory won't suffice), DataLoss.
        """
        flow = train(self._signatures, model, x, y, sample_weight, validation_data, version, label, options)
        return TrainingRun(self, self._run(flow))

    @takes(EVALUATE)
    def evaluate(
        self,
        model: str,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        version: int | None = None,
        label: str | None = None,
        **options: Unpack[EvaluateKeywords],
    ) -> dict[str, float]:
        """Loss and metrics of a served model on data, as Keras's `evaluate(return_dict=True)` gives them.

        The arguments are those of `train`, `options` those of `EvaluateKeywords`. The server evaluates in a process of
        its own; this waits for it.

        Example:
            client.evaluate("mnist", images, labels)     -> {"accuracy": 0.97, "loss": 0.09}

        Raises what `train` raises, TrainingFailed, and TrainingCancelled.
        """
        flow = evaluate(self._signatures, model, x, y, sample_weight, version, label, options)
        return self._run(flow)

    def runs(self, model: str | None = None) -> tuple[RunInfo, ...]:
        """The training runs that the server knows, of all models or one, newest first."""
        reply = self._run(call(methods.LIST_RUNS, ListRunsRequest(model_name=model or "")))
        return tuple(map(run_info.read_run_info, reply.runs))

    def run(self, id: str) -> TrainingRun:
        """A run by its id, to watch from its first event on, to cancel, resume or delete.

        Raises RunNotFound and RunElsewhere.
        """
        feed = RunFeed(id)
        self._run(feed.attach())
        return TrainingRun(self, feed)

    def download(
        self,
        model: str,
        path: str | os.PathLike[str],
        *,
        version: int | None = None,
        label: str | None = None,
        format: str | None = None,
    ) -> Path:
        """Save the file of a model, and return where it is.

        `path` is a file, which is replaced, or a directory (one that exists, or a path that ends with "/"), in which
        the file is named "<model>-<version>.keras" (or .h5). Missing directories are created. The file appears when it
        is whole and its SHA-256 is right, or not at all.

        `format` has the server convert it: "keras3" and "keras3_h5" for Keras 3, "keras2" and "keras2_h5" for tf.keras
        (.keras and .h5). Default: the file as it is.

        Raises ModelNotFound, VersionNotFound, LabelNotFound, InvalidArgument (a format that can't hold the model),
        Overloaded (other files are being converted), DataLoss, OSError.
        """
        return self._run(download(model_spec(model, version, label), path, format))

    def _run(self, flow: Flow[T], timeout: float | None = None) -> T:
        """Carry a flow out to its end."""
        deadline = Deadline(self.timeout if timeout is None else timeout)
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
                try:
                    answer = self._perform(step, deadline)
                except Exception as raised:
                    error = raised
        finally:
            flow.close()

    def _perform(self, step: Step, deadline: Deadline) -> Any:
        """Carry one step out: every RPC of the client is made here."""
        if isinstance(step, Pause):
            return self._channel.pause(step.seconds)
        if isinstance(step, Work):
            return self._channel.work(step.function)
        if self._closed:
            raise ClientClosed(f"client of {self.address} is closed")
        try:
            if isinstance(step, Call):
                return self._channel.call(step.method, step.request, deadline)
            if isinstance(step, Open):
                return Stream(self._channel.open(step.method, step.requests))
            if isinstance(step, Receive):
                return self._channel.receive(step.stream.handle)
            return step.stream.handle.cancel()
        except grpc.RpcError as error:
            translated = rpc_error(error, self.address)
            _log.debug("%s: %s: %s", type(step).__name__, translated.status.name, translated)
            raise translated from None

    def _call_raw(self, method: methods.Method[Any, R], request: bytes, timeout: float | None) -> R:
        """Call a unary RPC with a message that is written already."""
        if self._closed:
            raise ClientClosed(f"client of {self.address} is closed")
        deadline = Deadline(self.timeout if timeout is None else timeout)
        try:
            reply: R = self._channel.call(method, request, deadline, raw=True)
            return reply
        except grpc.RpcError as error:
            raise rpc_error(error, self.address) from None


class PreparedCall:
    """A prediction with its request written ahead. Made by `Client.prepare`."""

    def __init__(self, client: Client, form: RequestForm) -> None:
        self._client = client
        self._form = form

    def __call__(self, inputs: Any, *, timeout: float | None = None) -> Array | dict[str, Array]:
        """Run the model over rows of data, as `Client.predict` does."""
        request = self._form.fill(inputs)
        return self._form.read(self._client._call_raw(methods.PREDICT, request, timeout))


class TrainingRun(RunView):
    """A training run at the server. It goes on when this object, or its client, goes away.

    Iterating gives the events that weren't read yet, waits for new ones, and ends with the run. Where the connection
    breaks, it is made again, and no event but steps is missed.
    """

    def __init__(self, client: Client, feed: RunFeed) -> None:
        super().__init__(feed)
        self._client = client

    def __iter__(self) -> Iterator[TrainingEvent]:
        """The events to come. Of a run that fails it gives the RunFailed, and then raises TrainingFailed."""
        while (event := self._client._run(self._feed.next_event())) is not None:
            yield event

    def wait(self, progress: bool = False) -> TrainingRun:
        """Wait for the end of the run, and return it. `progress` shows it on standard error.

        Raises TrainingFailed with the reason, TrainingCancelled, and Unavailable where the server can't be reached any
        more; the run may then still go on.
        """
        shown = PlainProgress() if progress else None
        for event in self:
            if shown:
                shown.show(event)
        self._feed.check_finished()
        return self

    def info(self) -> RunInfo:
        """The run as it stands at the server."""
        return self._client._run(self._feed.info())

    def cancel(self) -> RunInfo:
        """Stop the run; nothing is published. Does nothing to a run that has ended.

        It may take a moment: the events go on until a RunCancelled.
        """
        return self._client._run(self._feed.cancel())

    def resume(self) -> TrainingRun:
        """Let a run that was interrupted go on from its newest checkpoint, and return it. Its events go on here.

        It goes on to the very weights that it would have had without the interruption. Raises FailedPrecondition for a
        run that ended otherwise; does nothing to one that is under way.
        """
        self._client._run(self._feed.resume())
        return self

    def files(self) -> tuple[RunFile, ...]:
        """The files that the run's callbacks have written so far, by name: logs, event files, saved models."""
        return self._client._run(list_files(self.id))

    def download(self, name: str, path: str | os.PathLike[str] = ".") -> Path:
        """Save one of the run's files, and return where it is.

        `path` is a file, which is replaced, or a directory (one that exists, or a path that ends with "/"), in which
        the file has its own name. Missing directories are created. The file appears when it is whole and its SHA-256 is
        right, or not at all. Raises NotFound, DataLoss, OSError.
        """
        return self._client._run(download_file(self.id, name, path))

    def delete(self) -> None:
        """Remove the run from the server; the version it published stays. Raises FailedPrecondition before its end."""
        self._client._run(self._feed.delete())
