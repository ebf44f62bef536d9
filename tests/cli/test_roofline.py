"""`manylora roofline` through the real command, on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from manylora.cli.roofline import enough_memory
from manylora.engine.checkpoint import open_checkpoint
from manylora.engine.image import arena_layout
from manylora.roofline.cost import ModelCosts, adapter_bytes
from manylora.roofline.loads import ClosedLoop
from manylora.types.model import ModelShape
from tests.checkpoint.tiny_models import save_tiny
from tests.checkpoint.tiny_tokenizers import save_tokenizer
from tests.engine.harness import write_lora


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Hugging Face folder."""
    folder = tmp_path_factory.mktemp("roofline") / "model"
    save_tiny("llama", folder)
    save_tokenizer(folder, vocab=96)
    return folder


def roofline(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "manylora", "roofline", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def figures(*options: object) -> dict[str, Any]:
    result = roofline(*options, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return dict(json.loads(result.stdout))


def test_a_load_is_run_and_compared(model: Path, tmp_path: Path) -> None:
    """Achieved and possible are of the same load, with the true bytes of the adapters that took part."""
    folder = write_lora(tmp_path / "a", open_checkpoint(model).shape, 3)
    load = ("--concurrency", 2, "--prompt", 8, "--output", 4, "--threads", 1, "--adapter", f"a={folder}")
    found = figures(model, *load)
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert found["load"] == {"concurrency": 2, "prompt": 8, "output": 4, "chunk": 512, "adapters": found["load"]["adapters"]}
    assert 0.5 * size < found["load"]["adapters"][0] < size  # the file has a header
    assert found["machine"]["threads"] == 1
    for name, limit in found["possible"].items():
        assert limit > 0, name
    for name in ("ttft", "tpot", "lone_ttft", "lone_tpot", "output_tokens_per_second"):
        assert found["achieved"][name] > 0, name
    assert found["achieved"]["output_tokens_per_second"] < found["possible"]["mixed_tokens_per_second"]
    assert found["achieved"]["lone_ttft"] > found["possible"]["lone_ttft"]


def test_answers_of_one_token(model: Path, tmp_path: Path) -> None:
    """They have no time between tokens; the adapter may be called what the base model is called elsewhere."""
    folder = write_lora(tmp_path / "a", open_checkpoint(model).shape, 3)
    load = ("--concurrency", 1, "--prompt", 8, "--output", 1, "--threads", 1, "--adapter", f"base={folder}")
    result = roofline(model, *load)
    assert (result.returncode, result.stderr) == (0, "")
    assert sum("—" in line for line in result.stdout.splitlines()) == 2
    achieved = figures(model, *load)["achieved"]
    assert achieved["tpot"] is achieved["lone_tpot"] is None
    assert achieved["ttft"] > 0


def test_the_server_can_hold_the_load() -> None:
    """Keys and values of every request at its full length and every adapter; a small load gets what `serve` takes by itself."""
    shape = ModelShape("llama", 49152, 576, 1536, 30, 9, 3, 64, 8192, 1e-5, 1e5)
    costs, size = ModelCosts(shape), adapter_bytes(shape, 16)
    layout = arena_layout(shape, enough_memory(costs, ClosedLoop(64, 4000, 100, 512, (size,) * 16)))
    assert layout.kv_tokens * costs.token_bytes > 64 * 4100 * costs.token_bytes + 16 * size
    assert enough_memory(costs, ClosedLoop(1, 8, 8, 512)) == 2 << 30


def test_a_floor_needs_no_server_and_no_adapters(model: Path) -> None:
    """What adapters would cost can be asked before any exists; int8 makes the weights smaller."""
    load = ("--floor-only", "--concurrency", 2, "--prompt", 8, "--output", 4)
    base, many = figures(model, *load), figures(model, *load, "--adapters", 5, "--rank", 4, "--targets", "q_proj,v_proj")
    assert base["achieved"] is None
    assert len(set(many["load"]["adapters"])) == 1
    assert (len(base["load"]["adapters"]), len(many["load"]["adapters"])) == (0, 5)
    small = figures(model, *load, "--quantization", "int8")
    assert small["model"]["layer_bytes"] < base["model"]["layer_bytes"]


def test_people_get_a_table(model: Path) -> None:
    """The machine's rates, the bytes, and a line for each limit."""
    result = roofline(model, "--floor-only", "--prompt", 8, "--output", 4)
    assert result.returncode == 0
    for part in ("GB/s", "GFLOP/s", "MB of weights", "output tokens/s", "in steps of their own", "first token of a lone prompt"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--adapters", 3), "--adapters has floors only: add --floor-only, or name real ones with --adapter NAME=PATH alone"),
        (("--rank", 8), "--rank and --targets say what --adapters are like: add --adapters N, or leave them out"),
        (("--adapter", "a=/nowhere", "--targets", "q_proj"), "--rank and --targets say what --adapters are like"),
        (("--floor-only", "--memory", "1GiB"), "--memory is the server's, and --floor-only starts none"),
        (("--memory", "much"), "'much' is not a size"),
        (("--quantization", "int4"), "quantization must be none or int8, not int4"),
        (("--output", 10**6), "exceed the model's 128 positions: lower one"),
        (("--floor-only", "--adapters", 1, "--targets", "q_proj,w_proj"), "--targets q_proj,w_proj: name each of q_proj, k_proj"),
        (("--adapter", "a"), "--adapter a: write it as NAME=PATH"),
        (("--adapter", "a=/nowhere"), "/nowhere"),
    ],
)
def test_what_makes_no_sense_is_one_line(model: Path, options: tuple[object, ...], line: str) -> None:
    """Before anything is probed, with what to do instead."""
    result = roofline(model, "--prompt", 8, "--output", 4, *options)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("manylora: ")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
