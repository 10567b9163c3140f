"""The methods of the asyncio client about models and the server, and those that change models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from layerserve.calls.api import AsyncRunner
from layerserve.calls.connection import Connection
from layerserve.calls.flow import call
from layerserve.models.changes import (
    ModelChange,
    UploadProgress,
    change,
    checked_name,
    checked_version,
    read_share,
    upload,
    warn_of_differences,
)
from layerserve.models.download import download
from layerserve.models.drawing import ModelGraph, RankDir
from layerserve.models.health import wait_until_ready
from layerserve.models.info import ModelInfo, Models, get_model, model_spec, read_model_info
from layerserve.models.node_shapes import NodeShapes, node_shapes
from layerserve.models.server_info import ServerInfo, get_server
from layerserve.models.signatures import Signatures
from layerserve.models.statistics import Statistics, model_statistics
from layerserve.v1.management_pb2 import DeleteModelRequest, DeleteModelResponse
from layerserve.v1.models_pb2 import ListModelsRequest, ListModelsResponse


class AsyncModelMethods(AsyncRunner):
    """The methods of `AsyncClient` about models and the server, and those that change models.

    A change survives a restart of the server, and is in effect when the method returns. A server with `--workers` has
    several processes: those in which the change isn't in effect yet are named in `ModelChange.lagging`.
    """

    def __init__(self, address: str, timeout: float, opened: Connection) -> None:
        super().__init__(address, timeout, opened)
        self._signatures = Signatures()

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
        reply = await self._run(call(ListModelsRequest(name=name or ""), ListModelsResponse), timeout)
        return Models(map(read_model_info, reply.versions))

    async def model(
        self, name: str, *, version: int | None = None, label: str | None = None, timeout: float | None = None
    ) -> ModelInfo:
        """Return a version of a model: the one with this number or label, or else the newest that is ready.

        Raises ModelNotFound, VersionNotFound, LabelNotFound.
        """
        return await self._run(get_model(model_spec(name, version, label)), timeout)

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

    async def graph(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        rankdir: RankDir = "TB",
        limit: int = 1000,
        timeout: float | None = None,
    ) -> ModelGraph:
        """Return a drawing of a model's nodes with their shapes, which notebooks show. Images require graphviz.

        Of more than `limit` nodes the first are drawn, from top to bottom ("TB") or from left to right ("LR").
        `timeout` is in seconds; default: the client's.

        Example:
            graph = await client.graph("mnist")
            graph.save("mnist.svg")      -> also .png, .pdf, .dot

        Raises ModelNotFound, VersionNotFound, LabelNotFound, ModelNotReady, InvalidArgument (an option).
        """
        return ModelGraph(await self._run(node_shapes(model_spec(model, version, label), ()), timeout), rankdir, limit)

    async def statistics(self, model: str | None = None, *, timeout: float | None = None) -> Statistics:
        """Return what all models, or one, have done since the server started: counts and sums of times.

        Models that aren't loaded and that no call has named have none. Two results give rates: `later.since(earlier)`.
        `timeout` is in seconds; default: the client's.

        Example:
            earlier = await client.statistics()
            ...
            rates = (await client.statistics()).since(earlier)
            rates["mnist"].answered_per_second, rates["mnist"].seconds_at(0.99)
        """
        return await self._run(model_statistics(model), timeout)

    async def server(self, *, timeout: float | None = None) -> ServerInfo:
        """Return what serves, since when, and which files in its folder it doesn't serve.

        `timeout` is in seconds; default: the client's.

        Example:
            info = await client.server()
            info.version, info.start_time, info.misplaced
        """
        return await self._run(get_server(), timeout)

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

    async def upload(
        self,
        model: str,
        path: str | os.PathLike[str],
        *,
        golden: str | os.PathLike[str] | None = None,
        settings: str | os.PathLike[str] | None = None,
        label: str | None = None,
        progress: UploadProgress | None = None,
        timeout: float | None = None,
    ) -> ModelChange:
        """Upload a model file, or the folder of a version, as the next version of a model.

        `golden` is a file with golden inputs and outputs, which the version must compute, `settings` a file with
        settings of the model (layerserve.toml), which replaces the present one, and `label` is set to the version. The
        server loads and tests the version before it publishes it; if that fails, nothing of it stays.

        Warns with `VersionWarning` of each input and output that differs from that of the version that was the default
        before. `ModelChange.differences` lists them.

        `progress` is called with "sending" or "testing", and the number of bytes sent and in total. `timeout` is in
        seconds; default: none.

        Example:
            change = await client.upload("mnist", "mnist.keras", label="canary")
            print(change.version)

        Raises InvalidArgument (a name, file or settings), FailedPrecondition (ModelNotReady: the model can't be loaded;
        TooLarge; or the repository can't be written), Overloaded (too many uploads), DataLoss, OSError.
        """
        change = await self._run(upload(model, path, golden, settings, label, progress), timeout)
        return warn_of_differences(model, change, stacklevel=2)

    async def load(self, model: str, *, timeout: float | None = None) -> ModelChange:
        """Load a model that isn't loaded, or read the files and settings of a loaded one again.

        `timeout` is in seconds; default: the client's. The server continues after a timeout.

        Raises ModelNotFound, ModelNotReady (with the reason), InvalidArgument.
        """
        return await self._run(change("LoadModel", model), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> ModelChange:
        """Unload a model: its requests are refused (ModelNotReady) until it is loaded again.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound.
        """
        return await self._run(change("UnloadModel", model), timeout)

    async def roll_back(self, model: str, *, version: int | None = None, timeout: float | None = None) -> ModelChange:
        """Make an earlier version the default, until `unpin`, and end the model's canary.

        Default: the highest version below the present default that can be loaded. `timeout` is in seconds; default: the
        client's.

        Raises ModelNotFound, VersionNotFound, ModelNotReady (no such version can be loaded).
        """
        number = 0 if version is None else checked_version(version)
        return await self._run(change("RollBack", model, version=number), timeout)

    async def pin(self, model: str, version: int, *, timeout: float | None = None) -> ModelChange:
        """Make a version the default until `unpin`, however many newer ones come.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound, VersionNotFound, ModelNotReady.
        """
        return await self._run(change("PinVersion", model, version=checked_version(version)), timeout)

    async def unpin(self, model: str, *, timeout: float | None = None) -> ModelChange:
        """Make the version of the model's settings the default again, or the newest that is ready.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound.
        """
        return await self._run(change("UnpinVersion", model), timeout)

    async def set_label(self, model: str, label: str, version: int, *, timeout: float | None = None) -> ModelChange:
        """Point a label at a version.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound, VersionNotFound, ModelNotReady,
        InvalidArgument (a label that can't be one).
        """
        fields = {"label": label, "version": checked_version(version)}
        return await self._run(change("SetLabel", model, **fields), timeout)

    async def remove_label(self, model: str, label: str, *, timeout: float | None = None) -> ModelChange:
        """Remove a label.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound, LabelNotFound.
        """
        return await self._run(change("RemoveLabel", model, label=label), timeout)

    async def set_canary(self, model: str, share: str | None, *, timeout: float | None = None) -> ModelChange:
        """Set the share of callers, such as "5%", that get the version of label "canary" if they name no version.

        A caller keeps its version while the share grows. It is recognized by the `key` of `predict`, else by its token
        or certificate, else by its address. The share ends with a rollback, and when the version becomes the default.
        None sets the share of the model's settings again. `timeout` is in seconds; default: the client's.

        Example:
            change = await client.set_canary("mnist", "5%")
            print(change.canary.version, change.canary.canary_share)             -> 4 0.05

        Raises ModelNotFound, ModelNotReady, FailedPrecondition (there is no such label), InvalidArgument (no share).
        """
        fields = {} if share is None else {"share": read_share(share)}
        return await self._run(change("SetCanary", model, **fields), timeout)

    async def delete_version(
        self, model: str, version: int, *, force: bool = False, timeout: float | None = None
    ) -> ModelChange:
        """Delete a version from the server's disk. Its number isn't given to another version.

        With `force`, also the default or the pinned version. `timeout` is in seconds; default: the client's.

        Raises ModelNotFound, VersionNotFound, FailedPrecondition (a label points at it, or it is the default or pinned
        and `force` isn't set).
        """
        fields = {"version": checked_version(version), "force": force}
        return await self._run(change("DeleteVersion", model, **fields), timeout)

    async def delete_model(self, model: str, *, force: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        """Delete a model with all versions, labels and settings from the server's disk.

        With `force`, also a loaded one, and one with runs or sweeps that haven't ended: these publish nothing. Returns
        a text for each process of the server that still serves it. `timeout` is in seconds; default: the client's.

        Raises ModelNotFound, FailedPrecondition (it is loaded, or runs or sweeps haven't ended, and `force` isn't set).
        """
        request = DeleteModelRequest(name=checked_name(model), force=force)
        return tuple((await self._run(call(request, DeleteModelResponse), timeout)).lagging)
