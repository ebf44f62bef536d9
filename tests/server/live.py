"""A real server in a thread: uvicorn on a free loopback port, the real application, a scripted engine."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from manylora.server.app import create_app
from manylora.server.base_model import BaseModel
from manylora.server.config import ServerConfig
from manylora.server.service import Service
from manylora.types.request import Request

from .scripted_engine import ScriptedEngine
from .tiny_tokenizers import END, byte_level

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
REPLY = " The quick brown fox: naïve 🙂 ok."


def fixed_reply(text: str) -> Callable[[Request], list[int]]:
    """Every answer is this text."""
    tokens = byte_level().encode(text).ids
    return lambda request: tokens


def base_model(root: Path, template: str | None = CHATML) -> BaseModel:
    """The byte-level tokenizer as a base model."""
    tokenizer = byte_level()
    end = tokenizer.token_to_id(END)
    return BaseModel.create(
        root,
        tokenizer,
        eos_token_ids=(end,),
        vocab=tokenizer.get_vocab_size(),
        special_tokens={"eos_token": END},
        chat_template=template,
    )


@dataclass
class Live:
    """A running server. `call` runs a function on its event loop's thread and returns its result."""

    url: str
    service: Service
    engine: ScriptedEngine
    loop: asyncio.AbstractEventLoop

    def call(self, function: Callable[[], Any]) -> Any:
        async def run() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(timeout=20)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Lets the server's loop run until the condition holds there; fails after some thousand turns of 5 ms."""

        async def wait() -> None:
            for _ in range(4000):
                if condition():
                    return
                await asyncio.sleep(0.005)
            raise AssertionError("the condition never held")

        self.call(wait)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20)

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=body)


def make_service(root: Path, config: ServerConfig) -> tuple[Service, ScriptedEngine]:
    """A service over a scripted engine, not started. Call on the event loop that will run it."""
    base = base_model(root)
    engine = ScriptedEngine(fixed_reply(REPLY), base.eos_token_ids[0], base.vocab)
    return Service.create(config, engine, base), engine


@contextmanager
def serve(root: Path, config: ServerConfig) -> Iterator[Live]:
    """The server, until the block ends."""
    started: threading.Event = threading.Event()
    box: dict[str, Any] = {}

    async def run(listener: socket.socket) -> None:
        service, engine = make_service(root, config)
        service.info = await engine.start()
        app = create_app(service)
        server = uvicorn.Server(uvicorn.Config(app, loop="uvloop", http="httptools", log_config=None, lifespan="off"))
        server.capture_signals = contextless  # type: ignore[method-assign]
        box.update(service=service, engine=engine, loop=asyncio.get_running_loop(), server=server)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:  # noqa: ASYNC110 - uvicorn offers no event
            await asyncio.sleep(0.001)
        started.set()
        await serving
        await service.close()
        await engine.stop()

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(run(listener)), name="server")
    thread.start()
    try:
        assert started.wait(20), "the server did not start"
        yield Live(f"http://127.0.0.1:{port}", box["service"], box["engine"], box["loop"])
    finally:
        box["server"].should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def contextless() -> Iterator[None]:
    """Signals belong to the test runner."""
    yield
