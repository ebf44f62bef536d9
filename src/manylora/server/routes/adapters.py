"""vLLM's routes to load and unload adapters while serving, with its request and response shapes.

They exist only with --allow-runtime-adapters, and load only from below the --adapter-root folders."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from manylora.server.api.requests import LoadAdapterRequest, UnloadAdapterRequest
from manylora.server.body import StrictRoute
from manylora.server.routes.answering import VERSION_HEADER, service_of
from manylora.server.routes.documented import ERRORS

router = APIRouter(route_class=StrictRoute)
_ANSWERS = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 409: ERRORS[400], **ERRORS}


@router.post("/v1/load_lora_adapter", responses=_ANSWERS, response_class=Response)
async def load_lora_adapter(request: Request, body: LoadAdapterRequest) -> Response:
    """Loads a PEFT folder under a name. With `load_inplace` the name may exist; it then moves to the new content."""
    service = service_of(request)
    service.ready()
    path = service.lifecycle.below_roots(body.lora_path)
    adapter = await service.lifecycle.load(body.lora_name, path, replace=bool(body.load_inplace))
    text = f"Success: LoRA adapter '{body.lora_name}' added successfully."
    return PlainTextResponse(text, headers={VERSION_HEADER: adapter.version.hash})


@router.post("/v1/unload_lora_adapter", responses=_ANSWERS, response_class=Response)
async def unload_lora_adapter(request: Request, body: UnloadAdapterRequest) -> Response:
    """Removes a name at once. Requests under way still end with the version they began with; then its memory is freed."""
    service = service_of(request)
    service.lifecycle.unload(body.lora_name)
    service.metrics.forget(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")
