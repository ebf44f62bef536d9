"""Requests generated from the server's own OpenAPI document, against the real engine."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

from tests.end_to_end.live_server import LiveServer

ROUTES = [
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model}"),
    ("GET", "/health"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def document(shared_server: LiveServer) -> dict[str, Any]:
    """The document the server gives out, narrowed to names that it serves and to short answers, so that what is generated
    reaches the engine and does not stay there for long."""
    found: dict[str, Any] = shared_server.http.get("/openapi.json").json()
    for body in ("CompletionRequest", "ChatCompletionRequest"):
        schema = found["components"]["schemas"][body]
        schema["properties"]["model"]["enum"] = ["base", "all4", "mixed"]
        schema["properties"]["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 8}
        schema["properties"]["n"] = {"type": "integer", "minimum": 1, "maximum": 8}
        schema["required"] = [*schema["required"], "max_tokens"]
    found["components"]["schemas"]["ChatCompletionRequest"]["properties"].pop("max_completion_tokens")
    return found


def test_every_route_is_generated_for(document: dict[str, Any]) -> None:
    """A route that is added to the server is added below."""
    assert {(method.upper(), path) for path, methods in document["paths"].items() for method in methods} == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_generated_requests_never_fail_the_server(server: LiveServer, document: dict[str, Any], method: str, path: str) -> None:
    """Whatever the document allows is answered by the real engine without a 5xx; afterwards it serves as before."""
    expected = server.answer("all4")
    operation = schemathesis.openapi.from_dict(document)[path][method]

    @given(case=operation.as_strategy())
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def answered(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=server.url, checks=[not_a_server_error])

    answered()
    assert server.answer("all4") == expected


def test_generated_requests_reach_the_engine(server: LiveServer, document: dict[str, Any]) -> None:
    """The test above is no test of refusals alone."""
    before = server.metric("engine_prompt_tokens_total")
    operation = schemathesis.openapi.from_dict(document)["/v1/completions"]["POST"]

    @given(case=operation.as_strategy())
    @settings(max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def ask(case: schemathesis.Case) -> None:
        case.call(base_url=server.url)

    ask()
    assert server.metric("engine_prompt_tokens_total") > before
