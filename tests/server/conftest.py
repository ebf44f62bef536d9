"""A live server with two adapters, one per module, reset before each test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from manylora.server.config import ServerConfig
from manylora.server.logs import configure_logs

from .live import REPLY, Live, fixed_reply, serve


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """The server's own log settings, at their most talkative."""
    configure_logs("debug")


def write_adapter(folder: Path, rank: int) -> Path:
    """A folder that the scripted engine takes for an adapter; its content depends on `rank`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return folder


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder allowed as adapter root, with adapters in it, and one beside it that is not allowed."""
    top = tmp_path_factory.mktemp("adapters")
    for rank, name in enumerate(("acme", "zeta", "late"), start=4):
        write_adapter(top / "allowed" / name, rank)
    write_adapter(top / "outside" / "secret", 99)
    (top / "allowed" / "link").symlink_to(top / "outside" / "secret")
    (top / "allowed" / "broken").mkdir()
    return top


@pytest.fixture(scope="module")
def module_server(roots: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    config = ServerConfig(
        served_model_names=("tiny", "tiny-alias"),
        allow_runtime_adapters=True,
        adapter_roots=(roots / "allowed",),
        max_body_bytes=200_000,
        max_sequences=64,
    )
    with serve(tmp_path_factory.mktemp("tiny-model"), config) as live:
        for name in ("acme", "zeta"):
            live.call(lambda name=name: live.service.lifecycle.load(name, roots / "allowed" / name))
        yield live


@pytest.fixture
def live(module_server: Live) -> Iterator[Live]:
    """The module's server with a clean engine; afterwards nothing may be left running."""
    engine = module_server.engine

    def reset() -> None:
        engine.reply, engine.fault, engine.pause_after = fixed_reply(REPLY), None, None
        engine.seen.clear()
        engine.aborted.clear()
        engine.go.clear()
        engine.revive()

    module_server.call(reset)
    yield module_server
    module_server.call(engine.go.set)
    module_server.wait_until(lambda: not engine.running)
