"""A whole campaign on a real server, small."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from benchmarks import checkpoints
from benchmarks.campaign import Campaign
from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.ours import Ours
from benchmarks.random_model import LLAMA_1B, write_model
from benchmarks.results import Results
from benchmarks.tables import speed_page

TINY = LLAMA_1B | {
    "vocab_size": 49408,
    "hidden_size": 96,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
"""Query heads are wider together than the hidden size, and the vocabulary is larger than the tokenizer's."""


def test_two_adapters_of_a_random_model_on_our_server(smollm2: Path, tmp_path: Path) -> None:
    """A random model and its adapters are served; every answer has the asked length, a limit beside it, and is written down."""
    model = write_model(tmp_path / "tiny", TINY, smollm2)
    cases = [Case(adapters=2, ranks=(8, 16), concurrency=2, prompt=16, output=4), Case(adapters=0, prompt=16, isa="nonsense")]
    ours = Ours(memory_gib={"smol": 1})
    ours.repeats = 1
    results = Results({"date": "", "cpu": "", "cpus": 2, "isa": "", "commit": ""}, {ours.name: ours.version}, 1)
    said = io.StringIO()
    keep = Checkpoints(tmp_path / "scratch", model)
    Campaign(cases, keep, results, lambda case: 4, lambda: None, Console(file=said)).run([ours], rounds=1)
    row, broken = results.row(cases[0], ours.name), results.row(cases[1], ours.name)
    assert not row.reason, said.getvalue()
    assert len(row.samples) == len(row.limits) == len(row.probes) == 1
    assert 0 < row.samples[0].throughput < row.limits[0].throughput
    assert "MANYLORA_ISA=nonsense" in broken.reason
    assert broken.reason in said.getvalue()
    (memory,) = results.memory.values()
    assert memory.peak > memory.weights == 2 * (2 * 49408 * 96 + layer_elements())
    assert cases[0].name in speed_page(results)


def layer_elements() -> int:
    """Of both layers and the last norm."""
    attention, mlp = 96 * 128 + 2 * 96 * 64 + 128 * 96, 3 * 96 * 64
    return 2 * (attention + mlp + 2 * 96) + 96


def test_adapters_and_models_are_made_once(smollm2: Path, tmp_path: Path) -> None:
    """A second campaign finds what the first made, so that all engines and rounds get equal weights."""
    keep = Checkpoints(tmp_path, smollm2)
    first = (keep.adapter("smol", "r8-qv-3") / "adapter_model.safetensors").stat().st_mtime_ns
    assert (keep.adapter("smol", "r8-qv-3") / "adapter_model.safetensors").stat().st_mtime_ns == first
    assert keep.base("smol") == smollm2.resolve()
    assert keep.vocabulary("1b") == 128256
    assert checkpoints.SCRATCH.parts[0] == "build"
