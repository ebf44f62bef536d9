"""A closed loop: a fixed number of requests in flight; as one ends, the next is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import aiohttp

from manylora.loadgen.client import LoadRequest, LoadResult, ignore, stream_answer

TIMEOUT_SECONDS = 1800.0


async def run_closed_loop(
    url: str, requests: Sequence[LoadRequest], concurrency: int, on_result: Callable[[LoadResult], None] = ignore
) -> list[LoadResult]:
    """Every request's result, in the order of the requests."""
    queue = list(enumerate(requests))[::-1]
    results: dict[int, LoadResult] = {}

    async def worker(session: aiohttp.ClientSession) -> None:
        while queue:
            number, request = queue.pop()
            results[number] = await stream_answer(session, url, request)
            on_result(results[number])

    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    # A connection for each request: some servers close a kept one just as it is used again.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(worker(session) for _ in range(concurrency)))
    return [results[number] for number in range(len(requests))]
