"""The methods of the asyncio client for sequences."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from layerserve.models.api import AsyncModelMethods
from layerserve.prediction.prediction import as_asked
from layerserve.sequences.feed import SequenceFeed
from layerserve.sequences.view import SequenceView
from layerserve.values.tensors import Array


class AsyncSequenceMethods(AsyncModelMethods):
    """The methods of `AsyncClient` for sequences."""

    def sequence(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> AsyncModelSequence:
        """Predict step by step: recurrent layers go on from their states after the step before.

        Returns a context manager. The sequence begins with the first step in the block, and ends with the block. All
        its steps are computed by one version, on one server. The model's settings need `[sequences]`, unless its file
        has stateful layers. `key` is as in `predict`. `timeout` is that of each step, in seconds; default: the
        client's.

        Example:
            async with client.sequence("sensor") as sequence:
                for readings in batches:
                    await sequence.predict(readings)                               -> array (rows, timesteps, 1)
        """
        feed = SequenceFeed(self._signatures, model, version, label, key)
        return AsyncModelSequence(self, feed, self.timeout if timeout is None else timeout)


class AsyncModelSequence(SequenceView):
    """Steps of a model, one after the other. Use it as a context manager, and for one step at a time."""

    def __init__(self, client: AsyncModelMethods, feed: SequenceFeed, timeout: float) -> None:
        super().__init__(feed)
        self._client = client
        self._timeout = timeout

    async def __aenter__(self) -> AsyncModelSequence:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def predict(
        self, inputs: Any, outputs: str | Sequence[str] | None = None, *, timeout: float | None = None
    ) -> Array | dict[str, Array]:
        """Compute the outputs for the next timesteps: those that the whole sequence up to here would have.

        `inputs` are those of `Client.predict`, with any number of timesteps, (rows, timesteps, ...). All steps have the
        same rows: each row goes on from its own states. `outputs` are names of the model's outputs. `timeout` is in
        seconds; default: the sequence's.

        A step that the server refuses leaves the sequence as before. If the sequence is lost, as the server has dropped
        or forgotten it, or a step got no reply, this and all further steps raise an error: begin another sequence.

        Raises SequenceLost, Unavailable if the server stops, Overloaded if too many sequences are under way, and
        otherwise as `Client.predict` does.
        """
        flow = self._feed.predict(inputs, outputs)
        seconds = self._timeout if timeout is None else timeout
        return as_asked(await self._client._run(flow, seconds, keeps_stream=True), outputs)

    async def close(self) -> None:
        """End the sequence. Does nothing if it has ended."""
        await self._client._run(self._feed.close())
