"""What crosses the borders between server, engine and loader processes: plain values, one tagged message a frame."""

from __future__ import annotations

from pathlib import Path

import msgspec

from manylora import errors
from manylora.engine.config import EngineConfig
from manylora.engine.image import AdapterImage
from manylora.types.engine import EngineInfo, EngineStats
from manylora.types.model import ModelShape
from manylora.types.request import Request, RequestOutput


class Submit(msgspec.Struct, tag=True):
    """Server to engine: generate this."""

    request: Request


class Abort(msgspec.Struct, tag=True):
    """Server to engine: nobody waits for this any more."""

    id: str


class Attach(msgspec.Struct, tag=True):
    """Server to engine: make this adapter resident; answered by Attached."""

    image: AdapterImage


class Detach(msgspec.Struct, tag=True):
    """Server to engine: close this version, free it with its last request; answered by Detached."""

    version: str


class Progress(msgspec.Struct, tag=True):
    """Engine to server while it starts."""

    stage: str
    done: int
    total: int


class Ready(msgspec.Struct, tag=True):
    """Engine to server: requests may come. Images must be cut to `extent_bytes`."""

    info: EngineInfo
    extent_bytes: int


class Fault(msgspec.Struct):
    """An exception of the tree, on its way to another process."""

    kind: str
    message: str
    param: str | None = None

    @classmethod
    def of(cls, error: errors.ManyloraError) -> Fault:
        """The value that `raised` turns back into the exception."""
        return cls(type(error).__name__, str(error), getattr(error, "param", None))

    def raised(self) -> errors.ManyloraError:
        """The exception itself."""
        kind: type[errors.ManyloraError] = getattr(errors, self.kind)
        if kind is errors.RequestError:
            return errors.RequestError(self.message, self.param)
        return kind(self.message)


class StartFailed(msgspec.Struct, tag=True):
    """Engine to server: it will never be ready."""

    fault: Fault


class Refused(msgspec.Struct, tag=True):
    """Engine to server: this request was not taken."""

    id: str
    fault: Fault


class Stepped(msgspec.Struct, tag=True):
    """Engine to server, one a step: what it added to every request."""

    outputs: list[RequestOutput]
    stats: EngineStats


class Attached(msgspec.Struct, tag=True):
    """Engine to server: the adapter is resident, or why not."""

    version: str
    fault: Fault | None = None


class Detached(msgspec.Struct, tag=True):
    """Engine to server: the version's bytes are free again, or why not."""

    version: str
    bytes: int
    fault: Fault | None = None


class Prepare(msgspec.Struct, tag=True):
    """Server to loader: read, check and pack this adapter folder; answered by Prepared."""

    number: int
    path: Path


class Prepared(msgspec.Struct, tag=True):
    """Loader to server: the image, or why there is none."""

    number: int
    image: AdapterImage | None = None
    fault: Fault | None = None


class EngineStart(msgspec.Struct, tag=True):
    """Server to engine, first of all."""

    config: EngineConfig
    capability: str


class LoaderStart(msgspec.Struct, tag=True):
    """Server to loader, first of all."""

    shape: ModelShape
    extent_bytes: int
    images: Path
    """The folder to write to; the loader removes it when the server is gone."""
    base_name: str
    """What the served base is called, to compare with what an adapter's trainer recorded."""


ToEngine = EngineStart | Submit | Abort | Attach | Detach
FromEngine = Progress | Ready | StartFailed | Refused | Stepped | Attached | Detached
ToLoader = LoaderStart | Prepare
FromLoader = Prepared
Message = ToEngine | FromEngine | ToLoader | FromLoader
