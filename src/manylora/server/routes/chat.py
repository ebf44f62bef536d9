"""POST /v1/chat/completions."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from manylora.server.api.requests import ChatCompletionRequest
from manylora.server.api.responses import ChatCompletionResponse
from manylora.server.body import StrictRoute
from manylora.server.generation import Generation, Sequence
from manylora.server.prompts import tokenize
from manylora.server.registry import Lease
from manylora.server.routes.answering import Prepared, answer, check_size, service_of
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
    service = service_of(request)
    service.ready()
    lease = service.registry.resolve(body.model)
    try:
        prepared = await _prepare(service, lease, body)
    except BaseException:
        lease.release()
        raise
    return await answer(request, service, lease, prepared)


async def _prepare(service: Service, lease: Lease, body: ChatCompletionRequest) -> Prepared:
    n = body.n or 1
    check_size(service, 1, n)
    sampling = sampling_params(body, service.base)
    text = service.base.template_for(lease.adapter).render(
        [message.for_template() for message in body.messages],
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=bool(body.continue_final_message),
        variables=body.chat_template_kwargs,
    )
    # The template writes the special tokens itself.
    prompt = await tokenize(text, service.base, add_special_tokens=bool(body.add_special_tokens))
    room = token_budget(body).fit(len(prompt.tokens), service.loaded().max_model_len)
    envelope = Envelope(ChatWriter.whole_kind if not body.stream else ChatWriter.chunk_kind, "chatcmpl", lease)
    generation = Generation(envelope.id, lease.version, [Sequence(prompt.tokens, room)], sampling, n)
    writer = ChatWriter(envelope, service.base.tokens, choices=n, scored=bool(body.logprobs))
    return Prepared(body, envelope, generation, writer)
