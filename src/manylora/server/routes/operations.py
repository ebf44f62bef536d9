"""GET /health and GET /metrics: for probes and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from manylora.server.api.responses import Health
from manylora.server.routes.answering import service_of
from manylora.server.routes.documented import ERRORS

router = APIRouter()


@router.head("/health", include_in_schema=False)
@router.get("/health", responses={200: {"model": Health}, 503: ERRORS[503]})
async def health(request: Request) -> Response:
    """200 when a request sent now would be served."""
    service_of(request).ready()
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """Prometheus text format; `manylora.metrics.server` defines every metric."""
    return Response(service_of(request).metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})
