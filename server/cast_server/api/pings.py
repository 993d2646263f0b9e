"""Comments in a stream that has nothing to say, as proxies drop connections that are silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Message, Send


@asynccontextmanager
async def pinging(send: Send, seconds: float) -> AsyncIterator[Send]:
    """What to send events with; after every silence of so many seconds there is a comment. 0: none.

    A comment is sent whole and between two messages, so it never falls into an event.
    """
    if not seconds:
        yield send
        return
    latest = _Latest(asyncio.get_running_loop().time())

    async def sending(message: Message) -> None:
        latest.is_between = message.get("more_body", message["type"] == "http.response.start")
        await send(message)
        latest.time = asyncio.get_running_loop().time()

    task = asyncio.create_task(_ping(send, seconds, latest))
    try:
        yield sending
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Latest:
    """When something was sent, and whether more may follow."""

    def __init__(self, time: float) -> None:
        self.time, self.is_between = time, False


async def _ping(send: Send, seconds: float, latest: _Latest) -> None:
    now = asyncio.get_running_loop().time
    while True:
        if (left := latest.time + seconds - now()) > 0:
            await asyncio.sleep(left)
            continue
        if latest.is_between:
            await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
        latest.time = now()
