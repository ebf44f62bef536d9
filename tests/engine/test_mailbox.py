"""Where outputs wait for a slow consumer."""

from __future__ import annotations

import asyncio

import pytest

from manylora.engine.mailbox import Mailbox
from manylora.errors import EngineDied
from manylora.types.request import RequestOutput, TokenLogprob


def output(*tokens: int, **fields: object) -> RequestOutput:
    return RequestOutput("r", list(tokens), [TokenLogprob(token, -1.0) for token in tokens], **fields)  # type: ignore[arg-type]


def test_outputs_that_come_faster_than_they_are_read_are_merged_and_none_is_lost() -> None:
    """A slow client gets larger pieces, in order, with every log-probability and the finish reason."""

    async def main() -> None:
        mailbox = Mailbox()
        mailbox.put(output(1, prompt_logprobs=[None]))
        mailbox.put(output(2))
        mailbox.put(output(3, finish_reason="stop", stop_token=3))
        merged = await mailbox.get()
        assert merged == output(1, 2, 3, prompt_logprobs=[None], finish_reason="stop", stop_token=3)

    asyncio.run(main())


def test_an_error_comes_after_what_was_said_before_it() -> None:
    """Tokens that arrived before the engine died still reach the client."""

    async def main() -> None:
        mailbox = Mailbox()
        mailbox.put(output(1))
        mailbox.fail(EngineDied("gone"))
        assert (await mailbox.get()).tokens == [1]
        with pytest.raises(EngineDied):
            await mailbox.get()

    asyncio.run(main())
