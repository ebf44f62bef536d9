"""vLLM's routes to load and unload adapters while serving, with its request and response shapes.

They work only with --allow-runtime-adapters, and load only from below the --adapter-root folders."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from manylora.errors import AdapterNotFound
from manylora.server.api.requests import LoadAdapterRequest, UnloadAdapterRequest
from manylora.server.body import StrictRoute
from manylora.server.error_map import InvalidRequest, cut
from manylora.server.registry import MAX_NAME
from manylora.server.routes.answering import VERSION_HEADER, service_of
from manylora.server.routes.documented import ERRORS

router = APIRouter(route_class=StrictRoute)
switched_off = APIRouter(include_in_schema=False)
"""The same routes on a server that does not allow them."""
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
    try:
        service.lifecycle.unload(body.lora_name)
    except AdapterNotFound as error:
        message = f"The lora adapter '{cut(body.lora_name, MAX_NAME)}' cannot be found."
        raise InvalidRequest(message, "lora_name", code="model_not_found", status=404) from error
    service.metrics.forget(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


@switched_off.post("/v1/load_lora_adapter")
@switched_off.post("/v1/unload_lora_adapter")
async def refuse() -> Response:
    """Says how to switch them on."""
    raise InvalidRequest(
        "adapters are not loaded or unloaded at run time here: start the server with --allow-runtime-adapters and --adapter-root",
        code="not_found",
        status=404,
    )
