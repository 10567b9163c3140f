"""Readers of a run that stop waiting: the run's handle is still of use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
from layerserve import AsyncClient, TensorSpec
from layerserve.testing import FakeServer
from layerserve.training.events import RunFinished

X = [[1.0, 2.0, 3.0]]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        x, y = (TensorSpec(name, (None, 3), "float32") for name in "xy")
        fake.add_model("double", lambda values: {"y": 2 * values["x"]}, inputs=[x], outputs=[y])
        fake.hold_training()
        yield fake


def with_run(server: FakeServer, check: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncClient(server.address) as client:
            await asyncio.wait_for(check(await client.train("double", X, X, epochs=3)), 60)

    asyncio.run(main())


def test_a_reader_that_was_cancelled_is_followed_by_another(server: FakeServer) -> None:
    async def check(run):  # type: ignore[no-untyped-def]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(run.wait(), 0.3)
        server.release_training()
        await run.wait()
        assert run.state == "finished"
        assert run.history["loss"] == [1.0, 0.5, pytest.approx(1 / 3)]
        await run.wait()

    with_run(server, check)


def test_iterating_over_events_goes_on_after_a_cancellation(server: FakeServer) -> None:
    async def check(run):  # type: ignore[no-untyped-def]
        async def last() -> object:
            event = None
            async for event in run:  # noqa: B007
                pass
            return event

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(last(), 0.3)
        server.release_training()
        assert isinstance(await last(), RunFinished)

    with_run(server, check)


def test_two_readers_of_a_run_both_end_with_it(server: FakeServer) -> None:
    async def check(run):  # type: ignore[no-untyped-def]
        async def watch() -> int:
            return len([event async for event in run])

        asyncio.get_running_loop().call_later(0.3, server.release_training)
        await asyncio.gather(run.wait(), watch())
        assert run.state == "finished"

    with_run(server, check)
