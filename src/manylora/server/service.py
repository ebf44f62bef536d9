"""What every route works with. One per server; knows nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from manylora.metrics.server import ServerMetrics
from manylora.server.base_model import BaseModel
from manylora.server.config import ServerConfig
from manylora.server.error_map import NotReady
from manylora.server.lifecycle import AdapterLifecycle
from manylora.server.registry import Registry
from manylora.server.template_process import TemplateProcess
from manylora.types.engine import Engine, EngineInfo


@dataclass
class Service:
    """The engine and all that stands around it. `info` is None until the engine has started and the adapters are loaded."""

    config: ServerConfig
    engine: Engine
    base: BaseModel
    registry: Registry
    lifecycle: AdapterLifecycle
    templates: TemplateProcess
    metrics: ServerMetrics
    info: EngineInfo | None = None

    @classmethod
    def create(cls, config: ServerConfig, engine: Engine, base: BaseModel) -> Service:
        """A service whose engine is yet to be started."""
        registry = Registry(config.served_model_names or (base.root.resolve().name,), base.merged)
        templates = TemplateProcess()
        lifecycle = AdapterLifecycle(engine, registry, templates, config.adapter_roots)
        return cls(config, engine, base, registry, lifecycle, templates, ServerMetrics(lambda: engine.stats))

    async def close(self) -> None:
        """Gives up what waits, and ends every process but the engine's, whose end is the caller's."""
        await self.lifecycle.close()
        await self.templates.close()

    def loaded(self) -> EngineInfo:
        """What the engine can do. Raises NotReady until it has started and the adapters are loaded."""
        if self.info is None:
            raise NotReady("the server is still loading; try again in a few seconds")
        return self.info

    def ready(self) -> EngineInfo:
        """The same, but raises NotReady also while the engine is restarting."""
        info = self.loaded()
        if not self.engine.ready:
            raise NotReady("the engine is restarting; try again in a few seconds")
        return info
