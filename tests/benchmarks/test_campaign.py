"""A whole campaign on a real server, small."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import checkpoints
from benchmarks.campaign import Campaign
from benchmarks.cases import Case
from benchmarks.checkpoints import Checkpoints
from benchmarks.engine import Running
from benchmarks.loads import Ask, asks
from benchmarks.ours import Ours
from benchmarks.random_model import LLAMA_1B, write_model
from benchmarks.results import Results
from benchmarks.tables import speed_page
from manylora.loadgen.client import LoadRequest, LoadResult

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
    """Of the products of both layers."""
    attention, mlp = 96 * 128 + 2 * 96 * 64 + 128 * 96, 3 * 96 * 64
    return 2 * (attention + mlp)


class Scripted:
    """An engine that answers at once and tells what it was asked. It cannot do int8; each set of projections is a start."""

    version, manner, repeats = "1", "", 1

    def __init__(self, name: str, told: list[tuple[str, int, list[Ask]]]) -> None:
        self.name = name
        self._told = told
        self._starts = 0

    def refusal(self, case: Case) -> str | None:
        return "no int8" if case.quantization == "int8" else None

    def start(self, case: Case) -> str:
        return case.targets

    @contextlib.contextmanager
    def running(self, cases: Sequence[Case], checkpoints: Checkpoints, log: Path) -> Iterator[Running]:
        self._starts += 1

        def answer(requests: Sequence[Ask], concurrency: int) -> list[LoadResult]:
            self._told.append((self.name, self._starts, list(requests)))
            return [LoadResult(LoadRequest({}), 0.0, [1.0], output_tokens=ask.output, ended=2.0) for ask in requests]

        yield Running(answer, 0)


def test_engines_take_turns_and_shared_beginnings_are_warm(smollm2: Path, tmp_path: Path) -> None:
    """What drifts drifts for all; a prefix cache is filled right before it is measured; what an engine cannot do has a reason."""
    short, shared = Case(adapters=0, prompt=4), Case(adapters=2, prompt=4, system=8)
    cases = [short, shared, Case(adapters=0, quantization="int8"), Case(adapters=1, targets="qv", prompt=4)]
    told: list[tuple[str, int, list[Ask]]] = []
    engines = [Scripted("a", told), Scripted("b", told)]
    results = Results({}, {"a": "1", "b": "1"}, 2)
    keep = Checkpoints(tmp_path, smollm2)
    Campaign(cases, keep, results, lambda case: 4, lambda: None, Console(file=io.StringIO())).run(engines, rounds=2)
    order = [(name, start) for name, start, _ in told]
    assert list(dict.fromkeys(order)) == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3), ("b", 4), ("a", 3), ("a", 4)]
    assert [len(results.row(case, "a").samples) for case in cases] == [2, 2, 0, 2]
    assert results.row(cases[2], "b").reason == "no int8"
    place = next(place for place, (_, _, requests) in enumerate(told) if requests == asks(shared, 49152, 1, 4))
    warmed = {tuple(ask.prompt[:8]) for ask in told[place - 1][2]}
    assert warmed == {tuple(ask.prompt[:8]) for ask in told[place][2]}
    measured = [requests for _, _, requests in told if requests[0].output == short.output and len(requests[0].prompt) == 4]
    assert measured.count(asks(short, 49152, 1, 4)) == measured.count(asks(short, 49152, 2, 4)) == 2


def test_adapters_and_models_are_made_once(smollm2: Path, tmp_path: Path) -> None:
    """A second campaign finds what the first made, so that all engines and rounds get equal weights."""
    keep = Checkpoints(tmp_path, smollm2)
    first = (keep.adapter("smol", "r8-qv-3") / "adapter_model.safetensors").stat().st_mtime_ns
    assert (keep.adapter("smol", "r8-qv-3") / "adapter_model.safetensors").stat().st_mtime_ns == first
    assert keep.base("smol") == smollm2.resolve()
    assert keep.vocabulary("1b") == 128256
    assert checkpoints.SCRATCH.parts[0] == "build"
