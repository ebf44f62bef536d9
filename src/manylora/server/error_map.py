"""Every exception that can reach a client, and the HTTP answer it becomes. The only such table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.responses import Response

from manylora.errors import (
    AdapterConflict,
    AdapterNotFound,
    AdapterRejected,
    AdapterUnavailable,
    EngineDied,
    EngineStopped,
    ManyloraError,
    Overloaded,
    RequestAborted,
    RequestError,
)


class NotReady(ManyloraError):
    """The server is up but cannot answer yet: the engine is loading or restarting."""


class InvalidRequest(RequestError):
    """A caller fault with a status or a code of its own."""

    def __init__(self, message: str, param: str | None = None, *, code: str | None = None, status: int = 400) -> None:
        super().__init__(message, param)
        self.code = code or "invalid_value"
        self.status = status


def too_long(message: str, param: str) -> InvalidRequest:
    """The fault of a prompt that the model's context cannot take."""
    return InvalidRequest(message, param, code="context_length_exceeded")


@dataclass(frozen=True, slots=True)
class HttpError:
    """An OpenAI error object with its HTTP status."""

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | None = None
    retry_after: int | None = None
    """Seconds."""

    def body(self) -> bytes:
        """The error object as JSON."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """The whole HTTP response."""
        extra = dict(headers or {})
        if self.retry_after is not None:
            extra["Retry-After"] = str(self.retry_after)
        return Response(self.body(), self.status, extra, "application/json")


_CALLER, _SERVER = "invalid_request_error", "server_error"

_TABLE: tuple[tuple[type[ManyloraError], dict[str, Any]], ...] = (
    (AdapterNotFound, {"status": 404, "type": _CALLER, "param": "model", "code": "model_not_found"}),
    (AdapterRejected, {"status": 400, "type": _CALLER, "param": "lora_path", "code": "adapter_rejected"}),
    (AdapterConflict, {"status": 409, "type": _CALLER, "param": "lora_name", "code": "adapter_conflict"}),
    (AdapterUnavailable, {"status": 503, "type": _SERVER, "param": "model", "code": "adapter_unavailable", "retry_after": 1}),
    (Overloaded, {"status": 429, "type": "rate_limit_error", "code": "overloaded", "retry_after": 1}),
    (EngineStopped, {"status": 503, "type": _SERVER, "code": "server_stopping", "retry_after": 2}),
    (EngineDied, {"status": 503, "type": _SERVER, "code": "engine_died", "retry_after": 2}),
    (NotReady, {"status": 503, "type": _SERVER, "code": "not_ready", "retry_after": 2}),
    (RequestAborted, {"status": 503, "type": _SERVER, "code": "request_aborted", "retry_after": 1}),
)


def to_http(error: BaseException) -> HttpError:
    """The HTTP answer for any exception. What is not known here is a 500 that tells the client nothing of the inside."""
    message = str(error)
    if isinstance(error, InvalidRequest):
        return HttpError(error.status, message, _CALLER, error.param, error.code)
    if isinstance(error, RequestError):
        return HttpError(400, message, _CALLER, error.param, "invalid_value")
    for kind, how in _TABLE:
        if isinstance(error, kind):
            return HttpError(message=message, **how)
    if isinstance(error, ManyloraError):
        return HttpError(500, message, _SERVER, code="internal_error")
    return HttpError(500, "Internal server error; the server's log has the details", _SERVER, code="internal_error")


_CODES = {
    400: "invalid_value",
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


def cut(text: str, length: int = 200) -> str:
    """What a client sent, as an answer may repeat it: short."""
    return text if len(text) <= length else f"{text[:length]}… ({len(text)} characters)"


def from_status(status: int, detail: str) -> HttpError:
    """The error object for a plain HTTP failure (no such route, wrong method, wrong content type)."""
    return HttpError(status, detail, _CALLER if status < 500 else _SERVER, code=_CODES.get(status))


def from_validation(errors: list[Any]) -> HttpError:
    """The error object for pydantic's complaints: the first, with the field as a dotted path."""
    first = errors[0]
    context = first.get("ctx") or {}
    path = [str(part) for part in first["loc"] if part != "body"]
    param = cut(".".join([*path, context["param"]] if "param" in context else path)) or None
    kind = first["type"]
    if kind == "extra_forbidden":
        return HttpError(400, f"Unknown parameter: {param!r}", _CALLER, param, "unknown_parameter")
    if kind == "missing":
        what = f"Missing required parameter: {param!r}" if param else "The request needs a JSON body"
        return HttpError(400, what, _CALLER, param, "missing_required_parameter")
    if kind == "no_object":
        return HttpError(400, f"{param or 'the body'} must be a JSON object", _CALLER, param, "invalid_value")
    message = first["msg"]
    if param and param not in message:
        message = f"{param}: {message}"
    code = "unsupported_parameter" if kind == "unsupported_parameter" else "invalid_value"
    return HttpError(400, message, _CALLER, param, code)
