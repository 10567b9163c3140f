"""The asyncio client behind a blocking face, so that one test runs with both clients."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

BLOCKING = "blocking"
#: The test runs with each client. Only how their channels call differs, as `test_both_clients_do_the_same` compares
#: their other code: the mark is for one test of each kind of call, and of each way in which a call may end.
both_clients = pytest.mark.parametrize("client", [BLOCKING, "asyncio"], indirect=True)


class Blocking:
    """An AsyncClient, or what it returns or has, used as its blocking twin is."""

    def __init__(self, wrapped: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._wrapped = wrapped
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if inspect.isasyncgenfunction(value):
            return lambda *args, **kwargs: Blocking(value(*args, **kwargs), self._loop)
        if not inspect.iscoroutinefunction(value):
            return self._blocking(value)
        return lambda *args, **kwargs: self._blocking(self._loop.run_until_complete(value(*args, **kwargs)))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._loop.run_until_complete(self._wrapped(*args, **kwargs))

    def _blocking(self, value: Any) -> Any:
        return Blocking(value, self._loop) if type(value).__name__.startswith("Async") else value

    def __iter__(self) -> Iterator[Any]:
        iterator = self._wrapped.__aiter__()

        async def next_one() -> Any:
            return await anext(iterator, None)

        while (value := self._loop.run_until_complete(next_one())) is not None:
            yield value
