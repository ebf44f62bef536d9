"""The process that renders the chat templates of adapters: `python -m manylora.server.template_worker`, orders on stdin.

A template is a program by a stranger. Jinja2's sandbox keeps it from Python's insides but not from taking all the time and memory
it can, so both are bounded by the kernel: a render that uses up its processor time ends this process, and one that wants more
memory than the process may have fails. The one who sends orders starts another process then."""

from __future__ import annotations

import json
import resource
import signal
import sys
from functools import lru_cache
from typing import Any, BinaryIO

from manylora.errors import RequestError
from manylora.server.chat_template import ChatTemplate

HEADER_BYTES = 4
RENDER_SECONDS = 1.0
"""Processor time of one order, so that a busy machine fails nobody. Real templates take about a thousandth of it."""
MEMORY_BYTES = 1 << 30
"""Address space of the whole process."""
WORN_BYTES = 256 << 20
"""A process that has grown past this is not used again, so that no template leaves too little memory to the next."""
MAX_REASON = 1000
"""Characters of a refusal, whose words may be the template's."""
MAX_TEXT = 4 << 20
"""Characters of a rendered conversation."""


def frame(message: dict[str, Any]) -> bytes:
    """An order or a reply on the wire: its length (4 bytes, little endian), then JSON, which keeps whatever a request can hold.

    Raises ValueError or RecursionError if it cannot be written."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(HEADER_BYTES, "little") + body


@lru_cache(maxsize=64)
def _compiled(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens))


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    """{"text"}, or {"invalid": reason} for a source that is no template, or {"refused": reason, "param"}."""
    try:
        template = _compiled(order["source"], tuple(order["special_tokens"].items()))
        messages = order.get("messages")
        text = "" if messages is None else template.render(messages, **order["options"])
    except ValueError as error:
        return {"invalid": str(error)[:MAX_REASON]}
    except RequestError as error:
        return {"refused": str(error)[:MAX_REASON], "param": error.param}
    if len(text) > MAX_TEXT:
        return {"refused": f"the chat template makes {len(text)} characters of it, the limit is {MAX_TEXT}", "param": "messages"}
    return {"text": text}


def _serve(orders: BinaryIO, replies: BinaryIO) -> None:
    while len(header := orders.read(HEADER_BYTES)) == HEADER_BYTES:
        body = orders.read(int.from_bytes(header, "little"))
        signal.setitimer(signal.ITIMER_PROF, RENDER_SECONDS)
        reply = _answer(json.loads(body))
        signal.setitimer(signal.ITIMER_PROF, 0)
        worn = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 > WORN_BYTES
        replies.write(frame({**reply, "last": worn}))
        replies.flush()


def main() -> None:
    """Answers orders until stdin closes."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, whatever it is doing
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
