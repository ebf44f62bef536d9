"""A server process as an operator starts it, and what a client or an operator can do with it."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil

from manylora.loadgen.server_process import free_port, serving

PATIENCE = 60.0
"""Seconds after which something that should happen at once has not happened."""


@dataclass
class LiveServer:
    """A running server. `http` is a client of its own."""

    url: str
    pid: int
    log: Path
    http: httpx.Client

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return self.http.post(path, json=body)

    def complete(self, model: str, prompt: Any = "The quick", **body: Any) -> dict[str, Any]:
        """The completion's whole body: greedy and with log-probabilities unless told otherwise."""
        response = self.post("/v1/completions", completion(model, prompt, **body))
        assert response.status_code == 200, response.text
        return dict(response.json())

    def answer(self, model: str, prompt: Any = "The quick", **body: Any) -> dict[str, Any]:
        """What the first choice says, bit for bit."""
        return said(self.complete(model, prompt, **body)["choices"][0])

    def load(self, name: str, path: Path | str, **body: Any) -> httpx.Response:
        return self.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path), **body})

    def unload(self, name: str) -> httpx.Response:
        return self.post("/v1/unload_lora_adapter", {"lora_name": name})

    def names(self) -> list[str]:
        return [card["id"] for card in self.http.get("/v1/models").json()["data"]]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of all samples of `manylora:name` that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = self.http.get("/metrics").text.splitlines()
        own = [line for line in lines if line.split("{")[0].split(" ")[0] == f"manylora:{name}"]
        return sum(float(line.rsplit(" ", 1)[1]) for line in own if all(label in line for label in wanted))

    def fresh_metric(self, name: str) -> float:
        """The same, right after a step: the engine's own numbers come with its steps."""
        assert self.complete("base", [1], max_tokens=1)
        return self.metric(name)

    def engine(self) -> psutil.Process:
        """The engine process, found as an operator would: by its command line, under the server."""
        (found,) = [child for child in self.children() if child.cmdline()[1:4] == ["-m", "manylora.engine.process", "engine"]]
        return found

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    @contextlib.contextmanager
    def engine_paused(self) -> Iterator[None]:
        """Nothing is computed inside the block: what is under way stays under way. The engine may be killed in it."""
        engine = self.engine()
        engine.suspend()
        try:
            yield
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.resume()

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)

    def async_openai(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE)


class EventStream:
    """A streamed completion whose first event has come. Leaving the block closes its connection."""

    def __init__(self, server: LiveServer, body: dict[str, Any]) -> None:
        self._client = httpx.Client(base_url=server.url, timeout=PATIENCE)
        self._context = self._client.stream("POST", "/v1/completions", json=body | {"stream": True})
        self.events: list[dict[str, Any]] = []
        self.done = False

    def __enter__(self) -> EventStream:
        self.response = self._context.__enter__()
        self._lines = lines_of(self.response)
        self.next()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)
        self._client.close()

    def next(self) -> bool:
        """Reads one event; False when there is no more."""
        for line in self._lines:
            if line == "data: [DONE]":
                self.done = True
            elif line.startswith("data: "):
                self.events.append(json.loads(line[6:]))
                return True
        return False

    def rest(self) -> list[dict[str, Any]]:
        """Reads to the end; all events."""
        while self.next():
            pass
        return self.events

    def text(self) -> str:
        """The whole text, after reading to the end."""
        return "".join(choice["text"] for event in self.rest() for choice in event.get("choices", []))


def lines_of(response: httpx.Response) -> Iterator[str]:
    """Lines as event streams have them. httpx' own also end at characters that a JSON text may hold, as U+2028 and U+0085."""
    rest = ""
    for text in response.iter_text():
        *lines, rest = (rest + text).split("\n")
        yield from lines
    yield rest


def completion(model: str, prompt: Any = "The quick", **body: Any) -> dict[str, Any]:
    """A request body: greedy, 12 tokens, with log-probabilities, never ended early, unless told otherwise."""
    defaults = {"max_tokens": 12, "temperature": 0, "logprobs": 3, "ignore_eos": True}
    return {"model": model, "prompt": prompt, **defaults, **body}


def said(choice: dict[str, Any]) -> dict[str, Any]:
    """What must be equal when two answers are: text, every log-probability, how it ended."""
    return {key: choice[key] for key in ("text", "logprobs", "finish_reason")}


def until(condition: Callable[[], bool], what: str) -> None:
    """Returns when the condition holds; fails with `what` if it does not in a long time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


def in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Starts `work` in a thread; calling what is returned waits for its result, or raises its error."""
    box: dict[str, Any] = {}

    def run() -> None:
        try:
            box["result"] = work()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=run)
    thread.start()

    def join() -> Any:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the work in the background did not end"
        if "error" in box:
            raise box["error"]
        return box["result"]

    return join


def command(model: Path, *options: object) -> list[str]:
    """The command line of a server."""
    return [sys.executable, "-m", "manylora", "serve", str(model), *map(str, options)]


@contextlib.contextmanager
def start(model: Path, log: Path, *options: object) -> Iterator[LiveServer]:
    """A server on a free port, until the block ends."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        serving(command(model, "--port", port, *options), url, log) as process,
        httpx.Client(base_url=url, timeout=PATIENCE) as client,
    ):
        yield LiveServer(url, process.pid, log, client)
