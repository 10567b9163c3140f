"""Requests of a stream that are added while it is open."""

from __future__ import annotations

import asyncio
import threading

import pytest
from layerserve.calls.outbox import Outbox


def read_in_a_thread(put):
    outbox = Outbox()
    found = []
    reader = threading.Thread(target=lambda: found.extend(outbox))
    reader.start()
    put(outbox)
    reader.join(20)
    assert not reader.is_alive()
    return found


def read_in_a_task(put):
    async def read():
        outbox = Outbox()

        async def collected():
            return [message async for message in outbox]

        reader = asyncio.ensure_future(collected())
        await asyncio.sleep(0)  # it waits for a message
        put(outbox)
        return await asyncio.wait_for(reader, 20)

    return asyncio.run(read())


@pytest.mark.parametrize("read", [read_in_a_thread, read_in_a_task])
@pytest.mark.parametrize("messages", [[], [1, 2, 3]])
def test_a_reader_that_waits_gets_all_messages_and_the_end(read, messages):
    def put(outbox):
        for message in messages:
            outbox.put(message)
        outbox.close()

    assert read(put) == messages
