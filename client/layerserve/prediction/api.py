"""The methods of the asyncio client for predictions."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from layerserve.calls.connection import Deadline
from layerserve.calls.methods import rpc
from layerserve.models.api import AsyncModelMethods
from layerserve.prediction import prediction
from layerserve.prediction.feed import PredictionFeed
from layerserve.prediction.prediction import Prediction
from layerserve.prediction.prepared import RequestForm, prepare
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.values.tensors import Array


class AsyncPredictionMethods(AsyncModelMethods):
    """The methods of `AsyncClient` for predictions."""

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
        rounded if that is a float (as in Keras), and refused if a value would change otherwise. For an input that takes
        images (`encoding` in its signature), a value may also be an image, or a list of them: bytes, the path of a
        file, or an image of Pillow. Arrays are taken as they are, without the scaling of images.

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
        timing: bool = False,
        timeout: float | None = None,
    ) -> Prediction:
        """Like `predict`, but always returns a mapping from names to arrays, with the `model` and `version` used.

        With `timing` it has the milliseconds that the request took in the server, too: waiting in the queue, computing,
        and in total.

        Example:
            (await client.predict_named("mnist", images, timing=True)).timing  -> {"queue": 0.2, "compute": 1.5, ...}
        """
        flow = prediction.predict(self._signatures, model, inputs, outputs, version, label, key, batch_size, timing)
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


class AsyncPreparedCall:
    """A prediction whose request is serialized in advance. Made by `AsyncClient.prepare`."""

    def __init__(self, client: AsyncModelMethods, form: RequestForm) -> None:
        self._client = client
        self._form = form

    async def __call__(
        self, inputs: Any, *, key: str | None = None, timeout: float | None = None
    ) -> Array | dict[str, Array]:
        """Compute the outputs of the model for rows of data, as `AsyncClient.predict` does."""
        request = self._form.fill(inputs)
        metadata = prediction.call_metadata(self._form.model, key)
        return self._form.read(
            await self._client._call_raw(rpc(PredictRequest, PredictResponse), request, timeout, metadata)
        )
