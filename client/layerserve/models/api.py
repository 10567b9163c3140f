"""The methods of the asyncio client that change the models of a server."""

from __future__ import annotations

import os
from typing import TypeVar

from layerserve.calls import methods
from layerserve.calls.flow import Flow, call
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
from layerserve.v1.management_pb2 import DeleteModelRequest

T = TypeVar("T")


class AsyncManagement:
    """The methods of `AsyncClient` that change the models of a server.

    A change survives a restart of the server, and is in effect when the method returns. A server with `--workers` has
    several processes: those in which the change isn't in effect yet are named in `ModelChange.lagging`.
    """

    async def _run(self, flow: Flow[T], timeout: float | None = None) -> T:
        raise NotImplementedError

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
        return await self._run(change(methods.LOAD_MODEL, model), timeout)

    async def unload(self, model: str, *, timeout: float | None = None) -> ModelChange:
        """Unload a model: its requests are refused (ModelNotReady) until it is loaded again.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound.
        """
        return await self._run(change(methods.UNLOAD_MODEL, model), timeout)

    async def roll_back(self, model: str, *, version: int | None = None, timeout: float | None = None) -> ModelChange:
        """Make an earlier version the default, until `unpin`, and end the model's canary.

        Default: the highest version below the present default that can be loaded. `timeout` is in seconds; default: the
        client's.

        Raises ModelNotFound, VersionNotFound, ModelNotReady (no such version can be loaded).
        """
        number = 0 if version is None else checked_version(version)
        return await self._run(change(methods.ROLL_BACK, model, version=number), timeout)

    async def pin(self, model: str, version: int, *, timeout: float | None = None) -> ModelChange:
        """Make a version the default until `unpin`, however many newer ones come.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound, VersionNotFound, ModelNotReady.
        """
        return await self._run(change(methods.PIN_VERSION, model, version=checked_version(version)), timeout)

    async def unpin(self, model: str, *, timeout: float | None = None) -> ModelChange:
        """Make the version of the model's settings the default again, or the newest that is ready.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound.
        """
        return await self._run(change(methods.UNPIN_VERSION, model), timeout)

    async def set_label(self, model: str, label: str, version: int, *, timeout: float | None = None) -> ModelChange:
        """Point a label at a version.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound, VersionNotFound, ModelNotReady,
        InvalidArgument (a label that can't be one).
        """
        fields = {"label": label, "version": checked_version(version)}
        return await self._run(change(methods.SET_LABEL, model, **fields), timeout)

    async def remove_label(self, model: str, label: str, *, timeout: float | None = None) -> ModelChange:
        """Remove a label.

        `timeout` is in seconds; default: the client's. Raises ModelNotFound, LabelNotFound.
        """
        return await self._run(change(methods.REMOVE_LABEL, model, label=label), timeout)

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
        return await self._run(change(methods.SET_CANARY, model, **fields), timeout)

    async def delete_version(
        self, model: str, version: int, *, force: bool = False, timeout: float | None = None
    ) -> ModelChange:
        """Delete a version from the server's disk. Its number isn't given to another version.

        With `force`, also the default or the pinned version. `timeout` is in seconds; default: the client's.

        Raises ModelNotFound, VersionNotFound, FailedPrecondition (a label points at it, or it is the default or pinned
        and `force` isn't set).
        """
        fields = {"version": checked_version(version), "force": force}
        return await self._run(change(methods.DELETE_VERSION, model, **fields), timeout)

    async def delete_model(self, model: str, *, force: bool = False, timeout: float | None = None) -> tuple[str, ...]:
        """Delete a model with all versions, labels and settings from the server's disk.

        With `force`, also a loaded one, and one with runs or sweeps that haven't ended: these publish nothing. Returns
        a text for each process of the server that still serves it. `timeout` is in seconds; default: the client's.

        Raises ModelNotFound, FailedPrecondition (it is loaded, or runs or sweeps haven't ended, and `force` isn't set).
        """
        request = DeleteModelRequest(name=checked_name(model), force=force)
        return tuple((await self._run(call(methods.DELETE_MODEL, request), timeout)).lagging)
