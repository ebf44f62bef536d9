"""Every exception manylora raises on purpose. One tree; the server maps it to HTTP in one place.

ManyloraError
├── ConfigError             an option, file or environment variable makes no sense (fatal at start)
├── ModelError              the base model cannot be read or is not supported
├── AdapterError            something about one adapter
│   ├── AdapterRejected     its bytes fail validation: said why, by name, and never half loaded
│   ├── AdapterNotFound     no adapter of that name or version
│   ├── AdapterConflict     the name is taken by other content, or is in use
│   └── AdapterUnavailable  known, but cannot answer now; retrying later may help
├── RequestError            the caller's request is at fault; `param` names the field
├── Overloaded              a limit is reached; retrying later may help
├── EngineDied              the engine process ended while the request was in flight
│   └── EngineStopped       it was told to: the server is stopping
├── RequestAborted          the caller went away or gave up
└── LoadFailed              a server under measurement did not answer a request as it was asked to
"""

from __future__ import annotations


class ManyloraError(Exception):
    """Root of the tree. The message is one line that says what is wrong and how to fix it."""


class ConfigError(ManyloraError):
    """An option, file or environment variable makes no sense."""


class ModelError(ManyloraError):
    """The base model cannot be read or is not supported."""


class AdapterError(ManyloraError):
    """Something about one adapter."""


class AdapterRejected(AdapterError):
    """The adapter's bytes fail validation."""


class AdapterNotFound(AdapterError):
    """No adapter has that name or version."""


class AdapterConflict(AdapterError):
    """The name is taken by other content, or the adapter is in use."""


class AdapterUnavailable(AdapterError):
    """The adapter is known but cannot answer now; a later try may succeed."""


class RequestError(ManyloraError):
    """The caller's request is at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class Overloaded(ManyloraError):
    """A limit is reached; a later try may succeed."""


class EngineDied(ManyloraError):
    """The engine process ended while the request was in flight."""


class EngineStopped(EngineDied):
    """The server is stopping, and the request was still in flight."""


class RequestAborted(ManyloraError):
    """The caller went away or gave up."""


class LoadFailed(ManyloraError):
    """A server under measurement failed a request, or answered it at another length than was asked for."""
