"""One tiny real model with real adapters, and one server of it that most tests share.

Servers last as long as this package: other suites count the processes of the test run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from manylora.engine.checkpoint import open_checkpoint
from manylora.types.model import ModelShape
from tests.end_to_end.live_server import LiveServer, start, until
from tests.engine.harness import write_llama, write_lora
from tests.server.tiny_tokenizers import END, byte_level

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class World:
    """Folders on disk: a model, a root that runtime adapters may come from, and what lies outside of it."""

    model: Path
    shape: ModelShape
    root: Path
    outside: Path
    adapters: dict[str, Path]
    """Adapters that servers start with; they lie below `root`."""

    def options(self) -> list[object]:
        """What the shared server is started with."""
        named = [part for name, path in self.adapters.items() for part in ("--adapter", f"{name}={path}")]
        sizes = ["--threads", 1, "--memory", "64MiB", "--max-model-len", 4096]
        return [*named, *sizes, "--served-model-name", "base", "--allow-runtime-adapters", "--adapter-root", self.root]


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A random Llama with a byte-level tokenizer and a chat template, and adapters of several kinds for it."""
    top = tmp_path_factory.mktemp("end-to-end")
    model = write_llama(top / "tiny", vocab_size=byte_level().get_vocab_size(), max_position_embeddings=4096)
    byte_level().save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "chat_template": TEMPLATE}))
    shape, root, outside = open_checkpoint(model).shape, top / "root", top / "outside"
    write_lora(outside / "secret", shape, 4, seed=99)
    adapters = {
        "all4": write_lora(root / "all4", shape, 4, seed=1),
        "qv8": write_lora(root / "qv8", shape, 8, ["q_proj", "v_proj"], seed=2),
        "mlp3": write_lora(root / "mlp3", shape, 3, ["gate_proj", "up_proj", "down_proj"], seed=3, use_rslora=True),
        "mixed": write_lora(root / "mixed", shape, 5, seed=4, rank_pattern={"o_proj": 17, "k_proj": 1}),
    }
    return World(model, shape, root, outside, adapters)


@pytest.fixture(scope="package")
def shared_server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    log = tmp_path_factory.mktemp("shared-server") / "log"
    with start(world.model, log, *world.options()) as server:
        yield server
    assert "Traceback" not in log.read_text(), log.read_text()[-5000:]


@pytest.fixture
def server(shared_server: LiveServer, world: World) -> Iterator[LiveServer]:
    """The shared server; when the test ends it must be as it was: healthy, its own adapters, nothing running."""
    engine = shared_server.engine().pid
    yield shared_server
    for name in shared_server.names():
        if name not in ("base", *world.adapters):
            assert shared_server.unload(name).status_code == 200
    assert shared_server.http.get("/health").status_code == 200
    assert shared_server.names() == ["base", *world.adapters]
    assert shared_server.engine().pid == engine, "the engine died during the test"
    until(lambda: shared_server.fresh_metric("num_requests_running") == 0, "nothing is running")


@pytest.fixture
def own_server(world: World, tmp_path: Path) -> Iterator[LiveServer]:
    """A server of the test's own, to be hurt."""
    with start(world.model, tmp_path / "log", *world.options()) as server:
        yield server


@pytest.fixture(scope="package")
def smollm2_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The demo's base model with three random adapters."""
    top, shape = tmp_path_factory.mktemp("smollm2"), open_checkpoint(smollm2).shape
    folders = {
        "wide": write_lora(top / "wide", shape, 16, seed=1, lora_alpha=4),
        "narrow": write_lora(top / "narrow", shape, 4, ["q_proj", "v_proj"], seed=2),
        "deep": write_lora(top / "deep", shape, 8, ["down_proj"], seed=3, use_rslora=True, lora_alpha=4),
    }
    named = [part for name, path in folders.items() for part in ("--adapter", f"{name}={path}")]
    with start(
        smollm2, top / "log", *named, "--memory", "512MiB", "--max-model-len", 512, "--served-model-name", "base"
    ) as server:
        yield server
