"""How a server starts, fails to start, and ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from manylora import kernels
from manylora.loadgen.server_process import free_port
from tests.end_to_end.broken_adapters import broken
from tests.end_to_end.conftest import World
from tests.end_to_end.live_server import PATIENCE, EventStream, LiveServer, command, completion, in_background, said, start, until
from tests.end_to_end.test_engine_death import gone

SIGNALS = [signal.SIGINT, signal.SIGTERM]
SMALL = ("--threads", 1, "--memory", "64MiB", "--max-model-len", 1024)


def end(server: LiveServer, number: signal.Signals) -> int:
    """Sends the signal; the exit code, once every process of the server has ended."""
    process, children = psutil.Process(server.pid), server.children()
    process.send_signal(number)
    code = process.wait(PATIENCE)
    until(lambda: gone(children), "the children end")
    return int(code)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_an_idle_server(world: World, tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT and SIGTERM are ordinary ends: exit code 0, no traceback, no process."""
    with start(world.model, tmp_path / "log", *world.options()) as server:
        assert end(server, number) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(("number", "hung"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_ends_a_server_at_work(world: World, tmp_path: Path, number: signal.Signals, hung: bool) -> None:
    """Answers under way get some seconds; what cannot end in them, even because the engine hangs, ends with an error event.
    Exit code 0, no process, no traceback."""
    body = completion("all4", n=64, max_tokens=4000, temperature=1, logprobs=None)
    with start(world.model, tmp_path / "log", *world.options()) as server, EventStream(server, body) as stream:
        if hung:
            server.engine().suspend()
        reading = in_background(stream.rest)
        assert end(server, number) == 0
        assert "error" in reading()[-1]
        assert not stream.done
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_signal_lets_short_answers_end(world: World, tmp_path: Path) -> None:
    """What ends within the seconds of grace is answered whole."""
    with start(world.model, tmp_path / "log", *world.options()) as server:
        expected = server.answer("all4", max_tokens=300, logprobs=None)["text"]
        with EventStream(server, completion("all4", max_tokens=300, logprobs=None)) as stream:
            os.kill(server.pid, signal.SIGTERM)
            assert stream.text() == expected
            assert stream.done
        assert psutil.Process(server.pid).wait(PATIENCE) == 0


@contextlib.contextmanager
def starting(world: World) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A server in a session of its own, and its engine, which has just been started."""
    with subprocess.Popen(
        command(world.model, "--port", 0, *world.options()), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            until(lambda: len(psutil.Process(process.pid).children()) == 1, "the engine is started")
            yield process, psutil.Process(process.pid).children()[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_signal_ends_a_server_that_is_still_loading(world: World) -> None:
    """An operator who changes their mind waits for nothing and sees no traceback."""
    with starting(world) as (process, engine):
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        assert "Traceback" not in output
        until(lambda: gone([engine]), "the engine ends")


def test_ctrl_c_while_loading_is_quiet(world: World) -> None:
    """Ctrl-C reaches every process of the terminal's group, at any moment of their lives: no traceback, exit code 0."""
    outputs = []
    for seconds in (0.0, 0.1, 0.4):
        with starting(world) as (process, _):
            time.sleep(seconds)  # no sign tells how far the interpreter of the engine has come
            os.killpg(process.pid, signal.SIGINT)
            outputs.append(process.communicate(timeout=PATIENCE)[0])
            assert process.returncode == 0
    assert not [output for output in outputs if "Traceback" in output or "KeyboardInterrupt" in output]


def test_an_engine_that_dies_while_loading_is_reported(world: World) -> None:
    """A first start that fails is the end: exit code 1 and one line, no endless restart."""
    with starting(world) as (process, engine):
        engine.kill()
        output, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert output.startswith("manylora: the engine process ended while starting")
        assert output.count("\n") == 1


def refused(model: Path, *options: object, **environment: str) -> str:
    """Starts a server that must refuse to start: exit code 1, one line, no process left. The line."""
    process = subprocess.Popen(
        command(model, *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise AssertionError(f"the server did not refuse to start:\n{output}") from None
    _nothing_left_of(process.pid)
    assert process.returncode == 1, output
    lines = [line for line in output.splitlines() if line.startswith("manylora: ")]
    assert len(lines) == 1, output
    assert "Traceback" not in output
    assert output.splitlines()[-1] == lines[0]
    return lines[0]


def _nothing_left_of(group: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline, "processes of the refused server are left"
        time.sleep(0.02)


def test_a_port_in_use_is_named(world: World) -> None:
    """One line that names the port and the option, before anything slow begins."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(world.model, "--port", port, *SMALL)
    assert str(port) in line
    assert "--port" in line


@pytest.mark.parametrize("what", ["truncated weights", "DoRA", "names of another model (vllm#34186)"])
def test_a_broken_adapter_at_start_is_named(world: World, tmp_path: Path, what: str) -> None:
    """The server does not start without an adapter that it was asked to serve, and says which and why."""
    reason = broken(world.adapters["all4"], tmp_path / "broken", what)
    good = f"good={world.adapters['qv8']}"
    line = refused(world.model, "--port", free_port(), "--adapter", good, "--adapter", f"acme={tmp_path / 'broken'}", *SMALL)
    assert "acme" in line
    assert reason in line


def test_options_that_make_no_sense_are_named(world: World, tmp_path: Path) -> None:
    """A folder that is not there, a name given twice, an adapter without a path, a root that is missing: one line each."""
    good = world.adapters["qv8"]
    port = ("--port", free_port())
    assert "acme" in refused(world.model, "--adapter", f"acme={tmp_path / 'missing'}", *port, *SMALL)
    assert "twice" in refused(world.model, "--adapter", f"a={good}", "--adapter", f"a={good}", *port, *SMALL)
    assert "NAME=PATH" in refused(world.model, "--adapter", str(good), *port, *SMALL)
    assert "--adapter-root" in refused(world.model, "--allow-runtime-adapters", *port, *SMALL)
    assert "--memory" in refused(world.model, "--memory", "1KiB", *port)


def test_a_model_that_cannot_be_read_is_named(world: World, tmp_path: Path) -> None:
    """No folder, an empty one, a truncated one: one line that names it."""
    port = ("--port", free_port())
    assert "missing" in refused(tmp_path / "missing", *port, *SMALL)
    (tmp_path / "empty").mkdir()
    assert "empty" in refused(tmp_path / "empty", *port, *SMALL)
    shutil.copytree(world.model, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:10_000])
    assert "model.safetensors" in refused(tmp_path / "cut", *port, *SMALL)


def test_an_unknown_instruction_set_is_named(world: World) -> None:
    """MANYLORA_ISA that means nothing is refused, naming what there is."""
    line = refused(world.model, "--port", free_port(), *SMALL, MANYLORA_ISA="nonsense")
    assert "MANYLORA_ISA" in line
    assert "nonsense" in line
    assert "scalar" in line


@pytest.mark.parametrize("capability", kernels.capabilities())
def test_every_instruction_set_serves(
    world: World, server: LiveServer, tmp_path: Path, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MANYLORA_ISA chooses the kernels; each scores a prompt as the default does, up to rounding, with adapters too."""
    monkeypatch.setenv("MANYLORA_ISA", capability)
    scoring = {"prompt": list(range(20, 60)), "echo": True, "max_tokens": 0}
    with start(world.model, tmp_path / "log", *world.options()) as other:
        for model in ("base", "all4", "mixed"):
            expected = server.answer(model, **scoring)["logprobs"]["token_logprobs"][1:]
            found = other.answer(model, **scoring)["logprobs"]["token_logprobs"][1:]
            assert found == pytest.approx(expected, abs=0.1)
            assert len(set(found)) > 20


def test_a_merged_adapter_is_served_alone(world: World, server: LiveServer, tmp_path: Path) -> None:
    """--merge serves the adapter's answers, up to rounding, under its name, and nothing else under any."""
    scoring = {"prompt": list(range(20, 60)), "echo": True, "max_tokens": 0}
    named = ("--adapter", f"mixed={world.adapters['mixed']}", "--merge", "mixed")
    with start(world.model, tmp_path / "log", *named, *SMALL) as merged:
        assert merged.names() == ["mixed"]
        found = merged.answer("mixed", **scoring)["logprobs"]["token_logprobs"][1:]
        assert found == pytest.approx(server.answer("mixed", **scoring)["logprobs"]["token_logprobs"][1:], abs=0.1)
        assert merged.post("/v1/completions", completion("base")).status_code == 404
        assert merged.load("late", world.adapters["all4"]).status_code == 404


def test_more_than_may_wait_is_refused(world: World, tmp_path: Path) -> None:
    """Past --max-waiting: 429 and when to come back, at once; the others are answered, each right."""
    with start(world.model, tmp_path / "log", *world.options(), "--max-num-seqs", 1, "--max-waiting", 2) as server:
        expected = server.answer("all4")
        with server.engine_paused():
            asking = [in_background(lambda: server.post("/v1/completions", completion("all4"))) for _ in range(10)]
            until(lambda: server.metric("request_prompt_tokens_count", model_name="all4") == 11, "all are accepted")
        responses = [ask() for ask in asking]
        served = [said(response.json()["choices"][0]) for response in responses if response.status_code == 200]
        refused = [response for response in responses if response.status_code != 200]
        assert served == [expected] * len(served)
        assert len(served) >= 2
        assert refused
        for response in refused:
            assert response.status_code == 429
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["error"]["code"] == "overloaded"
        assert server.answer("all4") == expected
