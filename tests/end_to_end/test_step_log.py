"""The step log of a real server: where the time of its steps goes."""

from __future__ import annotations

import subprocess
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from manylora.errors import ConfigError
from manylora.metrics.step_log import StepRecord, read_step_log
from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import EventStream, command, completion, start, until

PARTS = ("messages", "scheduling", "base", "lora", "attention", "elementwise", "python", "sampling", "other")


def records(log: Path, steps: int) -> list[StepRecord]:
    """What the log holds once the engine, idle, has written so many steps."""
    until(lambda: log.exists() and log.read_bytes().count(b"\n") >= steps, f"{steps} steps are logged")
    return list(read_step_log(log))


@pytest.fixture(scope="module")
def logged(world: World, tmp_path_factory: pytest.TempPathFactory) -> list[StepRecord]:
    """5 tokens of the base after a prompt of 40, some rest, then 200 tokens of one adapter, during which another has 7, after
    prompts of 20."""
    folder = tmp_path_factory.mktemp("step-log")
    path = folder / "steps.jsonl"
    options = [*world.options(), "--step-log", path, "--threads", 2, "--no-prefix-cache"]
    with start(world.model, folder / "log", *options) as server:
        server.complete("base", list(range(40)), max_tokens=5)
        assert len(records(path, 5)) == 5
        with EventStream(server, completion("all4", list(range(20)), max_tokens=200)) as long:
            server.complete("qv8", list(range(20)), max_tokens=7)
            long.rest()
        return records(path, 5 + 200)


def test_records_tile_the_engines_time(logged: list[StepRecord]) -> None:
    """No nanosecond is lost or counted twice: parts add up to the step, steps and idle time to the engine's life."""
    for record in logged:
        times = {part: getattr(record, f"{part}_ns") for part in PARTS}
        assert sum(times.values()) == record.wall_ns
        assert all(time >= 0 for time in times.values()), times
    for before, after in pairwise(logged):
        assert after.end_ns == before.end_ns + after.idle_ns + after.wall_ns
    assert median((record.python_ns + record.other_ns) / record.wall_ns for record in logged) < 0.5, "hardly anything is named"


def test_records_say_what_a_step_did(logged: list[StepRecord]) -> None:
    """The counts are those of the plan: a prompt, then one row a token; contexts grow by one."""
    base = logged[:5]
    counts = [(r.prefill_tokens, r.decodes, r.rows, r.samples, r.sequences) for r in base]
    assert counts == [(40, 0, 40, 1, 1)] + [(0, 1, 1, 1, 1)] * 4
    assert [r.context_tokens for r in base] == [40 * 41 // 2, 41, 42, 43, 44]
    rest = logged[5:]
    assert sum(r.prefill_tokens for r in rest) == 2 * 20
    assert sum(r.samples for r in rest) == 200 + 7


def test_adapters_cost_only_the_steps_that_have_them(logged: list[StepRecord]) -> None:
    """Low-rank products take no time at all in a step without an adapter, and some in every step with one."""
    for record in logged:
        assert (record.lora_ns > 0) == (record.adapters > 0)
        assert record.base_ns > 0 < record.attention_ns
    assert {record.adapters for record in logged} == {0, 1, 2}


def test_rest_is_idle_time(logged: list[StepRecord]) -> None:
    """Waiting for a request is not a step's time; between the steps of a request nothing waits."""
    assert logged[0].idle_ns > 0 < logged[5].idle_ns
    assert all(record.idle_ns == 0 for record in logged[1:5])


def test_a_full_disk_ends_the_log_and_not_the_engine(world: World, tmp_path: Path) -> None:
    """Measuring never costs an answer: the fault is one line, said once."""
    log = tmp_path / "log"
    with start(world.model, log, *world.options(), "--step-log", "/dev/full") as server:
        first, again = server.answer("base"), server.answer("base")
        assert first == again
    text = log.read_text()
    assert text.count("step log /dev/full ends here: No space left on device") == 1
    assert "Traceback" not in text


def test_a_log_that_cannot_be_written_stops_the_start(world: World, tmp_path: Path) -> None:
    """One line names the option and the file, before requests are taken."""
    path = tmp_path / "nowhere" / "steps.jsonl"
    result = subprocess.run(command(world.model, "--step-log", path, "--port", 0), capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    line = f"manylora: --step-log {path}: cannot be written: No such file or directory; name another file"
    assert result.stderr.splitlines() == [line]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    """Whoever reads a damaged log learns where."""
    path = tmp_path / "steps.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match=r"steps\.jsonl: line 1 is no step record: .*end_ns"):
        list(read_step_log(path))
