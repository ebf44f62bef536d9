"""The OpenAPI document is complete, and whatever can be generated from it is answered as it says, never by a 5xx."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from manylora.server.app import create_app
from manylora.server.config import ServerConfig

from .live import Live, make_service


def offered() -> dict[str, Any]:
    """The document of a server with every route, adapter routes included."""
    here = Path(__file__).parent
    config = ServerConfig(allow_runtime_adapters=True, adapter_roots=(here,))
    return create_app(make_service(here, config)[0]).openapi()


schema = schemathesis.openapi.from_dict(offered())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@schema.parametrize()
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_generated_requests(case: Case, live: Live) -> None:
    """Valid and invalid requests generated from the document get documented answers."""
    case.call_and_validate(base_url=live.url, checks=CHECKS)


def test_document_is_complete(live: Live) -> None:
    """Every route, field and chunk type that clients use is in the document; FastAPI's 422, which never happens, is not."""
    with live.client() as client:
        document = client.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/v1/models", "/health", "/metrics"} <= set(document["paths"])
    assert {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"} <= set(document["paths"])
    schemas = document["components"]["schemas"]
    assert "ChatCompletionChunk" in schemas
    assert {"logit_bias", "stop", "min_p", "echo", "prompt"} <= set(schemas["CompletionRequest"]["properties"])
    assert "HTTPValidationError" not in schemas
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
