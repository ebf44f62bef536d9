"""POST /v1/completions."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from manylora.server.api.requests import CompletionRequest
from manylora.server.api.responses import CompletionResponse
from manylora.server.base_model import BaseModel
from manylora.server.body import StrictRoute
from manylora.server.generation import Generation, Sequence
from manylora.server.prompts import TokenPrompt, token_prompts
from manylora.server.registry import Lease
from manylora.server.routes.answering import Prepared, answer, check_size
from manylora.server.routes.documented import ERRORS, streamed
from manylora.server.sampling import sampling_params, token_budget
from manylora.server.service import Service
from manylora.server.text.detokenize import Detokenizer
from manylora.server.wire.completion import CompletionWriter, Echo
from manylora.server.wire.envelope import Envelope

router = APIRouter(route_class=StrictRoute)


@router.post("/v1/completions", responses={200: streamed(CompletionResponse, "CompletionResponse"), **ERRORS})
async def create_completion(request: Request, body: CompletionRequest) -> Response:
    """Continues each prompt."""
    return await answer(request, body, _prepare)


async def _prepare(service: Service, lease: Lease, body: CompletionRequest) -> Prepared:
    n = body.n or 1
    check_size(service, len(body.prompt), n)
    sampling = sampling_params(body, service.base)
    info, budget, special = service.loaded(), token_budget(body), body.add_special_tokens is not False
    limit = info.max_model_len
    prompts = await token_prompts(body.prompt, service.base, add_special_tokens=special, limit=limit)
    sequences = [Sequence(prompt.tokens, budget.fit(len(prompt.tokens), limit)) for prompt in prompts]
    echoes: list[Echo] = []
    if body.echo:
        skip = body.skip_special_tokens is not False
        echoes = [await asyncio.to_thread(_echo, prompt, service.base, skip) for prompt in prompts]
    envelope = Envelope("text_completion", "cmpl", lease, info.quantization)
    generation = Generation(envelope.id, lease.version, sequences, sampling, n)
    prompt_only = body.max_tokens == 0
    writer = CompletionWriter(
        envelope,
        service.base.tokens,
        choices=len(prompts) * n,
        per_prompt=n,
        echoes=echoes,
        prompt_only=prompt_only,
    )
    return Prepared(body, envelope, generation, writer)


def _echo(prompt: TokenPrompt, base: BaseModel, skip_special: bool) -> Echo:
    """The prompt as text with the place of each token; a prompt that came as text is repeated to the letter."""
    detokenizer = Detokenizer(base.tokens, skip_special=skip_special, at_start=True)
    offsets, parts, length = [], [], 0
    for token in prompt.tokens:
        offsets.append(length)
        parts.append(detokenizer.push(token))
        length += len(parts[-1])
    parts.append(detokenizer.finish())
    text = "".join(parts) if prompt.text is None else prompt.text
    return Echo(text, prompt.tokens, [min(offset, len(text)) for offset in offsets])
