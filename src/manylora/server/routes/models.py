"""GET /v1/models: the base model and every adapter, by the names that requests may use."""

from __future__ import annotations

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from manylora.server.api.responses import ModelCard, ModelList
from manylora.server.registry import NamedAdapter, unknown_model
from manylora.server.routes.answering import service_of
from manylora.server.routes.documented import ERRORS
from manylora.server.service import Service

router = APIRouter()
_STARTED = int(time.time())


def _base_card(service: Service, name: str) -> ModelCard:
    merged = service.registry.merged
    return ModelCard(
        id=name,
        object="model",
        created=_STARTED,
        owned_by="manylora",
        root=str(service.base.root),
        parent=None,
        max_model_len=service.loaded().max_model_len,
        version=None if merged is None else merged.hash,
        ranks=[] if merged is None else list(merged.ranks),
        bytes=None,
        warnings=[] if merged is None else list(merged.warnings),
    )


def _adapter_card(service: Service, name: str, adapter: NamedAdapter) -> ModelCard:
    version = adapter.version
    return ModelCard(
        id=name,
        object="model",
        created=adapter.created,
        owned_by="manylora",
        root=str(adapter.path),
        parent=service.registry.base_names[0],
        max_model_len=service.loaded().max_model_len,
        version=version.hash,
        ranks=list(version.ranks),
        bytes=version.bytes,
        warnings=list(version.warnings),
    )


def _cards(service: Service) -> list[ModelCard]:
    base = [_base_card(service, name) for name in service.registry.base_names]
    return base + [_adapter_card(service, name, adapter) for name, adapter in service.registry.adapters()]


@router.get("/v1/models", responses={200: {"model": ModelList}, 503: ERRORS[503]})
async def list_models(request: Request) -> Response:
    """Every name that can be asked, the base model's first."""
    listing = ModelList(object="list", data=_cards(service_of(request)))
    return Response(listing.model_dump_json(), media_type="application/json")


@router.get("/v1/models/{model}", responses={200: {"model": ModelCard}, 404: ERRORS[404], 503: ERRORS[503]})
async def get_model(request: Request, model: str) -> Response:
    """One of them."""
    for card in _cards(service_of(request)):
        if card.id == model:
            return Response(card.model_dump_json(), media_type="application/json")
    raise unknown_model(model)
