"""An Engine that follows a script, for tests of the HTTP layer: what is under test is everything around it.

It keeps the contract of manylora.types.engine in token ids: stop tokens, limits, log-probabilities, aborts, adapters by content,
death and restart. Nothing in it is random or timed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from manylora.errors import AdapterNotFound, AdapterRejected, EngineDied, EngineStopped, ManyloraError, RequestError
from manylora.types.adapter import AdapterVersion
from manylora.types.engine import EngineInfo, EngineStats
from manylora.types.model import ModelShape
from manylora.types.request import Request, RequestOutput, TokenLogprob

Reply = Callable[[Request], Sequence[int]]


class ScriptedEngine:
    """`reply` gives the tokens of an answer; after them comes the end token, as often as it is asked for."""

    def __init__(self, reply: Reply, end_token: int, vocab: int, max_model_len: int = 256) -> None:
        self.reply = reply
        self.end_token = end_token
        self.vocab = vocab
        self.max_model_len = max_model_len
        self.running: dict[str, Request] = {}
        self.seen: list[Request] = []
        self.aborted: list[str] = []
        self.versions: dict[str, AdapterVersion] = {}
        self.fault: ManyloraError | Exception | None = None
        """Raised by every request before its first token."""
        self.pause_after: int | None = None
        """Tokens after which every request waits for `go`."""
        self.go = asyncio.Event()
        self.killed = asyncio.Event()
        self._ready = False
        self._stopped = False

    async def start(self) -> EngineInfo:
        self._ready = True
        shape = ModelShape("llama", self.vocab, 64, 128, 2, 4, 2, 16, self.max_model_len, 1e-5, 1e4)
        return EngineInfo(shape, self.max_model_len, 4096, "scripted", 1)

    async def stop(self) -> None:
        self._ready = False
        self._stopped = True
        self.killed.set()

    def die(self) -> None:
        """As if the process had been killed: every request in flight fails, and new ones until `revive`."""
        self._ready = False
        self.killed.set()

    def revive(self) -> None:
        self.killed = asyncio.Event()
        self._ready = True

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def stats(self) -> EngineStats:
        return EngineStats(running=len(self.running), kv_blocks_total=100, kv_blocks_used=len(self.running), steps=len(self.seen))

    async def generate(self, request: Request) -> AsyncIterator[RequestOutput]:
        self._check(request)
        self.seen.append(request)
        self.running[request.id] = request
        finished = False
        try:
            async for output in self._steps(request):
                finished = output.finish_reason is not None
                yield output
        finally:
            del self.running[request.id]
            if not finished:
                self.aborted.append(request.id)

    def _check(self, request: Request) -> None:
        if not self._ready:
            raise EngineDied("the engine is restarting")
        if self.fault is not None:
            raise self.fault
        if request.adapter is not None and request.adapter not in self.versions:
            raise AdapterNotFound(f"adapter {request.adapter[:12]} is not loaded")
        if len(request.prompt) + (request.sampling.max_tokens or 1) > self.max_model_len:
            raise RequestError("the request can never fit")

    async def _steps(self, request: Request) -> AsyncIterator[RequestOutput]:
        sampling = request.sampling
        tokens = list(self.reply(request))
        limit = sampling.max_tokens or self.max_model_len - len(request.prompt)
        for place in range(limit):
            if place == self.pause_after:
                await self._wait_to_go()
            await asyncio.sleep(0)
            if self.killed.is_set():
                raise EngineStopped("the server is stopping") if self._stopped else EngineDied("the engine process was killed")
            token = tokens[place] if place < len(tokens) else self.end_token
            stops = token in sampling.stop_token_ids and place >= sampling.min_tokens
            yield RequestOutput(
                id=request.id,
                tokens=[token],
                logprobs=None if sampling.logprobs is None else [self.score(token, place, sampling.logprobs)],
                prompt_logprobs=self._prompt_scores(request) if place == 0 else None,
                finish_reason="stop" if stops else "length" if place + 1 == limit else None,
                stop_token=token if stops else None,
                cached_tokens=len(request.prompt) // 2 if place == 0 else 0,
            )
            if stops:
                return

    async def _wait_to_go(self) -> None:
        waits = [asyncio.ensure_future(self.go.wait()), asyncio.ensure_future(self.killed.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def score(self, token: int, place: int, top: int) -> TokenLogprob:
        """A made-up but reproducible score: the chosen token first, then its neighbours."""
        first = -0.125 * (place % 8 + 1)
        return TokenLogprob(token, first, [((token + step) % self.vocab, first - step) for step in range(top)])

    def _prompt_scores(self, request: Request) -> list[TokenLogprob | None] | None:
        top = request.sampling.prompt_logprobs
        if top is None:
            return None
        return [None, *(self.score(token, place, top) for place, token in enumerate(request.prompt) if place)]

    async def load_adapter(self, path: Path) -> AdapterVersion:
        if not self._ready:
            raise EngineDied("the engine is restarting")
        await asyncio.sleep(0)
        try:
            content = (path / "adapter_config.json").read_bytes()
        except OSError as error:
            raise AdapterRejected(f"{path}: adapter_config.json cannot be read: {error}") from error
        if not content.startswith(b"{"):
            raise AdapterRejected(f"{path}: adapter_config.json is not JSON")
        digest = hashlib.sha256(content).hexdigest()
        version = AdapterVersion(digest, 1000 + len(content), (8, 16), ("q_proj",), 2, "base", ("made for tests",))
        return self.versions.setdefault(digest, version)

    async def unload_adapter(self, version: str) -> int:
        if version not in self.versions:
            raise AdapterNotFound(f"no adapter {version[:12]} is loaded")
        return self.versions.pop(version).bytes
