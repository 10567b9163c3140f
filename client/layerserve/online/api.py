"""The part of the asyncio client for online training."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from layerserve.calls.flow import Flow
from layerserve.models.api import AsyncModelMethods
from layerserve.online.feed import OnlineFeed
from layerserve.online.options import ONLINE
from layerserve.online.session import OnlineView
from layerserve.training.events import Logs
from layerserve.training.options.signature import takes
from layerserve.values.tensors import Array

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from layerserve.online.keywords import OnlineKeywords

T = TypeVar("T")


class AsyncOnline:
    """Online training: sessions that train step by step, with data as it comes."""

    def __init__(self, client: AsyncModelMethods) -> None:
        self._client = client

    @takes(ONLINE)
    def session(
        self,
        model: str,
        *,
        session: str | None = None,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
        **options: Unpack[OnlineKeywords],
    ) -> AsyncOnlineSession:
        """Train a served model step by step on the server, with data as it comes.

        Returns a session, which starts from `version` or `label` (default: the newest version that is ready) when its
        block begins. With the id of a `session`, goes on with that one, without options.

        The session is ended with its block, and publishes its last state unless `publish` is False. If the block ends
        with an error, the session stays on the server, and can be gone on with. The server interrupts it after
        `idle_seconds` without a request; its state is kept.

        Whatever is killed or cut off meanwhile, no step that has returned is lost, and none is applied twice: the
        client attaches again, and sends again what has no reply.

        With `publish_every_steps` or `publish_every_seconds`, versions are published while the session goes on.
        `replay_steps` and `replay_share` add rows of earlier batches to each step. `timeout` is that of the beginning
        of the block, in seconds; default: none. `options` are those of `OnlineKeywords`; their defaults are listed
        below.

        Example:
            async with client.online.session("mnist", optimizer="adam", publish_every_steps=100) as session:
                for images, labels in batches:
                    logs = await session.train_on_batch(images, labels)
            print(session.version)

        Raises, when the block begins, InvalidArgument, ModelNotFound, VersionNotFound, LabelNotFound, RunNotFound,
        NotCompiled, FailedPrecondition (a session that has ended, or a repository that can't be written), Overloaded
        (as many sessions are open as the server allows).
        """
        return AsyncOnlineSession(
            self._client, OnlineFeed(self._client._signatures, model, session, version, label, options), timeout
        )


class AsyncOnlineSession(OnlineView):
    """A session of online training on the server. Use it as a context manager, and for one request at a time.

    Losses and metrics are those of Keras's methods of the same names, with `return_dict=True`. `timeout` is in seconds,
    by default none. After a DeadlineExceeded a step may have been applied or not: `step` says which, after the next
    request.
    """

    def __init__(self, client: AsyncModelMethods, feed: OnlineFeed, timeout: float | None) -> None:
        super().__init__(feed)
        self._client = client
        self._timeout = timeout

    async def __aenter__(self) -> AsyncOnlineSession:
        await self._run(self._feed.start(), self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.finish()
        else:
            await self.detach()

    async def train_on_batch(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        learning_rate: float | None = None,
        timeout: float | None = None,
    ) -> Logs:
        """Train on one batch. Returns its losses and metrics, of the weights before the step.

        The arrays are those of `Client.train`, in one piece. `learning_rate` is set from this step on, unless the
        optimizer has a schedule.

        Raises InvalidArgument if the batch doesn't fit the model, or its loss or a weight after it is NaN or infinite
        (unless `on_nan` is "continue"): the model is then as before. Raises TakenOver if another client goes on with
        the session, and Unavailable if the connection is lost for about a minute.
        """
        return await self._run(self._feed.train(x, y, sample_weight, learning_rate), timeout)

    async def test_on_batch(self, x: Any, y: Any, sample_weight: Any = None, *, timeout: float | None = None) -> Logs:
        """Return losses and metrics of one batch. Changes nothing. Raises as `train_on_batch` does."""
        return await self._run(self._feed.test(x, y, sample_weight), timeout)

    async def predict_on_batch(self, x: Any, *, timeout: float | None = None) -> Array | dict[str, Array]:
        """Return the outputs for one batch: an array for a model with one output, a dict by name for several.

        Changes nothing. Raises as `train_on_batch` does.
        """
        return await self._run(self._feed.predict(x), timeout)

    async def save(self, *, timeout: float | None = None) -> int:
        """Write a checkpoint, and return the number of steps that it has. Steps are kept without it, too."""
        return await self._run(self._feed.save(), timeout)

    async def publish(self, *, timeout: float | None = None) -> int | None:
        """Publish the model as it is, and return its version; None if no step was applied yet.

        If no step was applied since the last version, returns that one. Raises FailedPrecondition if the repository
        can't be written or the version can't be loaded.
        """
        return await self._run(self._feed.publish(), timeout)

    async def finish(self, *, timeout: float | None = None) -> int | None:
        """End the session, and return the version that was published last. Does nothing if it has ended."""
        return await self._run(self._feed.finish(), timeout)

    async def detach(self) -> None:
        """Close the connection, and leave the session on the server."""
        await self._run(self._feed.detach())

    async def _run(self, flow: Flow[T], timeout: float | None = None) -> T:
        return await self._client._run(flow, timeout, keeps_stream=True)
