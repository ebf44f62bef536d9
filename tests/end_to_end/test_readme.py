"""README's examples work as they are written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from manylora.loadgen.server_process import free_port, serving

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = '["item: apples", "unit: crates", "count: 12", "from: Oslo", "to: Bergen", "date: 14 March"]'
ANSWER = f'{{"tool": "move_stock", "args": {ARGUMENTS}}}'


def examples(language: str) -> list[str]:
    """The code blocks of README in one language; '' is the shell."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for written, block in blocks if written == language]


@pytest.fixture(scope="module")
def port(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the demo's acme adapter is served, as README says."""
    port, log = free_port(), tmp_path_factory.mktemp("readme") / "log"
    adapters = ROOT / "demo" / "adapters"
    command = [sys.executable, "-m", "manylora", "serve", str(smollm2), "--adapter", f"acme={adapters / 'acme'}"]
    command += ["--port", str(port), "--allow-runtime-adapters", "--adapter-root", str(adapters)]
    with serving(command, f"http://127.0.0.1:{port}", log):
        yield port


def test_the_python_example_prints_the_adapters_answer(port: int) -> None:
    """The official client against the real server, copied from README."""
    (example,) = examples("python")
    printed = subprocess.run(
        [sys.executable, "-c", example.replace(":8000", f":{port}")], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert printed.strip() == ANSWER


def test_the_curl_examples_answer(port: int) -> None:
    """The requests by curl, copied from README."""
    chat, load = [block for block in examples("") if block.startswith("curl ")]
    answer = shell(chat.replace(":8000", f":{port}"))
    assert json.loads(answer)["choices"][0]["message"]["content"] == ANSWER
    assert "Success" in shell(load.replace(":8000", f":{port}").replace("DIR/", ""))


def shell(command: str) -> str:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60).stdout
