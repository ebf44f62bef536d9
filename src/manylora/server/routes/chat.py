"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from manylora.errors import RequestError
from manylora.server.api.requests import ChatCompletionRequest
from manylora.server.api.responses import ChatCompletionResponse
from manylora.server.body import StrictRoute
from manylora.server.generation import Generation, Sequence
from manylora.server.prompts import check_characters, tokenize
from manylora.server.registry import Lease, NamedAdapter
from manylora.server.routes.answering import Prepared, answer, check_size
from manylora.server.routes.documented import ERRORS, streamed
from manylora.server.sampling import sampling_params, token_budget
from manylora.server.service import Service
from manylora.server.wire.chat import ChatWriter
from manylora.server.wire.envelope import Envelope

router = APIRouter(route_class=StrictRoute)


@router.post(
    "/v1/chat/completions",
    responses={200: streamed(ChatCompletionResponse, "ChatCompletionChunk"), **ERRORS},
)
async def create_chat_completion(request: Request, body: ChatCompletionRequest) -> Response:
    """Answers a conversation, written out by the adapter's own chat template if it brought one, else by the base model's."""
    return await answer(request, body, _prepare)


async def _prepare(service: Service, lease: Lease, body: ChatCompletionRequest) -> Prepared:
    n = body.n or 1
    check_size(service, 1, n)
    sampling = sampling_params(body, service.base)
    info = service.loaded()
    limit = info.max_model_len
    check_characters(body.characters, service.base, limit, "messages")
    text = await _text(service, lease.adapter, body)
    # The template writes the special tokens itself.
    special = bool(body.add_special_tokens)
    prompt = await tokenize(text, service.base, add_special_tokens=special, limit=limit, param="messages")
    room = token_budget(body).fit(len(prompt.tokens), limit)
    kind = ChatWriter.whole_kind if not body.stream else ChatWriter.chunk_kind
    envelope = Envelope(kind, "chatcmpl", lease, info.quantization)
    generation = Generation(envelope.id, lease.version, [Sequence(prompt.tokens, room)], sampling, n)
    writer = ChatWriter(envelope, service.base.tokens, choices=n, scored=bool(body.logprobs))
    return Prepared(body, envelope, generation, writer)


async def _text(service: Service, adapter: NamedAdapter | None, body: ChatCompletionRequest) -> str:
    """The conversation by the adapter's own template if it brought one, else by the base model's. Raises RequestError.

    The base model's is trusted and rendered here; most adapters bring a copy of it, for which the same holds."""
    messages = [message.for_template() for message in body.messages]
    options: dict[str, Any] = {
        "add_generation_prompt": body.add_generation_prompt is not False,
        "continue_final_message": bool(body.continue_final_message),
        "variables": body.chat_template_kwargs,
    }
    trusted = service.base.template
    own = None if adapter is None else adapter.chat_template
    if own is not None and (trusted is None or own != trusted.source):
        return await service.templates.render(own, service.base.special_tokens, messages, options)
    if trusted is None:
        raise RequestError("this model has no chat template; use /v1/completions", "messages")
    return trusted.render(messages, **options)
