"""The base class of what `layerserve codegen` writes for the asyncio client."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar, TypeVar

from layerserve import AsyncClient
from layerserve.calls.connection import DEFAULT_ADDRESS
from layerserve.codegen.contract import CheckedModel, Contract, no_client
from layerserve.prediction.prediction import Prediction

Model = TypeVar("Model", bound="AsyncTypedModel")


class AsyncTypedModel:
    """A served model. Base class of what `layerserve codegen` writes."""

    contract: ClassVar[Contract]

    def __init__(
        self, server: str | AsyncClient = DEFAULT_ADDRESS, *, version: int | None = None, label: str | None = None
    ) -> None:
        """`server` is an address, or a client, which isn't closed with this object."""
        self._own = AsyncClient(server) if isinstance(server, str) else None
        self._client = self._own or (server if isinstance(server, AsyncClient) else no_client(server, "AsyncClient"))
        self._model = CheckedModel(self.contract, version, label)

    async def check(self, *, timeout: float | None = None) -> None:
        """Compare the served model with this class now, not before the first prediction. Raises ModelMismatch."""
        await self._client._run(self._model.check(self._client._signatures), timeout)

    async def close(self) -> None:
        """Close the connection, unless it is that of a client given to the constructor."""
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self: Model) -> Model:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _predict(self, inputs: Mapping[str, Any], timeout: float | None) -> Prediction:
        return await self._client._run(self._model.predict(self._client._signatures, inputs), timeout)
