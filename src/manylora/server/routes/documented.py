"""What the OpenAPI document says of answers, beyond what the routes' types say."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from manylora.server.api.responses import ErrorResponse

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The request is at fault; `param` names the field."},
    404: {"model": ErrorResponse, "description": "No such model."},
    413: {"model": ErrorResponse, "description": "The body is too large."},
    415: {"model": ErrorResponse, "description": "The body is not application/json."},
    429: {"model": ErrorResponse, "description": "Too much work at once; see Retry-After."},
    500: {"model": ErrorResponse, "description": "A fault of the server."},
    503: {"model": ErrorResponse, "description": "The engine is loading or restarting; see Retry-After."},
}
"""Every failure is an OpenAI error object."""


def streamed(whole: type[BaseModel], chunk: str) -> dict[str, Any]:
    """An answer that is one JSON object, or with `stream: true` server-sent events of the schema `chunk`."""
    return {
        "model": whole,
        "description": f"The answer; with stream: true, server-sent events, each a {chunk}, then [DONE].",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "headers": {
            "x-manylora-adapter-version": {
                "description": "Hash of the adapter version that answered, or `base`.",
                "schema": {"type": "string"},
            }
        },
    }
